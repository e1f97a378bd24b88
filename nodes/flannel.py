"""flannel's records of nodes, and its configuration of a network, as flannel v0.28 reads and writes them. Pure.

In etcd the key of a record has the node's subnets ("10.244.1.0-24", "10.244.1.0-24&fd00:244:0:1::-64"), its value the
rest. In Kubernetes the Node has the subnets, and annotations have the rest. flannel has a second tunnel for IPv6;
slash24 has one for both, and announces its MAC twice: by this its records are told from flannel's.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from linux.rtnl.vxlan import vtep_mac
from plugins.mac import normal_mac
from plugins.node.records import Node
from spec import jsontext
from spec.addresses import Address, canonical_ip, is_ipv6, parse_address, parse_cidr
from spec.config import Section, abbreviated
from spec.errors import CNIError

VXLAN = "vxlan"
ANNOTATIONS = ("kube-subnet-manager", "backend-type", "backend-data", "public-ip", "backend-v6-data", "public-ipv6")
"""What flannel writes into a Node, without its prefix."""

OVERWRITES = ("public-ip-overwrite", "public-ipv6-overwrite")
"""Annotations by which an operator sets a node's addresses, without the prefix."""

PORT = 8472  # the kernel's default, which flannel leaves as it is
_VNI, _MOST_VNI = 1, (1 << 24) - 1
_LONGEST = 16 << 10  # bytes of a record or a configuration
_KEY = re.compile(r"([0-9.]{7,15}-[0-9]{1,2})(?:&([0-9a-f:]{2,39}-[0-9]{1,3}))?", re.ASCII)
_DATA, _PUBLIC = ("backend-data", "backend-v6-data"), ("public-ip", "public-ipv6")
_MOST_PREFIX = {4: 30, 6: 126}


@dataclass(frozen=True)
class NetConf:
    """flannel's configuration of a network with the backend vxlan: of each family the network, and a subnet's length.

    `outside`: networks that are inside of them, but no node's subnet. `vni`, `port` of the tunnel.
    """

    networks: tuple[str, ...]
    lengths: tuple[int, ...]
    outside: tuple[str, ...]
    vni: int
    port: int

    def fits(self, subnets: tuple[str, ...]) -> bool:
        """Whether these are subnets of this network, one of each family."""
        found = list(map(parse_cidr, subnets))
        networks, outside = list(map(parse_cidr, self.networks)), list(map(parse_cidr, self.outside))
        return [(each.version, each.prefix) for each in found] == [
            (network.version, length) for network, length in zip(networks, self.lengths, strict=True)
        ] and all(
            network.contains(each) and not any(map(each.overlaps, outside))
            for network, each in zip(networks, found, strict=True)
        )


def read_net_conf(text: bytes) -> NetConf:
    """Read flannel's configuration. Raises ValueError with a sentence."""
    section = _section(text)
    with _sentences():
        backend = section.section("Backend")
        kind = backend.string("Type", "udp")
        if kind != VXLAN:
            raise ValueError(f'the backend is "{kind}", but slash24 can only join "{VXLAN}"')
        if not section.boolean("EnableIPv4", default=True):
            raise ValueError('"EnableIPv4" is false, but slash24 can only join networks with IPv4')
        families = [_family(section, "", 22, 24)]
        if section.boolean("EnableIPv6"):
            families.append(_family(section, "IPv6", 62, 64))
        vni = backend.integer("VNI", _VNI, low=0, high=_MOST_VNI)
        port = backend.integer("Port", 0, low=0, high=65535) or PORT
    networks, lengths, outside = zip(*families, strict=True)
    flat = tuple(network for each in outside for network in each)
    return NetConf(tuple(network.cidr for network in networks), lengths, flat, vni, port)


def key_of(subnets: tuple[str, ...]) -> str:
    """The key of a record in etcd, from an IPv4 subnet and perhaps one of IPv6."""
    return "&".join(subnet.replace("/", "-") for subnet in sorted(subnets, key=is_ipv6))


def subnets_of(key: str) -> tuple[str, ...]:
    """The subnets that a key names. Raises ValueError."""
    match = _KEY.fullmatch(key)
    if match is None:
        raise ValueError(f"{abbreviated(key)} is not a key like 10.244.1.0-24")
    return tuple(parse_cidr(part.replace("-", "/")).network.cidr for part in match.groups() if part)


def read_lease(key: str, value: bytes) -> Node:
    """The record in etcd; it has no name. Raises ValueError with a sentence."""
    subnets, section = subnets_of(key), _section(value)
    with _sentences():
        return _node(
            subnets,
            section.string("BackendType"),
            (section.string("PublicIP"), section.string("PublicIPv6")),
            (section.section("BackendData"), section.section("BackendV6Data")),
        )


def write_lease(node: Node, vni: int) -> bytes:
    """The value of a record in etcd, byte for byte as flannel's. Raises ValueError if it lacks an address."""
    four, six = _public_addresses(node)
    value = {"PublicIP": four, "PublicIPv6": six or None, "BackendType": VXLAN, "BackendData": _backend(node, vni)}
    if six:
        value["BackendV6Data"] = _backend(node, vni)
    return _compact(value)


def write_reservation(address: str) -> bytes:
    """The value of a record that reserves a subnet for the node with that address; flannel's nodes ignore it."""
    return _compact({"PublicIP": address, "PublicIPv6": None})


