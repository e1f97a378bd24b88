"""What the documentation shows works as written: the demonstration, the installation and every example conflist."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.netns.cni import CNI, PATH, CNIFailure, Cnitool
from tests.netns.node import Node, Pod, ask, wait_until

EXAMPLES = ROOT / "docs" / "conflists"
BRIDGE = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "cni0"}
L3 = {**BRIDGE, "isGateway": True, "ipam": {"type": "host-local", "subnet": "10.1.2.0/29"}}


@pytest.fixture
def cnitool(node: Node, bin_dir: Path, reference_bin: Path) -> Cnitool:
    """cnitool on the node, with our plugins ahead of the reference plugins, and all example conflists."""
    tool = Cnitool(node, reference_bin / "cnitool", (bin_dir, reference_bin))
    for path in EXAMPLES.glob("*.conflist"):
        tool.write(json.loads(path.read_text()))
    return tool


def added(cnitool: Cnitool, network: str, name: str, **capabilities: object) -> tuple[Pod, dict]:
    """Return a new pod on the network, after a successful ADD and CHECK, and the result of the ADD."""
    pod = cnitool.node.pod(name)
    result = cnitool.ok("add", network, pod, capabilities=capabilities)
    cnitool.ok("check", network, pod, capabilities=capabilities)
    return pod, result


def ips(result: Mapping) -> list[str]:
    """The addresses of a result."""
    return [ip["address"].partition("/")[0] for ip in result["ips"]]


def removed(cnitool: Cnitool, network: str, *pods: Pod, **capabilities: object) -> None:
    """Run DEL for each pod; afterwards no link, lease or set element of a pod is left."""
    for pod in pods:
        cnitool.ok("del", network, pod, capabilities=capabilities)
        assert set(pod.links()) == {"lo"}
    assert not [name for name in cnitool.node.links() if name.startswith("veth")]
    assert "v1:" not in cnitool.node.ruleset()
    folder = cnitool.node.path(f"/var/lib/cni/networks/{network}")
    assert {path.name for path in folder.glob("[!.]*")} <= {"lock", "last_reserved_ip.0", "last_reserved_ip.1"}


def test_simple(cnitool: Cnitool) -> None:
    """simple.conflist: two pods and the gateway reach each other; the outside host sees the node's address."""
    outside = cnitool.node.outside()
    blue, result = added(cnitool, "simple", "blue")
    red, other = added(cnitool, "simple", "red")
    assert (ips(result), ips(other)) == (["10.21.0.2"], ["10.21.0.3"])
    assert blue.reaches("10.21.0.3")
    assert blue.reaches("10.21.0.1")
    assert ask(blue, outside, "192.0.2.2", 7, "tcp") == "192.0.2.1"
    removed(cnitool, "simple", blue, red)


def test_dual_stack(cnitool: Cnitool) -> None:
    """dual-stack.conflist: as simple.conflist, in both families."""
    outside = cnitool.node.outside()
    blue, result = added(cnitool, "dual-stack", "blue")
    red, other = added(cnitool, "dual-stack", "red")
    assert ips(result) == ["10.22.0.2", "fd00:22::2"]
    assert all(blue.reaches(address) for address in (*ips(other), "10.22.0.1", "fd00:22::1"))
    assert ask(blue, outside, "2001:db8:1::2", 7, "tcp") == "2001:db8:1::1"
    removed(cnitool, "dual-stack", blue, red)


def test_published_ports(cnitool: Cnitool) -> None:
    """published-ports.conflist: a host port leads to the pod, also from the pod itself."""
    outside = cnitool.node.outside()
    mappings = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
    pod, result = added(cnitool, "published-ports", "pod", portMappings=mappings)
    assert ask(outside, pod, ips(result)[0], 80, "tcp", to=("192.0.2.1", 8080)) == "192.0.2.2"
    assert ask(pod, pod, ips(result)[0], 80, "tcp", to=("192.0.2.1", 8080)) == "10.23.0.1"
    removed(cnitool, "published-ports", pod, portMappings=mappings)


