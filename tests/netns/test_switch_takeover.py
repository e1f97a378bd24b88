"""`slash24 switch` goes on with the pods of kubenet, flannel and the Go bridge: they run, and keep their addresses."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cli import exits
from tests.netns.cni import CNI, PATH
from tests.netns.node import Node, Pod
from tests.netns.switch_worlds import PREPARE
from tests.netns.test_switch import ENVIRONMENT, switch
from tests.netns.test_switch_find import find, make

pytestmark = pytest.mark.cold("what the command does is the same with an agent")

NET_D, LEASES, BACKUP = "/etc/cni/net.d", "/var/lib/cni/networks", "/var/lib/slash24/switched"
IPAM = {"type": "host-local", "ranges": [[{"subnet": "10.244.1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}
KUBENETS = {
    "cniVersion": "0.4.0",
    "name": "kubenet",
    "type": "bridge",
    "bridge": "cbr0",
    "isGateway": True,
    "ipam": IPAM,
}
FLANNELS = {
    "cniVersion": "0.3.1",
    "name": "cbr0",
    "type": "bridge",
    "hairpinMode": True,
    "isDefaultGateway": True,
    "isGateway": True,
    "mtu": 1450,
    "ipam": {**IPAM, "routes": [{"dst": "10.244.0.0/16"}]},
}
PLAIN = {**KUBENETS, "cniVersion": "1.0.0", "name": "mynet", "bridge": "cni0", "ipMasq": True}
OURS = {"cniVersion": "1.0.0", "name": "podnet", "type": "kubenet", "podCIDRs": ["10.244.1.0/24"]}

KUBENETS_RULES = """
    ip link set cbr0 promisc on
    tc qdisc add dev cbr0 root handle 1: htb default 30
    iptables -t nat -A POSTROUTING -m comment --comment "kubenet: SNAT for outbound traffic from cluster" \\
        -m addrtype ! --dst-type LOCAL ! -d 10.0.0.0/8 -j MASQUERADE
    iptables -t nat -N KUBE-HOSTPORTS
    iptables -t nat -A PREROUTING -m comment --comment "kube hostport portals" -j KUBE-HOSTPORTS
    ebtables -N KUBE-DEDUP -P RETURN
    ebtables -A OUTPUT -j KUBE-DEDUP
"""


def write(node: Node, name: str, *plugins: dict) -> None:
    """A configuration list in the node's folder, as its first plugin names it."""
    head = {key: plugins[0][key] for key in ("cniVersion", "name")}
    bare = [{key: value for key, value in plugin.items() if key not in head} for plugin in plugins]
    node.path(f"{NET_D}/{name}").write_text(json.dumps({**head, "plugins": bare}))


def leases(node: Node, network: str) -> dict[str, str]:
    """The leases of a network: address to container."""
    found = node.path(f"{LEASES}/{network}").glob("10.*")
    return {path.name: path.read_text().split()[0] for path in found}


def add(cni: CNI, conf: dict, name: str) -> Pod:
    """A pod with an interface of this configuration."""
    pod = cni.node.pod(name)
    cni.add(conf, pod)
    return pod


def waits(node: Node, provider: str) -> list[str]:
    """What the plan says has to stay for now."""
    document = json.loads(switch(node, provider, "--json").stdout)
    return [one["sentence"] for one in document["leftovers"] if one["waits"]]


