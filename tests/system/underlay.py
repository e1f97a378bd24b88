"""Several nodes and the network between them: two links, a router that joins them, and a host beyond the router."""

import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.netns.cni import CNI
from tests.netns.node import Host, Node, Pod, ask

CLUSTER = ("10.244.0.0/16", "fd00:244::/48")
OUTSIDE = ("203.0.113.2", "2001:db8:9::2")
ROUTER = 254  # the number of the router on each link

# Each link's bridge on the fabric, and how addresses on it begin.
LINKS = {"left": ("192.0.2.", "2001:db8:1::"), "right": ("198.51.100.", "2001:db8:2::")}


def subnets(number: int) -> list[str]:
    """The pod subnets of the node with that number."""
    return [f"10.244.{number}.0/24", f"fd00:244:0:{number}::/64"]


def vtep_mac(number: int) -> str:
    """The MAC of that node's VTEP, which every peer can compute: 02:24 and the bytes of 10.244.N.0."""
    return f"02:24:0a:f4:{number:02x}:00"


def addresses_on(link: str, number: int) -> tuple[str, str]:
    """The addresses on one of the links of the node with that number."""
    v4, v6 = LINKS[link]
    return f"{v4}{number}", f"{v6}{number}"


@dataclass(frozen=True)
class Member:
    """A node of the cluster: its number, its addresses on the underlay, the caller of its plugins, and their `conf`."""

    number: int
    addresses: tuple[str, str]
    node: Node
    cni: CNI
    conf: dict
    results: dict[str, dict] = field(default_factory=dict)

    @property
    def record(self) -> dict:
        """Its record for the peers of other nodes."""
        return {"name": f"n{self.number}", "addresses": list(self.addresses), "podCIDRs": subnets(self.number)}

    def configure(self, kind: str, others: Sequence["Member"], **keys: object) -> None:
        """Set the configuration to that of plugin `kind`, with these peers and further keys; None leaves a key out."""
        conf = {"cniVersion": "1.1.0", "name": "cluster", "type": kind, "podCIDRs": subnets(self.number)}
        conf |= {"clusterCIDRs": list(CLUSTER), "peers": [peer.record for peer in others], **keys}
        self.conf.clear()
        self.conf.update({key: value for key, value in conf.items() if value is not None})

    def add(self, name: str) -> Pod:
        """Add a pod to the cluster's network and CHECK it."""
        pod = self.node.pod(name)
        self.results[name] = self.cni.add(self.conf, pod)
        self.check(pod)
        return pod

    def check(self, pod: Pod) -> None:
        """CHECK a pod."""
        self.cni.check(self.conf, pod, self.results[pod.name])

    def delete(self, pod: Pod) -> None:
        """DEL a pod."""
        self.cni.delete(self.conf, pod, self.results.pop(pod.name))

    def address(self, pod: Pod, family: int) -> str:
        """The pod's address of IP version 4 or 6."""
        found = [ip["address"].partition("/")[0] for ip in self.results[pod.name]["ips"]]
        return next(address for address in found if (":" in address) == (family == 6))


class Underlay:
    """The fabric: a namespace that switches each link and routes between them. It has no routes to pods."""

    def __init__(self, bin_dir: Path, *, mtu: int = 1500) -> None:
        self._bin_dir, self._mtu = bin_dir, mtu
        self.fabric = Node()
        self.members: list[Member] = []
        self.fabric.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"])
        self.fabric.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding"])
        for number, (link, (v4, v6)) in enumerate(LINKS.items()):
            # A MAC of its own: else the router's changes when the node leaves from whose port the bridge has it.
            mac = ["address", f"02:fa:b0:00:00:{number:02x}"]
            self.fabric.run(["ip", "link", "add", link, *mac, "mtu", str(mtu), "type", "bridge"])
            _give(self.fabric, link, f"{v4}{ROUTER}/24", f"{v6}{ROUTER}/64")
        self.outside = self.fabric.pod("outside")
        self.fabric.run(["ip", "link", "add", "world", "type", "veth", "peer", "name", "eth0", "netns", "outside"])
        _give(self.fabric, "world", "203.0.113.1/24", "2001:db8:9::1/64")
        _give(self.outside, "eth0", f"{OUTSIDE[0]}/24", f"{OUTSIDE[1]}/64")
        _default_routes(self.outside, "203.0.113.1", "2001:db8:9::1")

    def join(self, link: str) -> Member:
        """Add a node on one of the links."""
        number = len(self.members) + 1
        node = Node()
        member = Member(number, addresses_on(link, number), node, CNI(node, self._bin_dir), {})
        self.members.append(member)
        self.connect(node, link, number)
        return member

    def connect(self, node: Node, link: str, number: int) -> None:
        """Give a node the link eth0, with the router as its gateway; on the fabric it is named nN."""
        port, mtu = f"n{number}", str(self._mtu)
        peer = ["peer", "name", "eth0", "mtu", mtu, "netns", str(node.pid)]
        self.fabric.run(["ip", "link", "add", port, "mtu", mtu, "type", "veth", *peer])
        v4, v6 = addresses_on(link, number)
        _give(node, "eth0", f"{v4}/24", f"{v6}/64")
        self.fabric.run(["ip", "link", "set", port, "master", link, "up"])
        _default_routes(node, *addresses_on(link, ROUTER))

    def close(self) -> None:
        """End all nodes and the fabric."""
        for node in (*(member.node for member in self.members), self.fabric):
            node.close()


