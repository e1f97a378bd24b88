"""The pages on moving from other networks: their commands, run on nodes that are set up as those networks would."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.netns.cni import CNI, PATH
from tests.netns.node import Pod, ask
from tests.system.pages import follow, in_test_folders
from tests.system.underlay import OUTSIDE, Member, Underlay


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