def test_from_kubenet(node: Node, cni: CNI, reference: CNI) -> None:
    """Pods run on with their addresses, also under a new name of the network; what they need goes with the last one."""
    make(node, PREPARE)
    old, mate = (add(reference, KUBENETS, name) for name in ("old", "mate"))
    make(node, KUBENETS_RULES)
    done = switch(node, "kubenet", "--yes")
    assert done.returncode == exits.FAILED
    assert "no configuration of slash24 is there to go on with them" in done.stderr
    write(node, "10-slash24.conflist", OURS)
    write(node, "10-containerd-net.conflist", KUBENETS)
    with old.socket("10.244.1.2", "tcp") as listener, mate.socket("10.244.1.2", "tcp") as client:
        listener.bind(("10.244.1.2", 9000))
        listener.listen()
        client.connect(("10.244.1.2", 9000))
        with listener.accept()[0] as server:
            assert switch(node, "kubenet", "--yes").returncode == exits.FOUND  # rules that pods need
            client.send(b"still here")
            server.settimeout(2)
            assert server.recv(16) == b"still here"
    assert leases(node, "podnet") == {"10.244.1.2": "old", "10.244.1.3": "mate"}
    assert node.path(f"{LEASES}/kubenet").readlink().name == "podnet"
    assert node.path(f"{BACKUP}/kubenet{NET_D}/10-containerd-net.conflist").exists()
    assert [path.name for path in node.path(NET_D).iterdir()] == ["10-slash24.conflist"]
    ports = node.ip("link", "show", "master", "cbr0")
    assert [port["linkinfo"]["info_slave_data"]["hairpin"] for port in ports] == [True] * 2
    assert node.links()["cbr0"]["promiscuity"] == 0
    assert "htb" not in node.run(["tc", "qdisc", "show", "dev", "cbr0"]).stdout
    assert "KUBE-DEDUP" not in node.ruleset()
    assert len(waits(node, "kubenet")) == 3  # masquerade, host ports, and the link
    new = add(cni, OURS, "new")
    assert new.addresses("eth0") == {"10.244.1.4/24"}
    assert new.reaches("10.244.1.2")
    assert switch(node, "kubenet", "--yes").returncode == exits.FOUND
    assert "kubenet: SNAT" not in node.run(["iptables-save"]).stdout
    assert len(waits(node, "kubenet")) == 2
    for pod in (old, mate):
        cni.delete(OURS, pod)
        assert set(pod.links()) == {"lo"}
    assert leases(node, "podnet") == {"10.244.1.4": "new"}
    assert switch(node, "kubenet", "--yes").returncode == exits.OK
    assert "KUBE-" not in node.run(["iptables-save"]).stdout
    assert [path.name for path in node.path(LEASES).iterdir()] == ["podnet"]
    assert new.reaches("10.244.1.1")


def test_from_flannel(node: Node, cni: CNI, reference: CNI) -> None:
    """Its plugin can still delete its pods, and releases their addresses, which are the new network's now."""
    ours = {**OURS, "bridge": "cni0"}
    make(node, PREPARE, "ip link add flannel.1 type vxlan id 1 dev wan0 dstport 8472", "touch /opt/cni/bin/flannel")
    old, mate = (add(reference, FLANNELS, name) for name in ("old", "mate"))
    make(node, "mkdir -p /var/lib/cni/flannel /run/flannel")
    for name in ("old", "mate"):
        node.path(f"/var/lib/cni/flannel/{name}").write_text(json.dumps(FLANNELS))
    write(node, "05-flannel.conflist", {"cniVersion": "0.3.1", "name": "cbr0", "type": "flannel", "delegate": {}})
    write(node, "10-slash24.conflist", ours)
    assert switch(node, "flannel", "--yes").returncode == exits.FOUND
    assert leases(node, "podnet") == {"10.244.1.2": "old", "10.244.1.3": "mate"}
    assert [path.name for path in node.path(NET_D).iterdir()] == ["10-slash24.conflist"]
    assert {name for _, name in find(node)["each"]["flannel"]} == {
        "flannel.1",
        "/opt/cni/bin/flannel",
        "/var/lib/cni/flannel",
        "/var/lib/cni/networks/cbr0",
    }
    assert old.reaches("10.244.1.3")
    saved = json.loads(node.path("/var/lib/cni/flannel/old").read_text())
    assert saved == {**FLANNELS, "name": "podnet"}
    reference.delete(saved, old)
    assert leases(node, "podnet") == {"10.244.1.3": "mate"}
    cni.delete(ours, mate)
    assert set(mate.links()) == {"lo"}
    assert leases(node, "podnet") == {}
    assert switch(node, "flannel", "--yes").returncode == exits.OK
    assert {"flannel.1", "cni0"} & set(node.links()) == {"cni0"}  # the bridge is slash24's now


def test_flannels_routes_go_over_where_slash24_keeps_them(node: Node) -> None:
    """Those of the tunnel that slash24-node has taken over; no other."""
    make(
        node,
        PREPARE,
        "ip link add flannel.1 type vxlan id 1 dev wan0 dstport 8472",
        "ip link set flannel.1 up alias 'slash24 vtep'",
        "ip route add 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
        "ip route add 10.98.0.0/16 via 192.0.2.98 dev wan0",
        "ip route add blackhole 10.244.1.0/24",
        "mkdir /run/flannel",
        "echo FLANNEL_NETWORK=10.244.0.0/16 >/run/flannel/subnet.env",
    )
    write(node, "10-slash24.conflist", {**OURS, "type": "vxlan", "name": "cbr0"})
    assert switch(node, "flannel", "--yes").returncode == exits.OK
    routes = {route["dst"]: route.get("protocol") for route in node.ip("-4", "route")}
    assert routes == {"10.244.2.0/24": "24", "10.98.0.0/16": "boot", "192.0.2.0/24": "kernel"}
    assert "flannel.1" in node.links()