@contextmanager
def capture(host: Host, link: str) -> Iterator[list[str]]:
    """The packets that pass a link meanwhile, as tcpdump prints them, outer headers first; filled in at the end."""
    argv = ["tcpdump", "-n", "-l", "-i", link, "--immediate-mode", "ip or ip6"]
    dump = host.start(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    seen: list[str] = []
    try:
        while "listening on" not in dump.stderr.readline():
            assert dump.poll() is None, "tcpdump ended"
        yield seen
        time.sleep(0.2)
    finally:
        dump.terminate()
        seen += _packets(dump.communicate()[0])


def assert_talk(source: tuple[Member, Pod], target: tuple[Member, Pod]) -> None:
    """Assert that TCP, UDP and ICMP of both IP versions pass, and that the target sees the source's own address."""
    (one, client), (two, server) = source, target
    for family in (4, 6):
        address, own = two.address(server, family), one.address(client, family)
        assert client.reaches(address, timeout=10), f"no echo from {own} to {address}"
        for kind in ("tcp", "udp"):
            assert ask(client, server, address, 8000, kind) == own


def assert_all_talk(members: Sequence[tuple[Member, Pod]]) -> None:
    """Assert that every pod reaches every other."""
    for source in members:
        for target in members:
            if source is not target:
                assert_talk(source, target)


def assert_delivers(client: Host, server: Host, address: str, size: int) -> None:
    """Assert that so many bytes arrive over TCP without a pause of seconds, even if the first packets are too large."""
    with server.socket(address, "tcp") as listener, client.socket(address, "tcp") as caller:
        listener.bind((address, 9000))
        listener.listen()
        caller.connect((address, 9000))
        with listener.accept()[0] as connection, ThreadPoolExecutor(1) as sender:
            connection.settimeout(5)
            sender.submit(caller.sendall, bytes(size))
            while size > 0:
                received = len(connection.recv(65536))
                assert received, f"{size} bytes did not arrive"
                size -= received


def goes_through(source: Host, address: str, size: int) -> bool:
    """Whether a packet of so many bytes, not to be fragmented, is answered; a small one must be answered first."""
    assert source.reaches(address, timeout=10)
    return _echo(source, address, size).returncode == 0


def refusal_of(source: Host, address: str, size: int) -> str:
    """What ping prints if a packet of so many bytes, not to be fragmented, is refused."""
    assert source.reaches(address, timeout=10)
    done = _echo(source, address, size)
    assert done.returncode != 0, f"{size} bytes got through: {done.stdout}"
    return done.stdout + done.stderr


def _echo(source: Host, address: str, size: int) -> subprocess.CompletedProcess:
    payload = size - (48 if ":" in address else 28)  # what IP and ICMP headers leave
    argv = ["ping", "-n", "-c1", "-W1", "-M", "do", "-s", str(payload), address]
    return source.run(argv, check=False)


def _packets(text: str) -> list[str]:
    """One string for each packet: the lines that tcpdump indents belong to the packet before."""
    packets: list[str] = []
    for line in text.splitlines():
        if line[:1].isspace() or not line[:2].isdigit() or " IP" not in line[:30]:
            packets[-1:] = ["\n".join([*packets[-1:], line])]
        else:
            packets.append(line)
    return packets


def _give(host: Host, link: str, *addresses: str) -> None:
    """Bring a link up with these addresses, usable at once."""
    host.run(["sh", "-c", f"echo 0 >/proc/sys/net/ipv6/conf/{link}/accept_dad"])
    host.run(["ip", "link", "set", link, "up"])
    for address in addresses:
        host.run(["ip", "addr", "add", address, "dev", link])


def _default_routes(host: Host, *gateways: str) -> None:
    for gateway in gateways:
        host.run(["ip", "route", "add", "default", "via", gateway])
