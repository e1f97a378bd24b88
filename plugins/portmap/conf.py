"""The configuration of `portmap`."""

from collections.abc import Iterator
from dataclasses import dataclass

from spec.addresses import parse_ip
from spec.config import Section
from spec.errors import CNIError, Code

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_BACKENDS = ("", "iptables", "nftables")
_HIGHEST_PORT = 65535


@dataclass(frozen=True)
class Mapping:
    """A port of the node and the pod's port it is forwarded to; `protocol` is the transport protocol's number.

    `host`: the node's address it is limited to, packed, or b"" for all; `versions`: the IP versions it applies to.
    """

    host: bytes
    versions: tuple[int, ...]
    protocol: int
    host_port: int
    container_port: int


@dataclass(frozen=True)
class PortmapConf:
    """The mappings, the words of the conditions by IP version, and whether connections are masqueraded."""

    mappings: tuple[Mapping, ...]
    conditions: dict[int, tuple[str, ...]]
    snat: bool
    masquerade_all: bool


def parse(section: Section) -> PortmapConf:
    """Read the keys. Raises CNIError 7. Conditions are only read if there are ports they could apply to."""
    section.string("backend", choices=_BACKENDS)
    bit = section.integer("markMasqBit", None, low=0, high=31)
    if section.string("externalSetMarkChain") and bit is not None:
        message = "Cannot specify externalSetMarkChain and markMasqBit"
        raise CNIError(Code.INVALID_NETWORK_CONFIG, message, 'give only one of "externalSetMarkChain", "markMasqBit"')
    conf = PortmapConf(
        mappings=tuple(_distinct(section)),
        conditions={version: section.strings(f"conditionsV{version}") or () for version in (4, 6)},
        snat=section.boolean("snat", default=True),
        masquerade_all=section.boolean("masqAll"),
    )
    if conf.mappings and any(conf.conditions.values()):
        _check_conditions(section, conf)
    return conf


def mappings_if_valid(section: Section) -> tuple[Mapping, ...]:
    """The mappings, for a DEL: () if they are invalid."""
    try:
        return tuple(_distinct(section))
    except CNIError:
        return ()


def _distinct(section: Section) -> Iterator[Mapping]:
    """The mappings without duplicates. Raises CNIError 7 if a port would be forwarded to two destinations."""
    seen: dict[tuple, Mapping] = {}
    entries = section.section("runtimeConfig").sections("portMappings") or ()
    for entry in entries:
        mapping = _mapping(entry)
        for version in mapping.versions:
            key = (version, mapping.host, mapping.protocol, mapping.host_port)
            other = seen.setdefault(key, mapping)
            if other.container_port != mapping.container_port:
                expected = f"a port that is not already forwarded to containerPort {other.container_port}"
                raise entry.error("hostPort", expected)
    yield from dict.fromkeys(seen.values())


def _mapping(entry: Section) -> Mapping:
    given = entry.string("protocol")
    protocol = PROTOCOLS.get(given.lower())
    if protocol is None:
        raise entry.error("protocol", 'one of "tcp", "udp", "sctp"')
    host, versions = _host(entry)
    ports = {}
    for key in ("hostPort", "containerPort"):
        if not entry.has(key):
            raise entry.error(key, f"an integer of 1 to {_HIGHEST_PORT}")
        ports[key] = entry.integer(key, low=1, high=_HIGHEST_PORT)
    return Mapping(host, versions, protocol, ports["hostPort"], ports["containerPort"])


def _host(entry: Section) -> tuple[bytes, tuple[int, ...]]:
    """hostIP, packed, b"" for all addresses, and the IP versions that it allows."""
    text = entry.string("hostIP")
    if not text:
        return b"", (4, 6)
    try:
        address = parse_ip(text)
    except ValueError:
        raise entry.error("hostIP", "an IP address") from None
    return (address.packed if address.number else b""), (address.version,)


def _check_conditions(section: Section, conf: PortmapConf) -> None:
    from rules.conditions.parsing import SUPPORTED, parse

    for version, words in conf.conditions.items():
        try:
            parse(words, version)
        except ValueError as error:
            raise section.error(f"conditionsV{version}", f"{SUPPORTED}; not understood: {error}") from None