def test_firewalled(cnitool: Cnitool) -> None:
    """firewalled.conflist: with FORWARD policy DROP, host ports lead to the pod, and the pod reaches the outside."""
    node, outside = cnitool.node, cnitool.node.outside()
    for program in ("iptables", "ip6tables"):
        node.run([program, "-P", "FORWARD", "DROP"])
    mappings = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
    pod, result = added(cnitool, "firewalled", "pod", portMappings=mappings)
    beside, _ = added(cnitool, "firewalled", "beside")
    assert pod.reaches("fd00:33::1")
    assert ask(pod, outside, "192.0.2.2", 7, "tcp") == "192.0.2.1"
    assert ask(pod, outside, "2001:db8:1::2", 7, "udp") == "2001:db8:1::1"
    v4, v6 = ips(result)
    for client, address, to in ((beside, v4, "192.0.2.1"), (pod, v4, "192.0.2.1"), (node, v4, "127.0.0.1")):
        assert ask(client, pod, address, 80, "tcp", to=(to, 8080)) == "10.33.0.1"
    assert ask(outside, pod, v4, 80, "tcp", to=("192.0.2.1", 8080)) == "192.0.2.2"
    assert ask(outside, pod, v6, 80, "tcp", to=("2001:db8:1::1", 8080)) == "2001:db8:1::2"
    removed(cnitool, "firewalled", pod, beside, portMappings=mappings)


def test_layer2(cnitool: Cnitool) -> None:
    """layer2.conflist: the interface is up, has the configured MTU and has no addresses."""
    pod, result = added(cnitool, "layer2", "pod")
    assert "ips" not in result
    assert pod.links()["eth0"]["mtu"] == 1400
    assert pod.addresses("eth0") == set()
    removed(cnitool, "layer2", pod)


def test_ranges(cnitool: Cnitool) -> None:
    """ranges.conflist: the second range follows when the first is full; addresses cool down; routes have attributes."""
    pods, results = zip(*(added(cnitool, "ranges", name) for name in ("one", "two", "three")), strict=True)
    assert [ips(result)[0] for result in results] == ["10.24.0.10", "10.24.0.11", "10.24.0.20"]
    assert ips(results[0])[1] == "fd00:24::100"
    route = pods[0].routes()["10.99.0.0/16"]
    assert (route["gateway"], route["metric"]) == ("10.24.0.1", 7)
    assert {"mtu": 1300, "advmss": 1260}.items() <= route["metrics"][0].items()
    removed(cnitool, "ranges", *pods)
    pod, result = added(cnitool, "ranges", "next")
    assert ips(result)[0] == "10.24.0.21"
    removed(cnitool, "ranges", pod)


def test_static_address(cnitool: Cnitool) -> None:
    """static-address.conflist: the pod gets the address and the MAC that the runtime requests."""
    wanted = {"ips": ["10.25.0.77"], "mac": "02:00:5e:10:00:01"}
    pod, result = added(cnitool, "static-address", "pod", **wanted)
    assert ips(result) == ["10.25.0.77"]
    assert pod.links()["eth0"]["address"] == "02:00:5e:10:00:01"
    removed(cnitool, "static-address", pod, **wanted)


def test_fixed(cnitool: Cnitool) -> None:
    """fixed.conflist: the pod has the configured addresses and reaches the outside; the runtime may request others."""
    outside = cnitool.node.outside()
    pod, result = added(cnitool, "fixed", "pod")
    assert ips(result) == ["10.29.0.10", "fd00:29::10"]
    assert result["dns"] == {"nameservers": ["10.29.0.1"]}
    assert ask(pod, outside, "192.0.2.2", 7, "tcp") == "192.0.2.1"
    assert ask(pod, outside, "2001:db8:1::2", 7, "tcp") == "2001:db8:1::1"
    wanted = {"ips": ["10.29.0.77/24"]}
    other, result = added(cnitool, "fixed", "other", **wanted)
    assert ips(result) == ["10.29.0.77"]
    assert other.reaches("10.29.0.10")
    removed(cnitool, "fixed", pod, other)


