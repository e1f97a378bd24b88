"""The `routes` of an IPAM configuration, which are the same in host-local and static."""

from collections.abc import Callable

from spec.addresses import canonical_cidr, canonical_ip, is_unspecified, network_of, why_no_gateway
from spec.config import Section, require_at_most
from spec.result import Route

_UINT32 = 2**32 - 1
_MOST = 4096


def parse_routes(ipam: Section) -> tuple[Route, ...]:
    """The routes of the result, with every attribute of CNI 1.1.0. Raises CNIError 7.

    Host bits of a destination are cleared, as the kernel does for IPv6.
    """
    require_at_most(ipam, "routes", _MOST, "routes")
    return tuple(_parse_route(section) for section in ipam.sections("routes") or ())


def _parse_route(section: Section) -> Route:
    gateway = section.string("gw")
    return Route(
        dst=network_of(_canonical(section, "dst", canonical_cidr, 'a network like "10.9.0.0/16"')),
        gw=_next_hop(section) if gateway else "",
        mtu=section.integer("mtu", 0, low=0, high=_UINT32),
        advmss=section.integer("advmss", 0, low=0, high=_UINT32),
        priority=section.integer("priority", 0, low=0, high=_UINT32),
        table=section.integer("table", None, low=0, high=_UINT32),
        scope=section.integer("scope", None, low=0, high=255),
    )


def _next_hop(section: Section) -> str:
    """An address that a router can have, or the unspecified address, which means "on the link"."""
    address = _canonical(section, "gw", canonical_ip, "an address")
    if not is_unspecified(address) and (why := why_no_gateway(address)):
        raise section.error("gw", f"an address that a router can have, not {why}")
    return address


def _canonical(section: Section, key: str, read: Callable[[str], str], expected: str) -> str:
    try:
        return read(section.string(key))
    except ValueError as error:
        raise section.error(key, expected) from error
