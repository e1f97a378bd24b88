"""The checks of `slash24 validate`, each on made-up facts: what is sound, and what is wrong with it."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from errno import EACCES

import pytest

from cli.facts.networks import Network
from cli.facts.runtimes import Runtime
from cli.facts.services import Service
from cli.status.picture import Event
from cli.switch.leftover import LINK, Leftover
from cli.validate import (
    clock,
    executables,
    firewalls,
    forwarding,
    kernel,
    leftovers,
    mtu,
    peers,
    ranges,
    runtime,
    services,
    trial,
    tunnel,
)
from cli.validate.echo import Answers, Target
from cli.validate.executables import Found
from cli.validate.findings import NOT_APPLICABLE, OK, PROBLEM, WARNING, Finding
from cli.validate.firewalls import Gate
from cli.validate.forwarding import Arrival
from cli.validate.node import main_runtime
from cli.validate.pods import PodNetwork, read_pod_network
from cli.validate.ranges import Taken
from cli.validate.services import PodLogs
from cli.validate.table import CHECKS, TRIAL, Check
from plugins.__main__ import stated_version
from plugins.node.records import Node, Records
from plugins.node.selection import Peers
from plugins.node.tunnel import TunnelConf
from tests.conftest import ROOT

CONTAINERD = Runtime("containerd", running=True, version="1.6.20", socket="/run/containerd.sock")
PODMAN = Runtime("podman", running=True, version="4.3.1", max_conf_num=0, network="podman")
TUNNEL = TunnelConf("slash24.1", 1, 4789, "", "", "", False, False, True, None)
PODS = PodNetwork(
    "net",
    "vxlan",
    "vx0",
    ("10.31.1.0/24", "fd00:31:0:1::/64"),
    ("10.31.0.0/16", "fd00:31::/48"),
    is_routed=True,
    tunnel=TUNNEL,
)


def outcomes(findings: Iterable[Finding]) -> list[str]:
    """The outcomes; whatever is wrong says how to mend it, unless nothing could be told."""
    found = list(findings)
    assert all(one.mend for one in found if one.outcome == PROBLEM)
    return [one.outcome for one in found]


def only(findings: Iterable[Finding], outcome: str, *words: str) -> None:
    """There is one finding, with that outcome; sentence and mend contain these words."""
    (one,) = findings
    assert one.outcome == outcome, one
    assert all(word in f"{one.found} [{one.mend}]" for word in words), one


def sysctls(**changed: str) -> Callable[[str], str]:
    """A sound node's; `changed` by the key with "__" for "/"."""
    sound = {"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv4/conf/all/rp_filter": "0"}
    for link in ("eth0", "vx0", "default"):
        sound |= {f"ipv4/conf/{link}/forwarding": "1", f"ipv6/conf/{link}/disable_ipv6": "0"}
        sound[f"ipv4/conf/{link}/rp_filter"] = "2"
    return (sound | {key.replace("__", "/"): value for key, value in changed.items()}).get


def network(*types: str, path: str = "/etc/cni/net.d/10-net.conflist", **keys: object) -> Network:
    """A network of plugins of these types."""
    return Network(
        path, **{"name": "net", "stated": "1.0.0", "plugins": tuple({"type": kind} for kind in types), **keys}
    )


def test_every_check_is_documented() -> None:
    """docs/validate.md has a row for each, in their order, with what it looks at."""
    page = (ROOT / "docs" / "validate.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \| [^|]+ \|$", page, re.MULTILINE)
    assert rows == [(check.name, check.looks_at) for check in (*CHECKS, TRIAL)]