def test_tuned(cnitool: Cnitool) -> None:
    """tuned.conflist: MTU, queue, sysctls and MAC are as configured or requested; CHECK of the bridge accepts them."""
    wanted = {"mac": "02:00:5e:10:00:01"}
    pod, result = added(cnitool, "tuned", "pod", **wanted)
    link = pod.links()["eth0"]
    assert (link["mtu"], link["txqlen"], link["address"]) == (1400, 500, wanted["mac"])
    assert (pod.sysctl("core/somaxconn"), pod.sysctl("ipv4/conf/eth0/arp_filter")) == ("1024", "1")
    assert [one["mac"] for one in result["interfaces"] if one.get("sandbox")] == [wanted["mac"]]
    assert pod.reaches("10.28.0.1")
    removed(cnitool, "tuned", pod, **wanted)
    assert pod.sysctl("core/somaxconn") == "4096"
    assert list(cnitool.node.path("/run/cni/tuning").glob("*")) == []


def test_local(cnitool: Cnitool) -> None:
    """local.conflist: the pod reaches itself."""
    pod, result = added(cnitool, "local", "pod")
    assert ips(result) == ["127.0.0.1", "::1"]
    assert pod.reaches("127.0.0.1")
    removed(cnitool, "local", pod)
    assert "UP" not in pod.links()["lo"]["flags"]


NODE_FILE = {"podCIDRs": ["10.30.1.0/24", "fd00:30:0:1::/64"], "clusterCIDRs": ["10.30.0.0/16", "fd00:30::/48"]}
PEERS_FILE = {"peers": [{"name": "b", "addresses": ["192.0.2.2", "2001:db8:1::2"], "podCIDRs": ["10.30.2.0/24"]}]}


def provision(node: Node, name: str, content: object) -> None:
    """Write a file below /run/slash24, as the tool that provisions the node does."""
    folder = node.path("/run/slash24")
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content))


def published(cnitool: Cnitool, outside: Pod, network: str, **limits: int) -> None:
    """Add a pod with a host port and limits: both work, and DEL removes both."""
    mappings = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
    capabilities = {"portMappings": mappings, "bandwidth": limits}
    pod, result = added(cnitool, network, "published", **capabilities)
    assert ask(outside, pod, ips(result)[0], 80, "tcp", to=("192.0.2.1", 8080)) == "192.0.2.2"
    removed_from_node(cnitool, network, pod, **capabilities)


def removed_from_node(cnitool: Cnitool, network: str, *pods: Pod, **capabilities: object) -> None:
    """Like `removed`, but the state that belongs to the node stays."""
    removed(cnitool, network, *pods, **capabilities)
    assert f"slash24_egress_{network}" in cnitool.node.ruleset()


LIMITS = {"ingressRate": 80_000_000, "ingressBurst": 8_000_000, "egressRate": 80_000_000, "egressBurst": 8_000_000}


def test_kubenet(cnitool: Cnitool) -> None:
    """kubenet.conflist: subnet and peers from files; peers see the pod's address, others the node's; host ports."""
    node, outside = cnitool.node, cnitool.node.outside()
    failed = cnitool.run("status", "kubenet", node.pod("none"))
    assert failed.returncode != 0
    assert "/run/slash24/node.json" in failed.stdout + failed.stderr
    provision(node, "node.json", NODE_FILE)
    provision(node, "peers.json", PEERS_FILE)
    cnitool.ok("status", "kubenet", node.pod("any"))
    blue, result = added(cnitool, "kubenet", "blue")
    red, other = added(cnitool, "kubenet", "red")
    assert ips(result) == ["10.30.1.2", "fd00:30:0:1::2"]
    assert all(blue.reaches(address) for address in (*ips(other), "10.30.1.1", "fd00:30:0:1::1"))
    route = node.routes()["10.30.2.0/24"]
    assert (route["gateway"], route["dev"], route["protocol"]) == ("192.0.2.2", "wan0", "24")
    assert ask(blue, outside, "192.0.2.2", 7, "tcp") == "10.30.1.2"
    outside.run(["ip", "addr", "add", "198.51.100.9/32", "dev", "eth0"])
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    assert ask(blue, outside, "198.51.100.9", 7, "tcp") == "192.0.2.1"
    removed_from_node(cnitool, "kubenet", blue, red)
    published(cnitool, outside, "kubenet", **LIMITS)