def test_from_the_go_bridge(node: Node, cni: CNI, reference: CNI) -> None:
    """What its plugins made for a pod under the old name is found when the pod is gone, and not before."""
    make(node, PREPARE)
    ours = {**OURS, "bridge": "cni0"}
    write(node, "05-mynet.conflist", PLAIN, {**PLAIN, "type": "portmap"})
    pod = node.pod("old")
    result = reference.add(PLAIN, pod)
    ports = {"runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}}
    mapping = {"cniVersion": "1.0.0", "name": "mynet", "type": "portmap", "capabilities": {"portMappings": True}}
    reference.add({**mapping, **ports, "backend": "iptables", "prevResult": result}, pod)
    assert find(node)["each"]["bridge"] == []
    write(node, "10-slash24.conflist", ours)
    done = switch(node, "bridge", "--yes")
    assert (done.returncode, "stays for now: link" in done.stdout) == (exits.FOUND, True)
    assert leases(node, "podnet") == {"10.244.1.2": "old"}
    assert waits(node, "bridge") == [
        "link /var/lib/cni/networks/mynet, by which calls for network mynet find the leases of network podnet"
    ]
    assert pod.addresses("eth0") == {"10.244.1.2/24"}
    rules = node.run(["iptables-save"]).stdout
    assert 'name: \\"mynet\\" id: \\"old\\"' in rules
    cni.delete(ours, pod)
    assert leases(node, "podnet") == {}
    assert switch(node, "bridge", "--yes").returncode == exits.OK
    saved = node.run(["iptables-save"]).stdout
    assert "mynet" not in saved
    assert "CNI-DN-" not in saved


def test_calls_by_either_name_meanwhile(node: Node, cni: CNI, reference: CNI) -> None:
    """Of calls that are under way, no two lease one address; those of ours by the old name release it, too."""
    make(node, PREPARE)
    add(reference, KUBENETS, "old")
    write(node, "05-containerd-net.conflist", KUBENETS)
    write(node, "10-slash24.conflist", OURS)
    by_ours = {**KUBENETS, "ipMasq": False}
    pods = {name: node.pod(name) for name in (f"{kind}{number}" for kind in "rb" for number in range(6))}
    calls = {"r": (reference, KUBENETS), "b": (cni, by_ours)}
    with ThreadPoolExecutor(4) as pool:
        added = [pool.submit(calls[name[0]][0].add, calls[name[0]][1], pod) for name, pod in pods.items()]
        done = switch(node, "kubenet", "--yes")
        results = [one.result() for one in added]
    assert done.returncode in (exits.OK, exits.FOUND), done.stderr
    addresses = {result["ips"][0]["address"].partition("/")[0] for result in results}
    assert len(addresses) == len(pods)
    assert leases(node, "podnet").keys() == addresses | {"10.244.1.2"}
    pods["new"] = add(cni, OURS, "new")
    assert len(leases(node, "podnet")) == len(pods) + 1
    for name, pod in pods.items():
        cni.delete(by_ours if name[0] == "b" else OURS, pod)
    assert leases(node, "podnet") == {"10.244.1.2": "old"}


def test_what_libcni_keeps_of_old_pods(node: Node, bin_dir: Path, reference_bin: Path) -> None:
    """A runtime's DEL by the new name finds it, and `slash24 pods` has nothing to complain about."""
    make(node, PREPARE)
    write(node, "10-kubenet.conflist", KUBENETS)
    node.pod("old")

    def cnitool(verb: str, network: str, folder: Path) -> None:
        env = {"PATH": PATH, "CNI_PATH": str(folder), "NETCONFPATH": NET_D}
        node.run([reference_bin / "cnitool", verb, network, "/run/netns/old"], env=env)

    cnitool("add", "kubenet", reference_bin)
    write(node, "20-slash24.conflist", OURS)
    assert switch(node, "kubenet", "--yes").returncode == exits.FOUND
    (cached,) = node.path("/var/lib/cni/results").iterdir()
    assert cached.name.startswith("podnet-cnitool-")
    assert json.loads(cached.read_text())["networkName"] == "podnet"
    pods = node.run([sys.executable, "-m", "cli", "pods", "--json"], env=ENVIRONMENT)
    assert [(one["network"], one["addresses"]) for one in json.loads(pods.stdout)] == [("podnet", ["10.244.1.2"])]
    cnitool("del", "podnet", bin_dir)
    assert leases(node, "podnet") == {}
    assert list(node.path("/var/lib/cni/results").iterdir()) == []
    assert switch(node, "kubenet", "--yes").returncode == exits.OK


def test_an_address_with_two_owners_changes_nothing(node: Node, reference: CNI) -> None:
    """It is told which, and the configuration of kubenet is still used."""
    make(node, PREPARE)
    add(reference, KUBENETS, "old")
    write(node, "05-containerd-net.conflist", KUBENETS)
    write(node, "10-slash24.conflist", OURS)
    folder = node.path(f"{LEASES}/podnet")
    folder.mkdir()
    (folder / "10.244.1.2").write_text("other\r\neth0")
    done = switch(node, "kubenet", "--yes")
    assert done.returncode == exits.FAILED
    assert "10.244.1.2 is leased to another container in /var/lib/cni/networks/podnet" in done.stderr
    assert leases(node, "kubenet") == {"10.244.1.2": "old"}
    assert leases(node, "podnet") == {"10.244.1.2": "other"}
    assert sorted(path.name for path in node.path(NET_D).iterdir()) == [
        "05-containerd-net.conflist",
        "10-slash24.conflist",
    ]


def test_from_kops(node: Node, cni: CNI, reference: CNI) -> None:
    """Old pods have links of their own, for which the node answers on the bridge until they are gone."""
    make(node, PREPARE)
    kops = {"cniVersion": "0.4.0", "name": "k8s-pod-network", "type": "ptp", "ipam": IPAM}
    old = add(reference, kops, "old")
    write(node, "10-containerd-net.conflist", kops)
    write(node, "10-slash24.conflist", {**OURS, "name": "k8s-pod-network"})
    assert switch(node, "kubenet", "--yes").returncode == exits.OK
    new = add(cni, {**OURS, "name": "k8s-pod-network"}, "new")
    assert new.addresses("eth0") == {"10.244.1.3/24"}
    assert new.reaches("10.244.1.2")
    assert switch(node, "kubenet").returncode == exits.OK
    cni.delete({**OURS, "name": "k8s-pod-network"}, old)
    assert node.sysctl("ipv4/conf/cbr0/proxy_arp") == "1"
    assert switch(node, "kubenet", "--yes").returncode == exits.OK
    assert node.sysctl("ipv4/conf/cbr0/proxy_arp") == "0"


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        ({"bridge": "br0"}, "has the bridge br0, and they are on cbr0"),
        ({"podCIDRs": ["10.244.7.0/24"]}, "address 10.244.1.2 is in no subnet of"),
    ],
)
def test_a_configuration_that_does_not_fit(node: Node, reference: CNI, ours: dict, said: str) -> None:
    """Pods would run on, and reach nothing: it refuses, and has changed nothing."""
    make(node, PREPARE)
    add(reference, KUBENETS, "old")
    write(node, "05-containerd-net.conflist", KUBENETS)
    write(node, "10-slash24.conflist", {**OURS, **ours})
    done = switch(node, "kubenet", "--yes")
    assert done.returncode == exits.FAILED
    assert said in done.stderr
    assert "(veth" in done.stderr
    assert leases(node, "kubenet") == {"10.244.1.2": "old"}
    assert node.path(f"{NET_D}/05-containerd-net.conflist").exists()


def test_a_bridge_that_nothing_uses_goes(node: Node, reference: CNI) -> None:
    """With the leases, if nothing goes on with them."""
    make(node, PREPARE)
    pod = add(reference, KUBENETS, "old")
    write(node, "05-containerd-net.conflist", KUBENETS)
    reference.delete(KUBENETS, pod)
    assert switch(node, "kubenet", "--yes").returncode == exits.OK
    assert "cbr0" not in node.links()
    assert not node.path(f"{LEASES}/kubenet").exists()
