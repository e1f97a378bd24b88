"""Routes, neighbours and FDB entries as text, as `ip` and `bridge` print them."""

from socket import AF_BRIDGE, AF_INET, AF_INET6
from struct import Struct

from linux.netlink.attributes import MESSAGE_HEADER, RTNL_BODY, attributes_of
from linux.netlink.socket import Netlink
from linux.rtnl import uapi
from linux.rtnl.links import find_link_by_index
from linux.rtnl.routes import RTMSG, destination_of, dump_main
from spec.addresses import parse_address, unpack

_TYPES = {
    uapi.RTN_BLACKHOLE: "blackhole ",
    uapi.RTN_UNREACHABLE: "unreachable ",
    uapi.RTN_PROHIBIT: "prohibit ",
    uapi.RTN_THROW: "throw ",
}
_INDEX = Struct("=i")

# Numbers of /etc/iproute2/rt_protos, and Felix's. Not "boot" and "static": anybody uses those.
_PROTOCOLS = {
    2: "the kernel, for an address",
    9: "from a router advertisement",
    11: "zebra, of FRR",
    12: "bird",
    16: "a DHCP client",
    18: "keepalived",
    42: "babel",
    80: "Calico",
    84: "OVN",
    186: "a BGP daemon",
    187: "an IS-IS daemon",
    188: "an OSPF daemon",
    189: "a RIP daemon",
    192: "an EIGRP daemon",
}
_DEVICES = {
    "flannel": "flannel",
    "cni0": "the bridge plugin, or flannel",
    "cali": "Calico",
    "tunl0": "Calico, or another user of IPIP",
    "vxlan.calico": "Calico",
    "vxlan-v6.calico": "Calico",
    "wireguard.cali": "Calico",
    "cilium_": "Cilium",
    "lxcbr": "LXC",
    "lxc": "Cilium",
    "antrea-": "Antrea",
    "kube-bridge": "kube-router",
    "kube-ipvs0": "kube-proxy",
    "weave": "Weave Net",
    "docker": "Docker",
    "br-": "Docker",
    "cni-podman": "podman",
    "podman": "podman",
    "virbr": "libvirt",
    "lxdbr": "LXD",
}
"""What begins the names of links that other programs make."""
_DEFAULT_METRIC = {AF_INET: 0, AF_INET6: 1024}


def describe(netlink: Netlink, message: bytes) -> str:
    """The object of a message or request of rtnetlink, such as "neighbour 10.244.2.0 lladdr ... dev ..."."""
    _, kind, *_ = MESSAGE_HEADER.unpack_from(message)
    if kind in (uapi.RTM_NEWROUTE, uapi.RTM_DELROUTE):
        return f"route {describe_route(netlink, message)}"
    attributes, family = attributes_of(message, RTNL_BODY), message[16]
    device = _name(netlink, _INDEX.unpack_from(message, 20)[0])
    dst, mac = _address(attributes.get(uapi.NDA_DST, b"")), attributes.get(uapi.NDA_LLADDR, b"").hex(":")
    if family == AF_BRIDGE:
        return f"FDB entry {mac} dev {device} dst {dst}"
    return f"neighbour {dst} lladdr {mac} dev {device}"


def describe_route(netlink: Netlink, message: bytes) -> str:
    """A route, such as "10.244.2.0/24 via 192.0.2.9 dev eth0 proto 4"."""
    attributes = attributes_of(message, RTNL_BODY)
    family, _, _, _, _, protocol, _, kind, _ = RTMSG.unpack_from(message, 16)
    words = [f"{_TYPES.get(kind, '')}{destination_of(message, attributes).cidr}"]
    if uapi.RTA_GATEWAY in attributes:
        words.append(f"via {_address(attributes[uapi.RTA_GATEWAY])}")
    name = ""
    if uapi.RTA_OIF in attributes:
        name = _name(netlink, _number(attributes[uapi.RTA_OIF]))
        words.append(f"dev {name}")
    if uapi.RTA_MULTIPATH in attributes:
        words.append("by several next hops")
    words.append(f"proto {protocol}")
    if owner := likely_owner(protocol, name):
        words[-1] += f" ({owner})"
    if uapi.RTA_PRIORITY in attributes and _number(attributes[uapi.RTA_PRIORITY]) != _DEFAULT_METRIC[family]:
        words.append(f"metric {_number(attributes[uapi.RTA_PRIORITY])}")
    return " ".join(words)


def likely_owner(protocol: int, link: str) -> str:
    """Who probably made a route of that protocol over the link with that name; "" if nothing shows it."""
    for beginning, owner in _DEVICES.items():
        if link.startswith(beginning):
            return owner
    return _PROTOCOLS.get(protocol, "")


def overriding(netlink: Netlink, address: str, link: int) -> tuple[str, str]:
    """The route of the main table by which packets to an address do not leave over `link` (index; 0: over any).

    As text, and its destination (CIDR); "" twice if the main table has none. Raises NetlinkError. Slow where there are
    very many routes: only to explain what `look_up` returned.
    """
    wanted, best, route = parse_address(address), (-1, 0), b""
    for message in dump_main(netlink):
        attributes = attributes_of(message, RTNL_BODY)
        network = destination_of(message, attributes)
        if not network.contains(wanted):
            continue
        is_its_own = link and _number(attributes.get(uapi.RTA_OIF, bytes(4))) == link
        rank = (network.prefix, -_number(attributes.get(uapi.RTA_PRIORITY, bytes(4))))
        if rank > best or (rank == best and not is_its_own):
            best, route = rank, b"" if is_its_own else message
    if not route:
        return "", ""
    return describe_route(netlink, route), destination_of(route, attributes_of(route, RTNL_BODY)).cidr


def _address(packed: bytes) -> str:
    return unpack(packed) if packed else "none"


def _number(payload: bytes) -> int:
    return _INDEX.unpack(payload)[0]


def _name(netlink: Netlink, index: int) -> str:
    link = find_link_by_index(netlink, index)
    return link.name if link else f"with index {index}"