def test_vxlan(cnitool: Cnitool) -> None:
    """vxlan.conflist: the pod and a host set up by hand as in docs/vxlan.md reach each other; host ports work."""
    node, outside = cnitool.node, cnitool.node.outside()
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    pod, result = added(cnitool, "vxlan", "pod")
    assert pod.links()["eth0"]["mtu"] == 1450
    by_hand = """
        ip link add vx type vxlan id 1 dstport 4789 local 192.0.2.2 dev eth0 nolearning
        ip link set vx address 02:24:0a:1f:02:00 mtu 1450 up
        ip addr add 10.31.2.0/32 dev vx
        ip addr add fd00:31:0:2::/128 dev vx nodad
        for via in 10.31.1.0 fd00:31:0:1::; do
            ip neigh add $via lladdr 02:24:0a:1f:01:00 dev vx nud permanent
        done
        bridge fdb add 02:24:0a:1f:01:00 dev vx self permanent dst 192.0.2.1
        ip route add 10.31.1.0/24 via 10.31.1.0 dev vx onlink
        ip -6 route add fd00:31:0:1::/64 via fd00:31:0:1:: dev vx onlink
    """
    outside.run(["sh", "-ec", by_hand])
    for own, address in zip(ips(result), ("10.31.2.0", "fd00:31:0:2::"), strict=True):
        assert ask(pod, outside, address, 7, "tcp") == own
        assert ask(outside, pod, own, 7, "udp") == address
    removed_from_node(cnitool, "vxlan", pod)
    published(cnitool, outside, "vxlan", **LIMITS)


def test_what_docs_vxlan_shows(cnitool: Cnitool) -> None:
    """The commands in docs/vxlan.md that list entries or compute MACs print what the page shows."""
    cnitool.node.outside()
    cnitool.node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    conflist = json.loads((EXAMPLES / "vxlan.conflist").read_text())
    plugin = conflist["plugins"][0] | {"podCIDRs": ["10.244.1.0/24"]}
    plugin["peers"] = [{"name": "b", "addresses": ["192.0.2.2"], "podCIDRs": ["10.244.2.0/24"]}]
    cnitool.write({**conflist, "plugins": [plugin]})
    added(cnitool, "vxlan", "pod")
    page = (ROOT / "docs" / "vxlan.md").read_text()
    shown = {
        "`10.244.2.0 lladdr 02:24:0a:f4:02:00 PERMANENT`": "ip neigh show dev slash24.1",
        "`02:24:0a:f4:02:00 dst 192.0.2.2 self permanent`": "bridge fdb show dev slash24.1",
        "`10.244.2.0/24 via 10.244.2.0 dev slash24.1 proto 24 onlink`": "ip route show proto 24",
        "`10.244.1.0/32`": "ip address show slash24.1",
        "alias `slash24 vtep`": "ip -d link show slash24.1",
        "sets `peers4`": "nft list table inet slash24_vtep_vxlan",
    }
    for entry, command in shown.items():
        assert entry in page
        assert f"`{command}`" in page
        printed = cnitool.node.run(command.split()).stdout
        words = entry.partition("`")[2].rstrip("`").replace(" proto 24", "")
        assert words in " ".join(printed.split()), command
    (block,) = re.findall(r"^```sh\n(printf.*?)^```", page, re.MULTILINE | re.DOTALL)
    for mac in cnitool.node.run(["bash", "-ec", block]).stdout.split():
        assert f"has `{mac}`" in page


