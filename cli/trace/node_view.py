"""What the node, and the pod's namespace, would do with a packet: read from the kernel, in words."""

from contextlib import suppress
from dataclasses import dataclass
from errno import EACCES, EHOSTUNREACH, EINVAL, ENETUNREACH, EXDEV

from linux.netlink.socket import Netlink, NetlinkError
from linux.netns import entered
from linux.rtnl.links import Link, list_links, list_vlans
from linux.rtnl.neighbours import list_forwarding
from linux.rtnl.queries import FORWARDING, Decision, decide, neighbour, port_state
from plugins.node.records import PEERS_FILE, Node, read_peers_file
from spec.addresses import parse_address, unpack
from spec.errors import CNIError

_USABLE = ("reachable", "stale", "delay", "probe", "permanent", "noarp")
_REASONS = {
    ENETUNREACH: "there is no route to {}",
    EHOSTUNREACH: "{} is unreachable: a route says so, or the link by which it came forwards nothing",
    EXDEV: "its source address is routed by another link, and rp_filter forbids that",
    EINVAL: "there is a blackhole route to {}",
    EACCES: "a route prohibits packets to {}",
}


class NoRoute(Exception):
    """There is no way to the destination; the text says why."""


@dataclass(frozen=True)
class Known:
    """What is known of a next hop, as text, and its MAC; "": nothing can be sent to it."""

    text: str
    mac: str = ""


class View:
    """The links, routes, neighbours and FDB entries of the network namespace of the calling thread."""

    def __init__(self) -> None:
        self._netlink = Netlink()
        self._links = {link.index: link for link in list_links(self._netlink)}
        self._by_name = {link.name: link for link in self._links.values()}

    def __enter__(self) -> "View":
        return self

    def __exit__(self, *_: object) -> None:
        self._netlink.close()

    def link(self, place: int | str) -> Link | None:
        """The link with that index or name."""
        return self._links.get(place) if isinstance(place, int) else self._by_name.get(place)

    def name(self, index: int) -> str:
        """The name of a link."""
        return self._links[index].name if index in self._links else f"link {index}"

    def route(self, destination: str, *, source: str = "", iif: int = 0, mark: int = 0) -> Decision:
        """How a packet is routed, as `queries.decide`; raises NoRoute."""
        try:
            return decide(self._netlink, destination, source=source, iif=iif, mark=mark)
        except NetlinkError as error:
            raise NoRoute(_REASONS.get(error.errno, f"{{}}: {error.strerror}").format(destination)) from error

    def next_hop(self, link: int, address: str) -> Known:
        """What is known of a neighbour. Raises NetlinkError."""
        found, name = neighbour(self._netlink, link, address), self.name(link)
        if not found:
            return Known(f"{address} on {name} is not known to anybody yet")
        if found.state in _USABLE and found.mac:
            return Known(f"{address} on {name} is {found.mac}", found.mac)
        return Known(f"nobody on {name} answers for {address} ({found.state})")

    def port(self, name: str) -> str:
        """A link as a port of a bridge: "a port of cbr0 (forwarding, isolated)"; "" if it is none."""
        link = self._by_name.get(name)
        bridge = self._links.get(link.master) if link else None
        if not link or not bridge:
            return ""
        words = [port_state(link), *(["isolated"] if link.isolated else []), *(["hairpin"] if link.hairpin else [])]
        if bridge.vlan_filtering:
            vlans = sorted(list_vlans(self._netlink).get(link.index, {}))
            words.append(f"VLAN {', '.join(map(str, vlans[:5]))}" if vlans else "in no VLAN")
        return f"a port of {bridge.name} ({', '.join(words)})"

    def is_blocked(self, name: str) -> bool:
        """Whether a link is a bridge port that forwards nothing."""
        link = self._by_name.get(name)
        return bool(link and link.master and port_state(link) != FORWARDING)

    def is_shaper(self, name: str) -> bool:
        """Whether a link is one by which packets only pass to be slowed down."""
        link = self._by_name.get(name)
        return bool(link and link.kind == "ifb")

    def underlay(self, device: int, mac: str) -> str:
        """Where a tunnel sends frames to a MAC: an underlay address, "" if its FDB does not say."""
        packed = list_forwarding(self._netlink, device).entries.get(bytes.fromhex(mac.replace(":", "")))
        return unpack(packed) if packed else ""


@dataclass(frozen=True)
class Inside:
    """How the pod itself sends: the route and the name of its link, or why there is none."""

    route: Decision | None
    link: str = ""
    why: str = ""


def look_inside(pod: int, destination: str, source: str) -> Inside:
    """The route in a pod's namespace (a descriptor)."""
    with entered(pod), View() as view:
        try:
            route = view.route(destination, source=source)
        except NoRoute as error:
            return Inside(None, why=str(error))
        return Inside(route, view.name(route.link))


def next_hop_inside(pod: int, route: Decision, destination: str) -> Known:
    """The neighbour in a pod's namespace to which it sends. Raises NetlinkError."""
    with entered(pod), View() as view:
        return view.next_hop(route.link, route.via or destination)


class Peers:
    """The other nodes, as far as a file tells."""

    def __init__(self, path: str = PEERS_FILE) -> None:
        self._nodes: tuple[Node, ...] = ()
        with suppress(CNIError):
            self._nodes = read_peers_file(path, required=False).nodes

    def at(self, address: str) -> str:
        """The node with that address, or with a subnet that has it: "node n2"; "" if none is known."""
        wanted = parse_address(address)
        for node in self._nodes:
            if address in node.addresses or any(parse_address(one).contains(wanted) for one in node.subnets):
                return f"node {node.name}" if node.name else ""
        return ""
