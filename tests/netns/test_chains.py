"""Chains, run by cnitool: our bridge, followed by portmap, bandwidth, tuning and firewall, ours or the reference's."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.conformance.support import leases
from tests.netns.cni import Cnitool
from tests.netns.node import NODE_V4, NODE_V6, OUTSIDE_V4, Node, Pod, ask

Chain = Callable[..., Cnitool]
MAC = "c2:b0:57:49:47:f1"
PORTS = [
    {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
    {"hostPort": 8053, "containerPort": 53, "protocol": "udp"},
]
RATES = {"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 4_000_000, "egressBurst": 800_000}


@pytest.fixture(params=["slash24", "reference"])
def suite(request: pytest.FixtureRequest) -> str:
    """The suite that the plugins after our bridge belong to."""
    return request.param


@pytest.fixture
def chain(node: Node, bin_dir: Path, reference_bin: Path, suite: str, tmp_path: Path) -> Chain:
    """Writes a configuration list with our bridge and further plugins of `suite`."""
    for name in ("bridge", "host-local"):
        (tmp_path / name).symlink_to(bin_dir / name)
    folders = (tmp_path, bin_dir if suite == "slash24" else reference_bin)
    tool = Cnitool(node, reference_bin / "cnitool", folders)

    def write(*plugins: Mapping, **bridge: object) -> Cnitool:
        ranges = [[{"subnet": "10.22.0.0/24"}], [{"subnet": "fd00:22::/64"}]]
        first = {"type": "bridge", "bridge": "cni0", "isDefaultGateway": True, **bridge}
        first["ipam"] = {"type": "host-local", "ranges": ranges}
        tool.write({"cniVersion": "1.0.0", "name": "pods", "plugins": [first, *plugins]})
        return tool

    return write


def add(tool: Cnitool, pod: Pod, **capabilities: object) -> dict:
    """ADD and CHECK of the whole chain; waits until the gateway's IPv6 address is usable."""
    result = tool.ok("add", "pods", pod, capabilities=capabilities)
    tool.ok("check", "pods", pod, capabilities=capabilities)
    assert pod.reaches("fd00:22::1", timeout=15)
    return result


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
@pytest.mark.parametrize("masquerade", [False, True], ids=["open", "ipMasq"])
def test_portmap(chain: Chain, node: Node, backend: str, masquerade: bool) -> None:
    """The node's ports are forwarded to the pod, TCP and UDP, v4 and v6, from outside and other pods, until DEL."""
    tool = chain({"type": "portmap", "capabilities": {"portMappings": True}, "backend": backend}, ipMasq=masquerade)
    outside, pod, other = node.outside(), node.pod("first"), node.pod("second")
    add(tool, pod, portMappings=PORTS)
    add(tool, other)
    for client in (outside, other):
        assert ask(client, pod, "10.22.0.2", 80, "tcp", to=(NODE_V4, 8080))
        assert ask(client, pod, "fd00:22::2", 80, "tcp", to=(NODE_V6, 8080))
        assert ask(client, pod, "10.22.0.2", 53, "udp", to=(NODE_V4, 8053))
    assert ask(outside, pod, "10.22.0.2", 80, "tcp", to=(NODE_V4, 8080)) == OUTSIDE_V4
    tool.ok("del", "pods", pod, capabilities={"portMappings": PORTS})
    with outside.socket(NODE_V4, "tcp") as late, pytest.raises(ConnectionRefusedError):
        late.connect((NODE_V4, 8080))
    assert "10.22.0.2" not in node.ruleset()
    assert "fd00:22::2" not in node.ruleset()


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_portmap_hairpin(chain: Chain, node: Node, backend: str) -> None:
    """With hairpinMode a pod reaches itself through the node's port."""
    tool = chain({"type": "portmap", "capabilities": {"portMappings": True}, "backend": backend}, hairpinMode=True)
    node.outside()
    pod = node.pod("first")
    add(tool, pod, portMappings=PORTS)
    assert ask(pod, pod, "10.22.0.2", 80, "tcp", to=(NODE_V4, 8080))


