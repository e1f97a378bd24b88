"""The pages on moving from other networks: their commands, run on nodes that are set up as those networks would."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.netns.cni import CNI, PATH
from tests.netns.node import Pod, ask
from tests.system.underlay import OUTSIDE, Member, Underlay

FOLDERS = {"/etc/cni/net.d": "/run/cni/net.d", "/etc/slash24": "/run/etc", "/opt/cni/bin": "/run/bin"}
"""Where the commands of a page write, and where they do in these tests: a node's /run is its own."""


def commands(page: str, heading: str, number: int = 0) -> str:
    """The shell commands in one block under a heading of a page, in the folders of these tests."""
    text = (ROOT / "docs" / page).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return in_test_folders(re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[number])


def in_test_folders(text: str) -> str:
    """The text with the documented folders replaced by those of these tests."""
    for theirs, ours in FOLDERS.items():
        text = text.replace(theirs, ours)
    return text


def follow(member: Member, page: str, heading: str, number: int = 0, *, name: str = "kubenet") -> str:
    """Run the commands under a heading of a page on the node, none of which may fail; return what they print."""
    script = f"set -eu\ncd {ROOT}\nmkdir -p /run/cni/net.d /run/etc\n{commands(page, heading, number)}"
    script = script.replace("name=kubenet", f"name={name}")
    return member.node.run(["bash", "-c", script], env={"PATH": PATH}).stdout


def read_list(member: Member, name: str) -> dict:
    """The configuration of the first plugin of a conflist of the node, as a runtime would pass it."""
    conflist = json.loads(in_test_folders(member.node.path(f"/run/cni/net.d/{name}").read_text()))
    return {"cniVersion": conflist["cniVersion"], "name": conflist["name"], **conflist["plugins"][0]}


class Line:
    """A TCP connection between two pods that must survive."""

    def __init__(self, client: Pod, server: Pod, address: str) -> None:
        with server.socket(address, "tcp") as listener:
            listener.bind((address, 9000))
            listener.listen()
            self._client = client.socket(address, "tcp")
            self._client.connect((address, 9000))
            self._server = listener.accept()[0]
        self._server.settimeout(2)

    def holds(self) -> bool:
        """Whether data still passes in both directions."""
        self._client.send(b"to")
        self._server.send(b"fro")
        return self._server.recv(16) == b"to" and self._client.recv(16) == b"fro"

    def close(self) -> None:
        """Close both ends."""
        self._client.close()
        self._server.close()


@contextmanager
def line(client: Pod, server: Pod, address: str) -> Iterator[Line]:
    """A connection that works at the beginning."""
    made = Line(client, server, address)
    try:
        assert made.holds()
        yield made
    finally:
        made.close()


# The configuration with which flannel's own plugin delegates to `bridge`.
FLANNELS = {
    "cniVersion": "0.3.1",
    "name": "cbr0",
    "type": "bridge",
    "bridge": "cni0",
    "hairpinMode": True,
    "ipMasq": False,
    "isDefaultGateway": True,
    "isGateway": True,
    "mtu": 1450,
}


