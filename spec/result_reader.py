"""Reads results of any version, from prevResult or a delegated plugin's stdout, as 1.1.0."""

from collections.abc import Callable, Mapping

from spec.addresses import canonical_cidr, canonical_ip, is_ipv6
from spec.config import Section, read_dns
from spec.result import DNS, Interface, IPConfig, Result, Route
from spec.versions import FAMILIES, family

_UINT32 = 2**32 - 1
_SCOPES = 255


def read_result(raw: "Mapping[str, object] | Section", version: str) -> Result:
    """See `Result.parse`."""
    section = raw if isinstance(raw, Section) else Section(raw)
    if family(version) == FAMILIES[0]:
        return _read_by_family(section)
    return Result(
        interfaces=tuple(_read_interface(item) for item in section.sections("interfaces") or ()),
        ips=tuple(_read_ip(item) for item in section.sections("ips") or ()),
        routes=tuple(_read_route(item) for item in section.sections("routes") or ()),
        dns=_read_dns(section),
    )


def _read_by_family(section: Section) -> Result:
    """0.1.0 and 0.2.0: at most one address of each family, with its routes."""
    blocks = [section.section(key) for key in ("ip4", "ip6") if section.has(key)]
    ips = tuple(IPConfig(_cidr(block, "ip"), gateway=_ip(block, "gateway")) for block in blocks)
    for block, ip in zip(blocks, ips, strict=True):
        if is_ipv6(ip.address) is not block.path.endswith("ip6"):
            # Of two addresses of one family, the next conversion to this version would drop one.
            raise block.error("ip", f"an address of {'IPv6' if block.path.endswith('ip6') else 'IPv4'}")
    return Result(
        ips=ips,
        routes=tuple(_read_route(item) for block in blocks for item in block.sections("routes") or ()),
        dns=_read_dns(section),
    )


def _read_interface(section: Section) -> Interface:
    return Interface(
        name=section.string("name"),
        mac=section.string("mac"),
        sandbox=section.string("sandbox"),
        mtu=section.integer("mtu", low=0, high=_UINT32),
        socket_path=section.string("socketPath"),
        pci_id=section.string("pciID"),
    )


def _read_ip(section: Section) -> IPConfig:
    # libcni before 0.6 wrote -1 if there was no interface.
    index = section.integer("interface", None, low=-1, high=_UINT32)
    return IPConfig(_cidr(section, "address"), _ip(section, "gateway"), None if index == -1 else index)


def _read_route(section: Section) -> Route:
    return Route(
        dst=_cidr(section, "dst"),
        gw=_ip(section, "gw"),
        mtu=section.integer("mtu", low=0, high=_UINT32),
        advmss=section.integer("advmss", low=0, high=_UINT32),
        priority=section.integer("priority", low=0, high=_UINT32),
        table=section.integer("table", None, low=0, high=_UINT32),
        scope=section.integer("scope", None, low=0, high=_SCOPES),
    )


def _read_dns(section: Section) -> DNS:
    return read_dns(section.section("dns"))


def _cidr(section: Section, key: str) -> str:
    return _canonical(section, key, canonical_cidr, 'an address with its prefix length, like "10.1.2.3/24"')


def _ip(section: Section, key: str) -> str:
    return _canonical(section, key, canonical_ip, "an IP address") if section.string(key) else ""


def _canonical(section: Section, key: str, read: Callable[[str], str], expected: str) -> str:
    try:
        return read(section.string(key))
    except ValueError:
        raise section.error(key, expected) from None