def test_bandwidth(chain: Chain, node: Node) -> None:
    """The pod's link is shaped in both directions at the given rates, until DEL."""
    tool = chain({"type": "bandwidth", "capabilities": {"bandwidth": True}})
    pod = node.pod("first")
    result = add(tool, pod, bandwidth=RATES)
    (veth,) = [i["name"] for i in result["interfaces"] if i["name"].startswith("veth")]
    (ifb,) = [i["name"] for i in result["interfaces"] if i["name"].startswith("bwp")]
    assert "rate 8Mbit" in node.run(["tc", "qdisc", "show", "dev", veth]).stdout
    assert "rate 4Mbit" in node.run(["tc", "qdisc", "show", "dev", ifb]).stdout
    tool.ok("del", "pods", pod, capabilities={"bandwidth": RATES})
    assert not {veth, ifb} & set(node.links())


def test_tuning(chain: Chain, node: Node) -> None:
    """tuning's changes of the pod's link take effect, CHECK of the whole chain accepts them, and DEL succeeds."""
    sysctl = {"net.ipv4.conf.IFNAME.arp_filter": "1", "net.core.somaxconn": "500"}
    tool = chain({"type": "tuning", "sysctl": sysctl, "mac": MAC, "mtu": 1400, "promisc": True})
    pod, other = node.pod("first"), node.pod("second")
    result = add(tool, pod)
    link = pod.links()["eth0"]
    assert (link["address"], link["mtu"], "PROMISC" in link["flags"]) == (MAC, 1400, True)
    assert MAC in [interface["mac"] for interface in result["interfaces"]]
    assert (pod.sysctl("ipv4/conf/eth0/arp_filter"), pod.sysctl("core/somaxconn")) == ("1", "500")
    tool.ok("del", "pods", pod)
    assert "eth0" not in pod.links()
    add(tool, other)


def test_firewall(chain: Chain, node: Node) -> None:
    """On a node whose FORWARD policy is DROP, firewall's rules accept the pod's traffic, until DEL."""
    tool = chain({"type": "firewall", "backend": "iptables"}, ipMasq=True)
    node.run(["iptables", "-P", "FORWARD", "DROP"])
    node.run(["ip6tables", "-P", "FORWARD", "DROP"])
    outside, pod = node.outside(), node.pod("first")
    add(tool, pod)
    assert ask(pod, outside, OUTSIDE_V4, 80, "tcp") == NODE_V4
    tool.ok("del", "pods", pod)
    assert "10.22.0.2" not in node.ruleset()


def test_firewall_isolates_networks(chain: Chain, node: Node, suite: str) -> None:
    """ingressPolicy same-bridge takes the bridge from the result's first interface, as the reference does."""
    tool = chain({"type": "firewall", "ingressPolicy": "same-bridge"})
    outside, pod, other = node.outside(), node.pod("first"), node.pod("second")
    add(tool, pod)
    add(tool, other)
    assert other.reaches("10.22.0.2")
    if suite == "reference":
        assert "-A CNI-ISOLATION-STAGE-1 -i cni0 ! -o cni0 " in node.run(["iptables-save"]).stdout
    else:
        assert '"cni0" . 10.22.0.2 ' in node.ruleset()
    assert ask(pod, outside, OUTSIDE_V4, 80, "tcp") == "10.22.0.2"


def test_all_plugins_in_one_chain(chain: Chain, node: Node) -> None:
    """ADD, CHECK and DEL of the whole chain as distributions ship it, twice: it takes effect, and leaves nothing."""
    tool = chain(
        {"type": "portmap", "capabilities": {"portMappings": True}},
        {"type": "bandwidth", "capabilities": {"bandwidth": True}},
        {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}},
        {"type": "firewall"},
        ipMasq=True,
        macspoofchk=True,
        hairpinMode=True,
    )
    outside, pod = node.outside(), node.pod("first")
    before = set(node.links())
    for address in ("10.22.0.2", "10.22.0.3"):
        add(tool, pod, portMappings=PORTS, bandwidth=RATES)
        assert ask(outside, pod, address, 80, "tcp", to=(NODE_V4, 8080)) == OUTSIDE_V4
        assert ask(pod, outside, OUTSIDE_V4, 80, "tcp") == NODE_V4
        tool.ok("del", "pods", pod, capabilities={"portMappings": PORTS, "bandwidth": RATES})
        assert set(node.links()) - {"cni0"} == before
        assert leases(node, "/var/lib/cni/networks/pods") == {}
        assert address not in node.ruleset()