def test_a_check_that_cannot_look_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason; the others are made all the same."""

    def refuse(_: object) -> None:
        raise PermissionError(EACCES, "Permission denied", "/proc/x")

    monkeypatch.setattr(clock, "check", refuse)
    only(Check("clock", "", "clock.check").made(None), WARNING, "could not be looked at", "/proc/x")


def test_runtimes() -> None:
    """One that serves the kubelet comes before podman; one that does not use CNI matters if there is no other."""
    assert main_runtime([PODMAN, CONTAINERD]) is CONTAINERD
    assert main_runtime([PODMAN, replace(CONTAINERD, running=False)]) is PODMAN
    assert outcomes(runtime.judge_runtimes([CONTAINERD, PODMAN])) == [OK, OK]
    only(runtime.judge_runtimes([]), WARNING, "no runtime")
    only(runtime.judge_runtimes([replace(CONTAINERD, running=False)]), WARNING, "does not answer", "systemctl start")
    off = replace(CONTAINERD, cni_version="", why_not="its CRI is switched off by disabled_plugins in /etc/c.toml")
    only(runtime.judge_runtimes([off]), PROBLEM, "does not use CNI", 'take "cri" out of disabled_plugins')
    assert outcomes(runtime.judge_runtimes([off, PODMAN])) == [NOT_APPLICABLE, OK]
    netavark = replace(PODMAN, cni_version="", why_not="its network_backend is netavark")
    only(runtime.judge_runtimes([netavark]), PROBLEM, "network_backend")
    assert outcomes(runtime.judge_runtimes([replace(CONTAINERD, problems=("x is no TOML",))])) == [WARNING, OK]


def networks(*files: Network, installed: Iterable[str] = ("bridge", "vxlan"), **keys: object) -> list[Finding]:
    """What is found of these files."""
    return list(runtime.judge_networks(files, "/etc/cni/net.d", installed, **{"wanted": "", "skips": False, **keys}))


def test_network_files() -> None:
    """What is used, what is in the way, and what would be used next."""
    ours = network("vxlan", path="/n/10-slash24.conflist")
    flannel = network("flannel", path="/n/05-flannel.conflist", name="cbr0")
    broken = Network("/n/00-x.conflist", problem="not JSON")
    only(networks(), PROBLEM, "has no network", "slash24 install")
    assert outcomes(networks(ours)) == [OK]
    assert outcomes(networks(ours, network("bridge", path="/n/87-podman.conflist"))) == [OK]
    assert outcomes(networks(broken, ours)) == [OK, PROBLEM]
    assert outcomes(networks(broken, ours, skips=True)) == [OK, WARNING]
    assert outcomes(networks(ours, replace(broken, path="/n/99-x.conflist"))) == [OK, WARNING]
    assert outcomes(networks(flannel, ours, installed=("flannel", "vxlan"))) == [OK, PROBLEM]
    assert "05-flannel" in networks(flannel, ours, installed=("flannel", "vxlan"))[1].mend
    stale = networks(ours, replace(flannel, path="/n/20-flannel.conflist"))
    only(stale[1:], WARNING, "stale", "no plugin flannel", "mv /n/20-flannel.conflist")
    assert outcomes(networks(flannel, ours, wanted="net", installed=("flannel", "vxlan"))) == [OK]
    only(networks(ours, wanted="other"), PROBLEM, '"other"')


def test_versions() -> None:
    """A runtime refuses a network that is newer than it."""
    only(runtime.judge_version(network("vxlan"), CONTAINERD), OK, "as CNI 1.0.0")
    newer = network("vxlan", stated="1.1.0", offered=("1.0.0",))
    only(runtime.judge_version(newer, CONTAINERD), PROBLEM, "1.1.0", '"cniVersion": "1.0.0"')
    only(runtime.judge_version(newer, replace(CONTAINERD, cni_version="1.1.0")), OK, "as CNI 1.1.0")


def test_kinds_of_plugins() -> None:
    """Those of IPAM are needed, too."""
    ipam = {"type": "bridge", "ipam": {"type": "static"}}
    kinds = executables.kinds_of([ipam, {"type": "vxlan"}, {"type": "portmap", "ipam": 5}, {"type": "portmap"}])
    assert kinds == ["bridge", "static", "vxlan", "host-local", "portmap"]


FOUND = Found("bridge", "/b/bridge", is_ours=True, about=stated_version("bridge"), versions=("1.0.0", "1.1.0"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"path": "", "is_ours": False, "elsewhere": "/opt/cni/bin/bridge"}, ("is not in /b", "/opt/cni/bin/bridge")),
        ({"is_executable": False}, ("chmod 755 /b/bridge",)),
        ({"failure": "no answer"}, ("no answer",)),
        ({"is_ours": False, "elsewhere": "/opt/cni/bin/bridge"}, ("not of slash24", "/opt/cni/bin/bridge")),
        ({"about": "0.0.1"}, ("0.0.1",)),
        ({"versions": ("0.4.0",)}, ("supports CNI 0.4.0, not 1.0.0",)),
    ],
)
def test_executables(change: Mapping[str, object], words: tuple[str, ...]) -> None:
    """Each is there, executable, ours, and of this version."""
    assert not list(executables.judge([FOUND, Found("x", "/b/x", versions=("1.0.0",))], ["/b"], "1.0.0"))
    only(executables.judge([replace(FOUND, **change)], ["/b"], "1.0.0"), PROBLEM, *words)


def test_services() -> None:
    """What they say of themselves; none need run."""
    runs = Service("slash24-node", is_running=True, is_ready=True)
    only(services.judge(Service("slash24-node")), NOT_APPLICABLE)
    only(services.judge(runs), OK, "is ready")
    only(services.judge(Service("slash24-agent", is_waiting=True)), OK, "next call")
    only(services.judge(replace(runs, problems=("one peer",))), WARNING, "one peer")
    only(services.judge(replace(runs, is_ready=False, problems=("no subnet",))), PROBLEM, "no subnet", "journalctl")
    only(services.judge(replace(runs, pages={"/status": {"version": "0.0.9"}})), PROBLEM, "0.0.9", "systemctl restart")
    only(services.judge(Service("slash24-agent", unit="failed", problems=("it failed",))), PROBLEM, "it failed")


@pytest.mark.parametrize(
    "line",
    [
        'failed to setup network for sandbox "0123abcd": plugin type="vxlan" failed (add): no IP addresses available',
        "failed to create pod network sandbox k8s_web: error adding pod to CNI network",
        "container runtime network not ready: NetworkReady=false message:Network plugin returns error: not initialized",
        "cni config load failed: no network config found in /etc/cni/net.d: cni plugin not initialized",
    ],
)
def test_the_log(line: str) -> None:
    """Messages of containerd 1.6 and 2, CRI-O and the kubelet; the same one of many pods is told once."""
    only(services.judge_log(None, None), NOT_APPLICABLE)
    only(services.judge_log(["StopPodSandbox for 01 returns successfully"], None), OK, "the journal")
    only(services.judge_log(["fine", line.replace("0123abcd", "9876fedc"), line], []), WARNING, line)


def test_the_agents_errors() -> None:
    """Those of the last hour."""
    only(services.judge_log(None, []), OK, "the agent's last errors")
    only(services.judge_log(None, [Event(4000, "ADD of a by vxlan failed: no")]), OK)
    same = [Event(1, "ADD of 0123abc by vxlan failed: no"), Event(9, "ADD of 4567def by vxlan failed: no")]
    only(services.judge_log(None, same), WARNING, "0123abc")


def test_dns_pods() -> None:
    """A pod without a container for minutes has got no network, mostly."""
    pod = PodLogs("kube-system_coredns-77-abc_1-2-3", has_containers=True, age=500)
    only(services.judge_dns(None), NOT_APPLICABLE, "no kubelet")
    only(services.judge_dns([replace(pod, name="shop_web_1")]), NOT_APPLICABLE, "1 of 1 pods")
    only(services.judge_dns([pod]), OK, "coredns-77-abc")
    only(services.judge_dns([replace(pod, has_containers=False)]), PROBLEM, "kubectl", "coredns-77-abc")
    only(services.judge_dns([replace(pod, has_containers=False, age=5)]), WARNING, "no container yet")


def test_kernel() -> None:
    """Only what the network needs."""
    assert kernel.needs(PodNetwork(kind="calico")) == []
    assert [one for one in kernel.needs(PODS) if one in ("bridge", "veth", "vxlan")] == ["bridge", "veth", "vxlan"]
    more = set(kernel.needs(replace(PODS, is_vlan=True, chained=("bandwidth",)))) - set(kernel.needs(PODS))
    assert len(more) == 2
    only(kernel.judge({"vxlan": "Operation not supported"}), PROBLEM, "no vxlan", "modprobe -a vxlan", "CONFIG_VXLAN")


@pytest.mark.parametrize(
    ("change", "outcome", "words"),
    [
        ({"ipv4__ip_forward": "0"}, PROBLEM, ("IPv4", "sysctl -w net/ipv4/ip_forward=1", "/etc/sysctl.d/")),
        ({"ipv6__conf__all__forwarding": "0"}, PROBLEM, ("IPv6",)),
        ({"ipv4__conf__eth0__forwarding": "0"}, PROBLEM, ('"eth0"',)),
        ({"ipv4__conf__default__forwarding": "0"}, WARNING, ("from now on",)),
        ({"ipv6__conf__eth0__disable_ipv6": "1"}, PROBLEM, ('"eth0"', "disable_ipv6=0")),
    ],
)
def test_forwarding(change: Mapping[str, str], outcome: str, words: tuple[str, ...]) -> None:
    """Of the node, and of each link."""
    links = ["vx0", "eth0", "default"]
    assert not list(forwarding.judge(PODS, links, sysctls()))
    only(forwarding.judge(PODS, links, sysctls(**change)), outcome, *words)


def test_forwarding_of_a_node_without_pods() -> None:
    """The first ADD switches it on; and what a family needs is not asked for the other."""
    assert not list(forwarding.judge(PODS, ["default"], sysctls(ipv4__ip_forward="0")))
    only_v4 = replace(PODS, subnets=PODS.subnets[:1])
    assert not list(forwarding.judge(only_v4, ["vx0"], sysctls(ipv6__conf__vx0__disable_ipv6="1")))


def test_bridged_packets() -> None:
    """They matter to kube-proxy, unless policies have them routed."""
    on = sysctls(**{"bridge__bridge-nf-call-iptables": "1", "bridge__bridge-nf-call-ip6tables": "1"})
    only(forwarding.judge_bridged(PODS, "", sysctls()), NOT_APPLICABLE)
    only(forwarding.judge_bridged(PODS, "chain KUBE-SERVICES", on), OK)
    only(forwarding.judge_bridged(PODS, "chain KUBE-SERVICES", sysctls()), PROBLEM, "iptables and", "ip6tables=1")
    only(forwarding.judge_bridged(replace(PODS, has_policies=True), "table kube-proxy", sysctls()), NOT_APPLICABLE)


def test_reverse_path() -> None:
    """Strict filters matter where packets come in by another link than replies leave by."""
    strict = sysctls(ipv4__conf__eth0__rp_filter="1")
    other = Arrival("192.0.2.2", "eth0", "eth1")
    assert not list(forwarding.judge_reverse_path([replace(other, leaves_by="eth0")], "", strict))
    assert not list(forwarding.judge_reverse_path([other], "", sysctls(ipv4__conf__all__rp_filter="1")))
    only(forwarding.judge_reverse_path([other], "", strict), PROBLEM, '"eth0"', '"eth1"', "rp_filter=2")
    only(forwarding.judge_reverse_path([], "eth0", strict), WARNING, '"eth0"', "strict")


def test_advertisements() -> None:
    """A link that forwards ignores them, unless accept_ra is 2."""
    lost = sysctls(ipv6__conf__eth0__accept_ra="1", ipv6__conf__eth0__forwarding="1")
    only(forwarding.judge_advertisements(["eth0"], ["eth0"], lost, has_route=True), PROBLEM, "accept_ra=2")
    only(
        forwarding.judge_advertisements([], ["eth0"], lost, has_route=False), PROBLEM, "no default route", "accept_ra=2"
    )
    assert not list(forwarding.judge_advertisements([], ["eth0"], lost, has_route=True))
    kept = sysctls(ipv6__conf__eth0__accept_ra="2", ipv6__conf__eth0__forwarding="1")
    assert not list(forwarding.judge_advertisements([], ["eth0"], kept, has_route=False))


GATE = Gate("ip filter FORWARD", "forward", (4,))


@pytest.mark.parametrize(
    ("gate", "chained", "outcome", "words"),
    [
        (GATE, (), PROBLEM, ("IPv4", '{"type": "firewall"}')),
        (replace(GATE, accepts=(4,)), (), "", ()),
        (replace(GATE, by="ufw"), (), PROBLEM, ("of ufw", "ufw route allow in on vx0")),
        (
            Gate("inet firewalld filter_FORWARD", "forward", (4, 6), by="firewalld"),
            (),
            PROBLEM,
            ("--add-source=10.31",),
        ),
        (Gate("inet mine fwd", "forward", (4, 6)), (), PROBLEM, ("nft add rule inet mine fwd iifname vx0 accept",)),
        (GATE, ("firewall",), WARNING, ("other nodes", "iptables -A CNI-ADMIN -s 10.31.0.0/16 -j ACCEPT")),
        (replace(GATE, from_cluster=(4,)), ("firewall",), "", ()),
        (replace(GATE, place="iptables-legacy FORWARD"), (), WARNING, ("iptables-legacy -A FORWARD -i vx0",)),
        (Gate("ip filter INPUT", "input", (4,)), (), WARNING, ("4789", "udp dport 4789")),
        (Gate("ip filter INPUT", "input", (4,), accepts=(4,)), (), "", ()),
        (Gate("ip6 filter INPUT", "input", (6,)), (), "", ()),
    ],
)
def test_firewalls(gate: Gate, chained: tuple[str, ...], outcome: str, words: tuple[str, ...]) -> None:
    """What refuses by default must accept pods' packets, those of other nodes' pods, and the tunnel's."""
    found = list(firewalls.judge([gate], replace(PODS, chained=chained), "192.0.2.1", has_peers=True))
    if outcome:
        only(found, outcome, *words)
    else:
        assert not found