def public_address(value: bytes) -> str:
    """The IPv4 address by which flannel tells whose lease it is; "" if there is none."""
    try:
        return canonical_ip(_section(value).string("PublicIP"))
    except (ValueError, CNIError):
        return ""


def read_annotations(annotations: Mapping[str, str], subnets: tuple[str, ...]) -> Node:
    """The record of a Node, from its ANNOTATIONS ("" if absent); it has no name. Raises ValueError with a sentence."""
    if annotations["kube-subnet-manager"] != "true":
        raise ValueError("it has no annotations of flannel yet")
    four, six = (_section((annotations[key] or "{}").encode(errors="replace")) for key in _DATA)
    public, public6 = (annotations[key] for key in _PUBLIC)
    with _sentences():
        return _node(subnets, annotations["backend-type"], (public, public6), (four, six))


def write_annotations(node: Node, vni: int) -> dict[str, str]:
    """The annotations of a Node, without flannel's prefix. Raises ValueError if it lacks an address."""
    four, six = _public_addresses(node)
    data = _compact(_backend(node, vni)).decode()
    found = {"kube-subnet-manager": "true", "backend-type": VXLAN, "backend-data": data, "public-ip": four}
    return found | ({"backend-v6-data": data, "public-ipv6": six} if six else {})


def _node(subnets: tuple[str, ...], backend: str, public: tuple[str, str], data: tuple[Section, Section]) -> Node:
    if backend != VXLAN:
        raise ValueError(f'its backend is "{backend}", not "{VXLAN}"' if backend else "it has no backend yet")
    mac, mac6 = (normal_mac(each.string("VtepMAC")) for each in data)
    if not mac:
        raise ValueError(f'"VtepMAC": expected a unicast MAC address, got {abbreviated(data[0].raw("VtepMAC"))}')
    addresses = tuple(canonical_ip(each) for each in public if each)
    if not addresses or is_ipv6(addresses[0]):
        raise ValueError("it has no IPv4 address")
    # What is for flannel's second tunnel cannot be reached through ours.
    reached = subnets if mac6 == mac else tuple(subnet for subnet in subnets if not is_ipv6(subnet))
    return Node("", addresses, reached, mac, vni=data[0].integer("VNI", _VNI, low=0, high=_MOST_VNI))


def _backend(node: Node, vni: int) -> dict[str, object]:
    """flannel's own reader of annotations relies on this order."""
    return {"VNI": vni, "VtepMAC": node.vtep_mac or vtep_mac(node.subnets)}


def _public_addresses(node: Node) -> tuple[str, str]:
    """The IPv4 address, and the IPv6 address if the node has a subnet of IPv6. Raises ValueError."""
    found = {is_ipv6(address): address for address in reversed(node.addresses)}
    needed = {False, *map(is_ipv6, node.subnets)}
    for is_six in needed - found.keys():
        raise ValueError(f"flannel needs an address of IPv{6 if is_six else 4}, and this node has none")
    return found[False], found[True] if True in needed else ""


def _family(section: Section, prefix: str, widest: int, default: int) -> tuple[Address, int, tuple[str, ...]]:
    """The network of a family, the length of its subnets, and what is outside of SubnetMin to SubnetMax."""
    version = 6 if prefix else 4
    text = section.string(f"{prefix}Network")
    network = parse_cidr(text).network
    length = section.integer(f"{prefix}SubnetLen", 0, low=0, high=_MOST_PREFIX[version])
    length = length or (default if network.prefix <= widest else network.prefix + 2)
    if network.version != version or not network.prefix + 2 <= length <= _MOST_PREFIX[version]:
        raise ValueError(f'"{prefix}Network": {text} has no room for four subnets of /{length}')
    size = 1 << (network.bits - length)
    first = _bound(section, f"{prefix}SubnetMin", network, network.first + size, size)
    last = _bound(section, f"{prefix}SubnetMax", network, network.last + 1 - size, size)
    outside = [*_cover(network, network.first, first), *_cover(network, last + size, network.last + 1)]
    return network, length, tuple(each.cidr for each in outside)


def _bound(section: Section, key: str, network: Address, default: int, size: int) -> int:
    text = section.string(key)
    bound = parse_address(text) if text else Address(network.version, default, network.bits)
    if not network.contains(bound) or (bound.number - network.first) % size:
        raise ValueError(f'"{key}": {text} is not the first address of a subnet in {network.cidr}')
    return bound.number


def _cover(network: Address, start: int, end: int) -> Iterator[Address]:
    """The widest networks that together have the addresses from `start` to before `end`."""
    while start < end:
        size = min(start & -start or 1 << network.bits, 1 << ((end - start).bit_length() - 1))
        yield Address(network.version, start, network.bits - size.bit_length() + 1)
        start += size


def _section(text: bytes) -> Section:
    """A JSON object; its keys are case-insensitive, as in Go. Raises ValueError."""
    if len(text) > _LONGEST:
        raise ValueError(f"it has {len(text)} bytes, expected at most {_LONGEST}")
    value = jsontext.loads(text)
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    return Section(value)


@contextmanager
def _sentences() -> Iterator[None]:
    """Raise the error of a section's getter as ValueError."""
    try:
        yield
    except CNIError as error:
        raise ValueError(error.msg) from error


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