@pytest.mark.parametrize("subnets", [["10.32.1.0/24"], ["10.32.1.0/24", "fd00:32:0:1::/64"]], ids=["IPv4", "dual"])
def test_the_template_for_containerd(cnitool: Cnitool, subnets: list[str]) -> None:
    """docs/containerd/kubenet.template, filled in as Go's text/template does, is a working configuration."""
    template = (ROOT / "docs" / "containerd" / "kubenet.template").read_text()
    loop = '{{range $i, $cidr := .PodCIDRRanges}}{{if $i}}, {{end}}"{{$cidr}}"{{end}}'
    assert template.count("{{") == loop.count("{{")
    conflist = json.loads(template.replace(loop, ", ".join(f'"{subnet}"' for subnet in subnets)))
    cnitool.write(conflist)
    outside = cnitool.node.outside()
    pod, result = added(cnitool, "kubenet", "pod")
    assert ips(result) == [subnet.replace(".0/24", ".2").replace("::/64", "::2") for subnet in subnets]
    assert ask(pod, outside, "192.0.2.2", 7, "tcp") == "192.0.2.1"
    removed_from_node(cnitool, "kubenet", pod)


def test_removing_a_nodes_state_as_explained(cnitool: Cnitool) -> None:
    """With no pods left, the commands in docs/kubenet.md remove everything that remains on the node."""
    node = cnitool.node
    node.outside()
    provision(node, "node.json", NODE_FILE)
    provision(node, "peers.json", PEERS_FILE)
    pod, _ = added(cnitool, "kubenet", "pod")
    pod.vanish()
    text = (ROOT / "docs" / "kubenet.md").read_text()
    (block,) = re.findall(r"^```sh\n(ip route flush.*?)^```", text, re.MULTILINE | re.DOTALL)
    node.run(["sh", "-ec", block], env={"PATH": os.environ["PATH"]})
    assert wait_until(lambda: set(node.links()) == {"lo", "wan0"})  # the kernel deletes a namespace asynchronously
    assert "slash24_egress" not in node.ruleset()
    assert "10.30.2.0/24" not in node.routes()


def test_a_renamed_network_as_explained(cnitool: Cnitool) -> None:
    """The commands in docs/installing.md release what a pod leaves if its network was renamed before its DEL."""
    node, pod = cnitool.node, added(cnitool, "simple", "pod")[0]
    old = json.loads((EXAMPLES / "simple.conflist").read_text())
    cnitool.write(old | {"name": "renamed"})
    cnitool.ok("del", "renamed", pod)
    assert node.path("/var/lib/cni/networks/simple/10.21.0.2").exists()
    text = (ROOT / "docs" / "installing.md").read_text()
    (block,) = re.findall(r"^```sh\n(mkdir /tmp/old.*?)^```", text, re.MULTILINE | re.DOTALL)
    for word, real in (("/tmp/", "/run/"), ("OLD.conflist", str(EXAMPLES / "simple.conflist")), ("OLD-NAME", "simple")):
        block = block.replace(word, real)
    block = block.replace("/opt/cni/bin", ":".join(map(str, cnitool.path))).replace(
        "cnitool gc", f"{cnitool.executable} gc"
    )
    node.run(["sh", "-ec", block])
    removed(cnitool, "simple")


def test_every_example_is_tested() -> None:
    """Each example conflist has a test here with its name, or a test elsewhere that names it."""
    here = {name.removeprefix("test_").replace("_", "-") for name in globals() if name.startswith("test_")}
    code = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__))
    untested = [path.name for path in EXAMPLES.glob("*.conflist") if path.stem not in here and path.name not in code]
    assert untested == []