def test_ranges() -> None:
    """Of this node's pods, of all pods, of services, links and other networks."""
    assert not list(ranges.judge(PODS, [Taken("192.0.2.1/24", 'link "eth0"'), Taken("10.96.0.0/12", "services")]))
    only(
        ranges.judge(PODS, [Taken("10.31.1.9/16", 'link "docker0" (Docker)')]), PROBLEM, "pods of this node", "docker0"
    )
    only(ranges.judge(PODS, [Taken("10.31.128.0/20", "services (x)")]), PROBLEM, "all pods", "services another one")
    other = PodNetwork("other", "bridge", "br1", ("10.31.1.128/25",), is_routed=True)
    only(ranges.judge_networks(PODS, [other]), PROBLEM, '"other"', "10.31.1.128/25")
    only(ranges.judge_networks(PODS, [replace(other, bridge="vx0", subnets=("10.9.0.0/24",))]), PROBLEM, "one bridge")
    assert not list(ranges.judge_networks(PODS, [replace(other, subnets=("10.9.0.0/24",)), replace(PODS)]))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"kube-apiserver\0--service-cluster-ip-range=10.96.0.0/12,fd00:96::/108\0", ["10.96.0.0/12", "fd00:96::/108"]),
        (b"k3s\0server\0--service-cidr\x0010.43.0.0/16\0", ["10.43.0.0/16"]),
        (b"    - --service-cluster-ip-range=10.96.0.0/16\n", ["10.96.0.0/16"]),
        (b"vi\0--service-cluster-ip-range=///,:\0", []),
    ],
)
def test_service_ranges(text: bytes, found: list[str]) -> None:
    """In command lines and manifests."""
    assert [one.network for one in ranges.service_ranges_in(text)] == found


