"""A node with two pods whose policies are in force, as ADDs and the daemon leave it."""

from linux.conntrack import flush_addresses
from linux.ownership import group_of, owner_tag
from policy.anew import compile_all
from policy.compiled import Compiled
from policy.connections import cut
from policy.objects import (
    ADMIN,
    DENY,
    EVERYTHING,
    IN,
    NETWORK,
    ClusterNode,
    LocalPod,
    NodePeer,
    Pod,
    PodPeer,
    Policy,
    Ports,
    Requirement,
    Rule,
    Selector,
)
from policy.programming import Programmer
from policy.settings import Settings
from rules import policy
from spec.attachment import Attachment
from tests.netns.nft_tools import on
from tests.netns.node import Node

_NETWORK = "net1"
ADDRESSES = {"web": ("10.1.2.5", "fd00:1::5"), "client": ("10.1.2.6", "fd00:1::6")}
GATEWAYS = ("10.1.2.1", "fd00:1::1")


def app(name: str) -> PodPeer:
    """The pods of an app."""
    return PodPeer(Selector((Requirement("app", IN, (name,)),)), namespace="shop")


def web_allows(*ports: int) -> Policy:
    """The pod `web` is isolated, but for these ports of TCP and UDP."""
    open_ports = tuple(Ports(protocol, port, port) for port in ports for protocol in ("TCP", "UDP"))
    return Policy(NETWORK, "shop", "web", app("web"), ingress=(Rule((app("client"),), open_ports),) if ports else ())


NO_NODES = Policy(
    ADMIN, "", "no-nodes", PodPeer(EVERYTHING, namespaces=EVERYTHING), egress=(Rule((NodePeer(),), None, DENY),)
)


class Cluster:
    """The node, and its pods `web` and `client` by name."""

    def __init__(self, node: Node, settings: Settings) -> None:
        self.node, self.pods = node, {name: node.pod(name) for name in ADDRESSES}
        self.programmer = Programmer(settings)
        for host in (node, *self.pods.values()):
            host.run(["sysctl", "-w", "net.ipv6.conf.default.accept_dad=0"])  # it would delay the first packets
        node.run(["ip", "link", "add", "cni0", "type", "bridge"])
        node.run(["sysctl", "-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
        node.run(["sysctl", "-w", "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.cni0.send_redirects=0"])
        for address, bits in zip(GATEWAYS, (24, 64), strict=True):
            node.run(["ip", "addr", "add", f"{address}/{bits}", "dev", "cni0", *(["nodad"] if bits == 64 else [])])
        node.run(["ip", "link", "set", "cni0", "up"])
        for name in ADDRESSES:
            self._attach(name)
        self.local = [
            LocalPod(owner_tag(attachment(name)), ips, f"veth-{name}", "shop", name) for name, ips in ADDRESSES.items()
        ]
        self.enforce()
        assert all(self.pods["client"].reaches(ip) for ip in (*GATEWAYS, *ADDRESSES["web"]))
        assert all(node.reaches(ip) for ip in ADDRESSES["client"])
        on(node, flush_addresses, [ip for ips in ADDRESSES.values() for ip in ips])  # so that pings do not count

    def _attach(self, name: str) -> None:
        node, pod, link = self.node, self.pods[name], f"veth-{name}"
        node.run(["ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name])
        node.run(["ip", "link", "set", link, "master", "cni0", "group", str(group_of(_NETWORK)), "up"])
        pod.run(["ip", "link", "set", "lo", "up"])
        pod.run(["ip", "link", "set", "eth0", "up"])
        for address, gateway, bits in zip(ADDRESSES[name], GATEWAYS, (24, 64), strict=True):
            pod.run(["ip", "addr", "add", f"{address}/{bits}", "dev", "eth0", *(["nodad"] if bits == 64 else [])])
            pod.run(["ip", "route", "add", "default", "via", gateway])
        mac, group = node.links()["cni0"]["address"], group_of(_NETWORK)
        on(node, policy.hold, attachment(name), ADDRESSES[name], link, group, mac)

    def enforce(self, *policies: Policy) -> Compiled:
        """Have the kernel enforce policies; connections that are open stay so."""
        pods = [Pod("shop", name, {"app": name}, ips) for name, ips in ADDRESSES.items()]
        nodes = [ClusterNode("n1", ips=GATEWAYS)]
        compiled = compile_all([*pods, *nodes, *policies], self.local, needs_pods=False)
        owners = {ip: pod.owner for pod in self.local for ip in pod.ips}
        on(self.node, self.programmer.resync, compiled, owners)
        return compiled

    def change(self, *policies: Policy, addresses: frozenset[str] | None = None) -> int:
        """Enforce policies and cut what they do not allow; returns how many connections."""
        return on(self.node, cut, self.enforce(*policies), addresses, self.programmer)


def attachment(name: str) -> Attachment:
    """The attachment of a pod."""
    return Attachment(_NETWORK, name, "eth0")