@pytest.mark.cold(reason="the demonstration has a /run of its own")
def test_the_demonstration_works(node: Node, bin_dir: Path, reference_bin: Path) -> None:
    """demo.sh succeeds, prints plain text when its output is not a terminal, and leaves the node unchanged."""
    before = (node.links().keys(), node.ruleset(), sorted(node.path("/var/lib").rglob("*")))
    env = {"PATH": PATH, "SLASH24_BIN": str(bin_dir), "REFERENCE_BIN": str(reference_bin)}
    done = node.run([ROOT / "demo.sh"], env=env)
    assert "2 veths, 4 leases, 4 masquerade elements" in done.stdout
    assert "0 veths, 0 leases, 0 masquerade elements" in done.stdout
    assert done.stdout.count("64 bytes from") == 4
    assert "\x1b" not in done.stdout
    assert (node.links().keys(), node.ruleset(), sorted(node.path("/var/lib").rglob("*"))) == before


@pytest.mark.cold(reason="the demonstration has a /run of its own")
@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}], ids=["colour", "NO_COLOR"])
def test_the_demonstration_is_coloured_on_a_terminal(
    node: Node, bin_dir: Path, reference_bin: Path, variables: Mapping[str, str]
) -> None:
    """demo.sh prints colours on a terminal, unless NO_COLOR is set."""
    env = {"PATH": PATH, "SLASH24_BIN": str(bin_dir), "REFERENCE_BIN": str(reference_bin), **variables}
    done = node.run(["script", "-qec", ROOT / "demo.sh", "/dev/null"], env=env)
    assert "0 veths, 0 leases, 0 masquerade elements" in done.stdout
    assert ("\x1b[1m" in done.stdout) == (not variables)


def error(text: str) -> str:
    """Return the heading of an error in docs/troubleshooting.md, with the variable parts filled in for the test."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    assert f"`{text}`" in page
    return text


def test_errors_are_as_explained(cni: CNI, node: Node) -> None:
    """docs/troubleshooting.md quotes the errors that operators get."""
    pod, other = node.pod("pod"), node.pod("other")
    result = cni.add(L3, pod)
    moved = {**L3, "ipam": {"type": "host-local", "subnet": "10.1.2.0/24", "dataDir": "/run/elsewhere"}}
    moved["ipam"]["gateway"] = "10.1.2.9"
    node.run(["ip", "link", "add", "X", "type", "veth", "peer", "name", "Y"])
    cases = [
        (L3, pod, 'failed to create "eth0" in the container: the container has an interface of that name already'),
        ({**BRIDGE, "bridge": "X"}, other, '"X" already exists but is not a bridge'),
        ({**BRIDGE, "ipam": {"type": "nosuch"}}, other, 'failed to find plugin "nosuch" in path [...]'),
    ]
    for conf, whose, text in cases:
        with pytest.raises(CNIFailure) as caught:
            cni.add(conf, whose)
        assert error(text).partition(" [...]")[0] in caught.value.text
    with pytest.raises(CNIFailure, match='"cni0" already has an IP address different from 10.1.2.9/24'):
        cni.add(moved, other)
    for number in range(4):
        cni.add(L3, node.pod(f"more{number}"))
    with pytest.raises(CNIFailure, match=error("no IP addresses available in range set")):
        cni.add(L3, other)
    with pytest.raises(CNIFailure, match="no such network namespace"):
        cni.add(L3, other, netns="/run/netns/nosuch")
    cni.check(L3, pod, result)


def test_starting_over_as_explained(cni: CNI, node: Node) -> None:
    """With no pods left, the commands under "Starting over" remove everything, and a later ADD works."""
    conf = {**L3, "ipMasq": True, "macspoofchk": True, "sourceAddressValidation": True}
    pod = node.pod("pod")
    cni.add(conf, pod)
    pod.vanish()
    text = (ROOT / "docs" / "troubleshooting.md").read_text().partition("## Starting over")[2]
    commands = re.search(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[1]
    node.run(["sh", "-ec", commands.replace("NETWORK", "net")], env={"PATH": os.environ["PATH"]})
    assert wait_until(lambda: not [name for name in node.links() if name.startswith(("veth", "cni"))])
    assert node.ruleset() == ""
    assert ips(cni.add(conf, node.pod("next"))) == ["10.1.2.2"]