def test_peers() -> None:
    """A record that is left out is a problem, unless its node has just joined."""
    new, good = Node("new", ("192.0.2.3",), ()), Node("b", ("192.0.2.2",), ("10.31.2.0/24",))
    records = Records((new, good))
    assert not list(peers.judge(records, Peers((good,), (), ()), (), "f"))
    only(
        peers.judge(records, Peers((), (), ('peer "new" has no "podCIDRs" that can be used',)), (), "f"), WARNING, "new"
    )
    only(peers.judge(records, Peers((), (), ('peer "b" claims 10.31.1.0/24',)), (), "/f"), PROBLEM, "left out", "/f")
    only(peers.judge(records, Peers((), (), (), own_conflict="older"), (), "f"), PROBLEM, "another subnet")
    only(peers.judge(records, Peers((), (), (), about_this=("MAC",)), (), "f"), PROBLEM, "MAC")
    only(peers.judge(records, Peers((), (), ()), ("no route",), "f"), PROBLEM, "no route")
    assert outcomes(peers.judge(records, Peers((), (), ("peer x",) * 30), (), "f")) == [PROBLEM] * 21


def test_tunnel() -> None:
    """Rivals are devices and programs."""
    assert not list(tunnel.judge("", 4789, []))
    only(tunnel.judge('VNI 1 is taken by "flannel.1"', 4789, []), PROBLEM, "flannel.1", "ip link delete")
    only(tunnel.judge("", 4789, ["named (process 7)"]), PROBLEM, "UDP port 4789 is taken by named (process 7)")
    table = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref
  101: 00000000:12B5 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 31337 2
  102: garbage