class FlannelNode:
    """A node as flannel sets it up: device, entries, rules and files by hand, pods with the reference's bridge."""

    def __init__(self, member: Member, reference_bin: Path) -> None:
        self.member, self.mac = member, f"12:c6:65:89:b4:{member.number:02x}"
        self.subnet = f"10.244.{member.number}.0/24"
        ipam = {"type": "host-local", "ranges": [[{"subnet": self.subnet}]], "routes": [{"dst": "10.244.0.0/16"}]}
        self.conf = {**FLANNELS, "ipam": ipam}
        self.cni = CNI(member.node, reference_bin)
        run = member.node.run
        local = member.addresses[0]
        vxlan = ["type", "vxlan", "id", "1", "dstport", "8472", "local", local, "dev", "eth0", "nolearning"]
        run(["ip", "link", "add", "flannel.1", "address", self.mac, "mtu", "1450", *vxlan])
        run(["ip", "addr", "add", f"10.244.{member.number}.0/32", "dev", "flannel.1"])
        run(["ip", "link", "set", "flannel.1", "up"])
        run(["bash", "-ec", self._rules()])
        folder = member.node.path("/run/flannel")
        folder.mkdir()
        (folder / "subnet.env").write_text(
            f"FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.{member.number}.1/24\n"
            "FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        )
        member.node.path("/var/lib/cni/flannel").mkdir(parents=True)
        net_d = member.node.path("/run/cni/net.d")
        net_d.mkdir(parents=True)
        (net_d / "10-flannel.conflist").write_text('{"name": "cbr0"}')

    def _rules(self) -> str:
        masq = '-m comment --comment "flanneld masq"'
        return f"""
            iptables -t nat -N FLANNEL-POSTRTG
            iptables -t nat -A POSTROUTING {masq} -j FLANNEL-POSTRTG
            iptables -t nat -A FLANNEL-POSTRTG {masq} -m mark --mark 0x4000/0x4000 -j RETURN
            iptables -t nat -A FLANNEL-POSTRTG {masq} -s {self.subnet} -d 10.244.0.0/16 -j RETURN
            iptables -t nat -A FLANNEL-POSTRTG {masq} -s 10.244.0.0/16 -d {self.subnet} -j RETURN
            iptables -t nat -A FLANNEL-POSTRTG {masq} ! -s 10.244.0.0/16 -d {self.subnet} -j RETURN
            iptables -t nat -A FLANNEL-POSTRTG {masq} -s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully
            iptables -t nat -A FLANNEL-POSTRTG {masq} ! -s 10.244.0.0/16 -d 10.244.0.0/16 -j MASQUERADE --random-fully
            iptables -N FLANNEL-FWD
            iptables -A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
            iptables -A FLANNEL-FWD -s 10.244.0.0/16 -j ACCEPT
            iptables -A FLANNEL-FWD -d 10.244.0.0/16 -j ACCEPT
        """

    def learn(self, peer: "FlannelNode") -> None:
        """Add the three entries by which flannel reaches another node."""
        network, run = f"10.244.{peer.member.number}.0", self.member.node.run
        run(["ip", "neigh", "replace", network, "lladdr", peer.mac, "dev", "flannel.1", "nud", "permanent"])
        fdb = ["bridge", "fdb", "replace", peer.mac, "dev", "flannel.1", "self", "permanent"]
        run([*fdb, "dst", peer.member.addresses[0]])
        run(["ip", "route", "replace", peer.subnet, "via", network, "dev", "flannel.1", "onlink"])

    def add(self, name: str) -> tuple[Pod, str]:
        """Add a pod; return it and its address."""
        pod = self.member.node.pod(name)
        return pod, self.cni.add(self.conf, pod)["ips"][0]["address"].partition("/")[0]


@pytest.fixture
def flannel(underlay: Underlay, reference_bin: Path) -> list[FlannelNode]:
    """Three nodes, two on one link and one behind the router, each with entries for the others."""
    nodes = [FlannelNode(underlay.join(link), reference_bin) for link in ("left", "left", "right")]
    for one in nodes:
        for other in nodes:
            if one is not other:
                one.learn(other)
    return nodes


FROM_FLANNEL = "moving-from-flannel.md"


def test_from_flannel(flannel: list[FlannelNode], underlay: Underlay) -> None:
    """One node moves while connections are open; the two that stay are not affected, and reach its new pods."""
    moving, near, far = flannel
    member = moving.member
    old, old_address = moving.add("old")
    (close, close_address), (distant, distant_address) = near.add("close"), far.add("distant")
    with line(old, close, close_address) as first, line(distant, old, old_address) as second:

        def follow_on(heading: str) -> str:
            printed = follow(member, FROM_FLANNEL, heading)
            assert first.holds()
            assert second.holds()
            assert ask(old, distant, distant_address, 8000, "tcp") == old_address
            return printed

        follow_on("1. The peers")
        follow_on("3. The configuration")
        index, neighbours = (
            member.node.links()["flannel.1"]["ifindex"],
            member.node.ip("neigh", "show", "dev", "flannel.1"),
        )
        conf, new = read_list(member, "10-slash24.conflist"), member.node.pod("new")
        result = member.cni.add(conf, new)
        assert member.node.ip("neigh", "show", "dev", "flannel.1") == neighbours
        device = member.node.links()["flannel.1"]
        assert (device["ifindex"], device["address"], device["ifalias"]) == (index, moving.mac, "slash24 vtep")
        assert "slash24_vtep_cbr0" in follow_on("4. The first ADD")
        follow_on("5. The routes")
        follow_on("6. What is left")
    assert "FLANNEL" not in member.node.run(["iptables-save"]).stdout
    member.cni.check(conf, new, result)
    address = result["ips"][0]["address"].partition("/")[0]
    for pod, its in ((close, close_address), (distant, distant_address)):
        assert ask(new, pod, its, 8000, "udp") == address
        assert ask(pod, new, address, 8000, "tcp") == its
    assert ask(old, new, address, 8000, "tcp") == old_address
    for pod in (old, new):
        assert ask(pod, underlay.outside, OUTSIDE[0], 8000, "tcp") == member.addresses[0]


def test_after_flannel(flannel: list[FlannelNode]) -> None:
    """The peers file lists the other nodes; old pods can be deleted, and so are the routes of a removed node."""
    moving, near, far = flannel
    member = moving.member
    old, old_address = moving.add("old")
    follow(member, FROM_FLANNEL, "1. The peers")
    file = member.node.path("/run/etc/peers.json")
    peers = json.loads(file.read_text())["peers"]
    assert [(peer["addresses"], peer["podCIDRs"], peer["vtepMAC"]) for peer in peers] == [
        ([each.member.addresses[0]], [each.subnet], each.mac) for each in (near, far)
    ]
    follow(member, FROM_FLANNEL, "3. The configuration")
    conf = read_list(member, "10-slash24.conflist")
    member.cni.add(conf, member.node.pod("new"))
    member.cni.delete(conf, old)
    assert set(old.links()) == {"lo"}
    assert not member.node.path(f"/var/lib/cni/networks/cbr0/{old_address}").exists()
    follow(member, FROM_FLANNEL, "5. The routes")
    assert member.node.ip("route", "show", "proto", "boot", "dev", "flannel.1") == []
    assert {route["dst"] for route in member.node.ip("route", "show", "proto", "24")} == {near.subnet, far.subnet}
    file.write_text(json.dumps({"peers": peers[:1]}))
    member.cni.add(conf, member.node.pod("later"))
    assert [route["dst"] for route in member.node.ip("route", "show", "dev", "flannel.1")] == [near.subnet]


# The configuration with which kubenet called the reference's plugins.
KUBENETS = {
    "cniVersion": "0.1.0",
    "name": "kubenet",
    "type": "bridge",
    "bridge": "cbr0",
    "mtu": 1500,
    "addIf": "eth0",
    "isGateway": True,
    "ipMasq": False,
    "hairpinMode": False,
    "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "10.244.1.0/24"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    },
}

_KUBENET_RULES = """
    ip link set cbr0 promisc on
    iptables -t nat -A POSTROUTING -m comment --comment "kubenet: SNAT for outbound traffic from cluster" \\
        -m addrtype ! --dst-type LOCAL ! -d 10.0.0.0/8 -j MASQUERADE
    ebtables -N KUBE-DEDUP -P RETURN
    ebtables -A OUTPUT -j KUBE-DEDUP
    ebtables -A KUBE-DEDUP -p IPv4 -s "$(cat /sys/class/net/cbr0/address)" -o veth+ --ip-src 10.244.1.1 -j ACCEPT
    ebtables -A KUBE-DEDUP -p IPv4 -s "$(cat /sys/class/net/cbr0/address)" -o veth+ --ip-src 10.244.1.0/24 -j DROP
    iptables -t nat -N KUBE-HOSTPORTS
    iptables -t nat -N KUBE-HP-ABCDEFGHIJKLMNOP
    for hook in OUTPUT PREROUTING; do
        iptables -t nat -A $hook -m comment --comment "kube hostport portals" \\
            -m addrtype --dst-type LOCAL -j KUBE-HOSTPORTS
    done
    iptables -t nat -A POSTROUTING -m comment --comment "SNAT for localhost access to hostports" \\
        -o cbr0 -s 127.0.0.0/8 -j MASQUERADE
    iptables -t nat -A KUBE-HOSTPORTS -p tcp -m comment --comment "old hostport 8080" -m tcp --dport 8080 \\
        -j KUBE-HP-ABCDEFGHIJKLMNOP
    iptables -t nat -A KUBE-HP-ABCDEFGHIJKLMNOP -p tcp -j DNAT --to-destination 10.244.1.2:80
"""

_KOPS_RULES = """
    iptables -t nat -N IP-MASQ
    iptables -t nat -A POSTROUTING -m addrtype ! --dst-type LOCAL -j IP-MASQ
    iptables -t nat -A IP-MASQ -d 10.0.0.0/8 -j RETURN
    iptables -t nat -A IP-MASQ -j MASQUERADE
"""

PAGE = "moving-from-kubenet.md"


@pytest.fixture
def kubenet(underlay: Underlay) -> Member:
    """A node; the fabric has the route to its pods that a cloud would have."""
    member = underlay.join("left")
    underlay.fabric.run(["ip", "route", "add", "10.244.1.0/24", "via", member.addresses[0]])
    return member


def test_from_kubenet(kubenet: Member, underlay: Underlay, reference_bin: Path) -> None:
    """Old and new pods share the bridge, and connections stay open; kubenet's rules are deleted, hostports last."""
    node, reference = kubenet.node, CNI(kubenet.node, reference_bin)
    old, mate = node.pod("old"), node.pod("mate")
    reference.add(KUBENETS, old)
    reference.add(KUBENETS, mate)
    node.run(["sh", "-ec", _KUBENET_RULES], env={"PATH": PATH})
    assert ask(underlay.outside, old, "10.244.1.2", 80, "tcp", to=(kubenet.addresses[0], 8080)) == OUTSIDE[0]
    with line(old, mate, "10.244.1.3") as near, line(old, underlay.outside, OUTSIDE[0]) as away:
        follow(kubenet, PAGE, "1. The configuration")
        conf = read_list(kubenet, "10-slash24.conflist")
        new = node.pod("new")
        result = kubenet.cni.add(conf, new)
        assert result["ips"][0]["address"] == "10.244.1.4/24"
        assert near.holds()
        assert away.holds()
        follow(kubenet, PAGE, "Where old pods are on the bridge", 0)
        ports = node.ip("link", "show", "master", "cbr0")
        assert [port["linkinfo"]["info_slave_data"]["hairpin"] for port in ports] == [True] * 3
        assert node.links()["cbr0"]["promiscuity"] == 0
        follow(kubenet, PAGE, "Where old pods are on the bridge", 1)
        rules = node.run(["iptables-save"]).stdout
        assert "kubenet: SNAT" not in rules
        assert "KUBE-HP-" in rules
        assert "KUBE-DEDUP" not in node.ruleset()
        assert near.holds()
        assert away.holds()
        kubenet.cni.check(conf, new, result)
        assert ask(underlay.outside, old, "10.244.1.2", 80, "tcp", to=(kubenet.addresses[0], 8080)) == OUTSIDE[0]
        assert ask(new, old, "10.244.1.2", 8000, "tcp") == "10.244.1.4"
        assert ask(old, new, "10.244.1.4", 8000, "udp") == "10.244.1.2"
        for pod in (old, new):
            assert ask(pod, underlay.outside, OUTSIDE[0], 8000, "tcp") == kubenet.addresses[0]
    for pod in (old, mate):
        kubenet.cni.delete(conf, pod)
        assert set(pod.links()) == {"lo"}
    follow(kubenet, PAGE, "Where old pods are on the bridge", 2)
    assert "KUBE-" not in node.run(["iptables-save"]).stdout
    assert "hostports" not in node.run(["iptables-save"]).stdout
    leases = {path.name for path in node.path("/var/lib/cni/networks/kubenet").glob("10.*")}
    assert leases == {"10.244.1.4"}


def test_from_kubenet_and_back(kubenet: Member, reference_bin: Path) -> None:
    """The reference's plugins, configured as kubenet did, delete a pod of ours and add the next."""
    reference = CNI(kubenet.node, reference_bin)
    follow(kubenet, PAGE, "1. The configuration")
    pod, conf = kubenet.node.pod("pod"), read_list(kubenet, "10-slash24.conflist")
    kubenet.cni.add(conf, pod)
    assert kubenet.node.run(["nft", "delete", "table", "inet", "slash24_egress_kubenet"])
    reference.delete(KUBENETS, pod)
    assert set(pod.links()) == {"lo"}
    assert list(kubenet.node.path("/var/lib/cni/networks/kubenet").glob("10.*")) == []
    reference.add(KUBENETS, kubenet.node.pod("next"))


def test_from_kops(kubenet: Member, underlay: Underlay, reference_bin: Path) -> None:
    """Old pods have links of their own: the node answers for them on the bridge only after the page's commands."""
    node, reference = kubenet.node, CNI(kubenet.node, reference_bin)
    ipam = {**KUBENETS["ipam"], "ranges": [[{"subnet": "10.244.1.0/24"}]]}
    old = node.pod("old")
    reference.add({"cniVersion": "0.4.0", "name": "k8s-pod-network", "type": "ptp", "ipam": ipam}, old)
    net_d = node.path("/run/cni/net.d")
    net_d.mkdir(parents=True)
    (net_d / "10-containerd-net.conflist").write_text("{}")
    node.run(["sh", "-ec", _KOPS_RULES], env={"PATH": PATH})
    with line(old, underlay.outside, OUTSIDE[0]) as away:
        follow(kubenet, PAGE, "1. The configuration", name="k8s-pod-network")
        assert {path.name for path in net_d.iterdir()} == {"10-slash24.conflist", "10-containerd-net.conflist.old"}
        conf, new = read_list(kubenet, "10-slash24.conflist"), node.pod("new")
        assert kubenet.cni.add(conf, new)["ips"][0]["address"] == "10.244.1.3/24"
        assert away.holds()
        assert not new.reaches("10.244.1.2", timeout=1)
        follow(kubenet, PAGE, "Where old pods have links of their own", 0)
        assert ask(new, old, "10.244.1.2", 8000, "tcp") == "10.244.1.3"
        assert ask(old, new, "10.244.1.3", 8000, "udp") == "10.244.1.2"
        assert away.holds()
    kubenet.cni.delete(conf, old)
    assert set(old.links()) == {"lo"}
    follow(kubenet, PAGE, "Where old pods have links of their own", 1)
    leases = {path.name for path in node.path("/var/lib/cni/networks/k8s-pod-network").glob("10.*")}
    assert leases == {"10.244.1.3"}


def test_from_kubenet_to_vxlan(underlay: Underlay) -> None:
    """Node by node, first with direct routing, then without: pods of all nodes reach each other throughout."""
    members = [underlay.join("left") for _ in range(2)]
    for member in members:
        member.configure("kubenet", members)
    pods = [member.add("pod") for member in members]
    addresses = [member.address(pod, 4) for member, pod in zip(members, pods, strict=True)]
    with line(*pods, addresses[1]) as connection:
        for direct in (True, False):
            for member in members:
                member.configure("vxlan", members, directRouting=direct)
                member.add(f"direct-{direct}")
                assert connection.holds()
                for here, there in ((0, 1), (1, 0)):
                    assert ask(pods[here], pods[there], addresses[there], 8000, "tcp") == addresses[here]
    for member in members:
        assert {route["dev"] for route in member.node.ip("route", "show", "proto", "24")} == {"slash24.1"}
        assert member.node.path(f"/var/lib/cni/networks/cluster/10.244.{member.number}.2").exists()
    large = pods[0].run(["ping", "-n", "-c1", "-W1", "-M", "do", "-s", "1472", addresses[1]], check=False)
    assert "1450" in large.stdout + large.stderr
