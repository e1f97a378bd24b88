"""Nodes to draw: none, one, many pods and peers, well and ill, with ordinary and hostile names."""

from cli.status.picture import Device, Event, NetworkPicture, NodePicture, PeerPicture, PodPicture, Service, Subnet

HOSTILE = "a<b>&\"c'\x1b[31m\u202eevil\x00\n]]>--><script>alert(1)</script>[red]日本語のとても長い名前" + "W" * 200


def pod(number: int, *problems: str, families: int = 1) -> PodPicture:
    """A pod with the address of that number."""
    addresses = (f"10.244.1.{number + 1}", f"fd00:10:244:1::{number + 1:x}")[:families]
    name = f"namespace-{number % 7}/application-{number}-5d78c9869d-{number * 7919 % 99991:05d}"
    return PodPicture(name, addresses, f"veth{number * 2654435761 % 2**44:011x}", problems)


def peer(number: int, *problems: str, way: str = "tunnel") -> PeerPicture:
    """A peer with the subnet of that number."""
    subnet = f"10.{number // 250}.{number % 250}.0/24"
    return PeerPicture(f"node-{number}.example", f"192.0.{number // 250}.{number % 250}", (subnet,), way, problems)


def network(pods: tuple[PodPicture, ...], peers: tuple[PeerPicture, ...], name: str = "podnet") -> NetworkPicture:
    """A network of vxlan."""
    vtep = Device("slash24.1", ("192.0.2.1",), "VNI 1, UDP port 4789")
    subnets = (Subnet("10.244.1.0/24", len(pods), 253), Subnet("fd00:10:244:1::/64", len(pods), 0))
    return NetworkPicture(name, "vxlan", subnets, Device("cbr0", ("10.244.1.1/24",), "MTU 1450"), vtep, pods, peers)


def node(*networks: NetworkPicture, name: str = "node-1", problems: tuple[str, ...] = ()) -> NodePicture:
    """A node on which agent and daemon run."""
    services = (
        Service("agent", "runs", "pid 812"),
        Service("daemon", "runs", "pid 790"),
        Service("registry", "connected", f"kubernetes, {sum(len(one.peers) for one in networks)} records"),
    )
    repairs = (Event(41, "route 10.244.4.0/24 was deleted"), Event(7300, "link cbr0 was set down"))
    errors = (Event(312, "ADD of 0123456789abc by kubenet failed: no free address in 10.244.1.0/24"),)
    return NodePicture(name, services, networks, repairs, errors, problems)


def crowd(pods: int, peers: int, *, ill: int = 0, families: int = 1) -> NodePicture:
    """A node with so many of each, the last of which are ill."""
    wrong = "its neighbour 10.244.3.0 lladdr 02:00:00:00:01:03 dev slash24.1 is missing"
    return node(
        network(
            tuple(
                pod(n, *(["its host veth is down"] * (n > pods - ill)), families=families) for n in range(1, pods + 1)
            ),
            tuple(peer(n, *([wrong] * (n > peers - ill))) for n in range(1, peers + 1)),
        )
    )


def hostile() -> NodePicture:
    """A node of which every name and sentence is somebody's attempt."""
    device = Device(HOSTILE, (HOSTILE,), HOSTILE, (HOSTILE,))
    pods = (PodPicture(HOSTILE, (HOSTILE, HOSTILE), HOSTILE, (HOSTILE,)),)
    peers = (PeerPicture(HOSTILE, HOSTILE, (HOSTILE, HOSTILE), "route", (HOSTILE,)), peer(2))
    made = NetworkPicture(HOSTILE, HOSTILE, (Subnet(HOSTILE, 1, 2),), device, device, pods, peers, (HOSTILE,))
    events = (Event(-1, HOSTILE),)
    return NodePicture(HOSTILE, (Service(HOSTILE, HOSTILE, HOSTILE, (HOSTILE,)),), (made,), events, events, (HOSTILE,))


SAMPLES = {
    "nothing": NodePicture("node-1", (Service("agent", "does not run", "plugins do everything themselves"),)),
    "empty": crowd(0, 0),
    "one": crowd(1, 1),
    "thirty": crowd(30, 4),
    "dual": crowd(30, 31, ill=2, families=2),
    "many": crowd(250, 500, ill=3),
    "all ill": crowd(60, 60, ill=60),
    "two networks": node(network((pod(1),), ()), network((pod(2),), (peer(1, way="route"), peer(2)), name="other")),
    "hostile": hostile(),
}