"""
    assert list(tunnel.sockets_in(table)) == [tunnel.Socket(4789, 31337)]


def test_path_mtu() -> None:
    """A limit that routers tell, packets that vanish, and a peer that does not answer."""
    sizes, small, large = {"192.0.2.2": 1500}, Target("192.0.2.2"), Target("192.0.2.2", 1500)
    assert not list(mtu.judge(sizes, Answers({small, large}), 1450))
    only(mtu.judge(sizes, Answers({small}, {large: 1400}), 1450), PROBLEM, "only 1400", '"mtu": 1350')
    only(mtu.judge(sizes, Answers({small}, {large: 0}), 1450), PROBLEM, "less fit")
    only(mtu.judge(sizes, Answers({small}), 1450), PROBLEM, "not those of 1500 bytes", '"mtu"')
    only(mtu.judge(sizes, Answers(), 1450), WARNING, "could not be told")


def test_leftovers() -> None:
    """By provider, the first few."""
    left = [Leftover(LINK, f"cali{number}", f"link cali{number}", (), lambda: None) for number in range(5)]
    only(leftovers.judge({"calico": left}), WARNING, "cali0", "and 2 more", "slash24 switch")
    assert not list(leftovers.judge({}))


def test_clock() -> None:
    """TIME_OK, TIME_ERROR, and a refused call."""
    assert [outcomes(clock.judge(state)) for state in (0, 5, -1)] == [[OK], [WARNING], [WARNING]]


def test_what_a_trial_reaches() -> None:
    """The pods, the peers and outside."""
    only(trial.judge("a pod", "the gateway", ["10.1.0.1"], {"10.1.0.1"}), OK, "10.1.0.1")
    only(trial.judge("a pod", "the gateway", ["10.1.0.1", "fd00::1"], {"10.1.0.1"}), PROBLEM, "fd00::1 does not")
    assert not list(trial.judge("a pod", "the other pod", [], ()))
    behind = {"192.0.2.2": ("10.2.0.1", "10.2.0.0")}
    only(trial.judge_peers(behind, {"10.2.0.0"}, ()), OK, "10.2.0.0")
    only(trial.judge_peers(behind, (), {"192.0.2.2"}), WARNING, "answers this node")
    only(trial.judge_peers(behind, (), ()), WARNING, "neither")
    only(trial.judge_peers({}, (), ()), NOT_APPLICABLE)
    only(trial.judge_outside(["192.0.2.9"], {"192.0.2.9"}, ()), OK)
    only(trial.judge_outside(["192.0.2.9"], (), {"192.0.2.9"}), PROBLEM, "no pod")
    only(trial.judge_outside(["192.0.2.9"], (), ()), WARNING, "could not be told")
    only(trial.judge_outside([], (), ()), NOT_APPLICABLE)


@pytest.mark.parametrize(
    ("plugin", "expected"),
    [
        (
            {"type": "bridge", "isGateway": True, "ipam": {"type": "host-local", "subnet": "10.1.0.9/24"}},
            PodNetwork("net", "bridge", "cni0", ("10.1.0.0/24",), is_routed=True, chained=("firewall",)),
        ),
        (
            {"type": "bridge", "bridge": "br1", "vlan": 7, "ipam": {"type": "dhcp"}},
            PodNetwork("net", "bridge", "br1", is_vlan=True, chained=("firewall",)),
        ),
        ({"type": "calico"}, PodNetwork("net", "calico", chained=("firewall",))),
    ],
)
def test_what_a_network_says_of_pods(plugin: Mapping[str, object], expected: PodNetwork) -> None:
    """As the plugin itself would read it."""
    assert read_pod_network(network(plugins=(plugin, {"type": "firewall"}))) == expected


def test_a_network_that_its_plugin_refuses() -> None:
    """Its problem is the plugin's error."""
    found = read_pod_network(network(plugins=({"type": "bridge", "mtu": "big"},)))
    assert (found.bridge, '"mtu"' in found.problem) == ("cni0", True)
    found = read_pod_network(network(plugins=({"type": "vxlan", "subnetFile": "/nonexistent"},)))
    assert (found.bridge, "/nonexistent" in found.problem) == ("cbr0", True)
