"""`slash24 trace` on real nodes: where a packet arrives, where it stops, and that nothing is left of the trace."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.netns.cli_tools import document, slash24
from tests.netns.cluster_tools import network, record, write
from tests.netns.cni import CNI, PATH, with_prev
from tests.netns.daemon_policy_tools import ENABLED, PORT, Documents, add, pod_document, policy
from tests.netns.daemon_tools import Start, daemons_started
from tests.netns.node import Node, Pod, wait_until
from tests.netns.overlay_tools import join, second_node
from tests.netns.published import HTTP, Member

__all__ = ["daemons_started", "second_node"]

pytestmark = pytest.mark.cold
OUTSIDE = "192.0.2.2"
ENVIRONMENT = {"PATH": PATH, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
UNTRACED = """
import errno
from cli.app import slash24
from cli.trace import marking
from linux.netlink.socket import NetlinkError

def refuse(*_):
    raise NetlinkError(errno.EOPNOTSUPP, "not supported")

marking._make = refuse
slash24(prog_name="slash24")
"""
"""The command on a kernel that cannot trace."""
LISTENER = """
import socket
listener = socket.create_server(("0.0.0.0", 80))
print("ready", flush=True)
while True:
    listener.accept()[0].close()
"""


@pytest.fixture(name="pods")
def pods_of_a_bridge(node: Node, cni: CNI) -> tuple[Member, Member]:
    """Pods a (10.1.2.2) and b (10.1.2.3) of a node that reaches a host outside, and masquerades."""
    node.outside()
    return Member(cni, "a", ipMasq=True), Member(cni, "b", ipMasq=True)


@pytest.fixture(name="documents")
def folder_of_documents(node: Node) -> Documents:
    """An empty folder."""
    return Documents(node)


def traced(node: Node, *words: str, **wanted: object) -> dict:
    """The document of a trace, which must have these values, an exit status that fits, and leave no table."""
    before = tables(node)
    status, found = document(node, "trace", *words)
    assert tables(node) == before
    assert {key: found[key] for key in wanted} == wanted, found
    assert status == (1 if found["outcome"] == "stopped" else 0), found
    return found


def tables(node: Node) -> list[str]:
    """All nftables tables."""
    return node.run(["nft", "list", "tables"]).stdout.splitlines()


def texts(found: dict, *places: str) -> list[str]:
    """What is told of these kinds of places; of all, if none is named."""
    return [hop["text"] for hop in found["hops"] if not places or hop["where"] in places]


def passed(found: dict) -> set[str]:
    """The base chains that the packet met."""
    return {f"{hop['passage']['table']} {hop['passage']['chain']}" for hop in found["hops"] if hop["passage"]}


def listening(pod: Pod) -> subprocess.Popen:
    """A server of TCP on port 80."""
    server = pod.start([sys.executable, "-c", LISTENER], stdout=subprocess.PIPE, text=True)
    assert server.stdout.readline() == "ready\n"
    return server


@pytest.mark.usefixtures("pods")
def test_between_pods_of_a_bridge(node: Node) -> None:
    """The bridge switches; by name or address, in both IP versions; a closed port is told from an open one."""
    found = traced(node, "a", "b", outcome="answered", protocol="icmp", port=0)
    assert texts(found, "bridge") == ["br0 switches it: the node does not route it"]
    assert "echo reply, from 10.1.2.3" in texts(found, "answer")
    found = traced(node, "10.1.2.2", "10.1.2.3", "--port", "80", outcome="answered", protocol="tcp", port=80)
    assert found["sentence"].endswith("answered: RST, nothing listens on that port")
    found = traced(node, "a", "fd00:1::3", "--port", "53", "--protocol", "udp", outcome="answered")
    assert "ICMP port unreachable, from fd00:1::3" in texts(found, "answer")
    server = listening(Pod(node, "b"))
    try:
        found = traced(node, "a", "b", "--port", "80", outcome="answered")
        assert "SYN-ACK, from 10.1.2.3" in texts(found, "answer")
    finally:
        server.kill()
        server.communicate()


def test_ports_that_the_bridge_keeps_apart(node: Node, pods: tuple[Member, Member]) -> None:
    """Isolated ones; and one that is down."""
    veths = [member.result["interfaces"][1]["name"] for member in pods]
    for name in veths:
        node.run(["bridge", "link", "set", "dev", name, "isolated", "on"])
    found = traced(node, "a", "b", outcome="stopped")
    assert found["sentence"].endswith("; both pods are at isolated ports of the bridge")
    node.run(["ip", "link", "set", veths[1], "down"])
    found = traced(node, "a", "b", outcome="stopped")
    assert f"; {veths[1]} is a port of br0 (disabled, isolated, hairpin)" in found["sentence"]


@pytest.mark.usefixtures("pods")
def test_to_outside(node: Node) -> None:
    """With masquerade, which says what the source becomes; and what the node has no route to, or no neighbour."""
    found = traced(node, "a", OUTSIDE, "--port", "80", outcome="answered")
    assert "its source becomes 192.0.2.1" in texts(found, "rules")
    assert any("it leaves the pod's subnet, 10.1.2.0/24" in text for text in texts(found, "rules"))
    assert any("192.0.2.0/24 dev wan0" in text for text in texts(found, "route"))
    traced(node, "a", "2001:db8:1::2", outcome="answered")
    found = traced(node, "a", "198.51.100.7", outcome="stopped")
    assert found["hops"][-1] | {"passage": None} == {
        "where": "route",
        "text": "there is no route to 198.51.100.7",
        "is_stop": True,
        "passage": None,
    }
    found = traced(node, "a", "192.0.2.77", outcome="stopped")
    assert texts(found)[-1].startswith("nobody on wan0 answers for 192.0.2.77")
    found = traced(node, "a", "10.1.2.77", outcome="stopped")
    assert "the pod's next hop does not answer" in found["sentence"]
    assert texts(traced(node, "a", "10.1.2.1", outcome="answered"), "arrival") == [
        "arrives at the node itself, as 10.1.2.1"
    ]
    Pod(node, "a").run(["ip", "link", "set", "lo", "up"])
    assert traced(node, "a", "a", outcome="answered")["sentence"].startswith("it reached container a itself")


def test_a_pod_with_a_rate_limit(node: Node, cni: CNI, pods: tuple[Member, Member]) -> None:
    """What the pod sends takes a detour, which is told, and not taken for the way out."""
    limits = {"egressRate": 1000000, "egressBurst": 1000000, "ingressRate": 1000000, "ingressBurst": 1000000}
    cni.add(
        with_prev({"cniVersion": "1.1.0", "name": "net", "type": "bandwidth", **limits}, pods[0].result), pods[0].pod
    )
    found = traced(node, "a", OUTSIDE, outcome="answered")
    assert any(text.endswith("which limits what the pod sends") for text in texts(found, "link"))
    assert any("192.0.2.0/24 dev wan0" in text for text in texts(found, "route"))


@pytest.mark.usefixtures("pods")
def test_rules_of_others(node: Node) -> None:
    """They are told as nft prints them; so is who drops the answer. Without nft their handles are told."""
    node.run(["nft", "add", "table", "inet", "other"])
    node.run(["nft", "add", "chain", "inet", "other", "f", "{ type filter hook forward priority 5; }"])
    node.run(["nft", "add", "rule", "inet", "other", "f", "tcp", "dport", "81", "counter", "drop"])
    node.run(["nft", "add", "rule", "inet", "other", "f", "ip", "saddr", OUTSIDE, "icmp", "type", "echo-reply", "drop"])
    found = traced(node, "a", OUTSIDE, "--port", "81", outcome="stopped")
    assert found["sentence"] == "it was dropped by inet other f: rule 2: tcp dport 81 counter drop"
    found = traced(node, "a", OUTSIDE, outcome="stopped")
    assert "the answer was dropped by inet other f: rule 3: ip saddr 192.0.2.2" in found["sentence"]
    node.run(["nft", "add", "chain", "inet", "other", "f", "{ policy drop; }"])
    found = traced(node, "a", OUTSIDE, "--port", "82", outcome="stopped")
    assert found["sentence"] == "it was dropped by inet other f: no rule of f decides, its policy is drop"
    node.run(["nft", "add", "chain", "inet", "other", "f", "{ policy accept; }"])
    node.run(["iptables", "-I", "FORWARD", "-p", "udp", "-d", OUTSIDE, "-j", "REJECT"])
    found = traced(node, "a", OUTSIDE, "--port", "53", "--protocol", "udp", outcome="stopped")
    assert found["sentence"].startswith("it was dropped by ip filter FORWARD: rule ")
    env = ["env", "-i", "PATH=/nonexistent", f"PYTHONPATH={ROOT}", "PYTHONDONTWRITEBYTECODE=1"]
    done = node.run([*env, sys.executable, "-m", "cli", "trace", "a", OUTSIDE, "--port", "81"], check=False)
    assert (done.returncode, "inet other f: rule 2: drop" in done.stdout) == (1, True), done.stdout + done.stderr


def test_host_port(node: Node, pods: tuple[Member, Member]) -> None:
    """The destination becomes the pod's, and that is where it arrives."""
    pods[1].add(HTTP)
    found = traced(node, "a", "192.0.2.1", "--port", "8080", outcome="answered")
    assert "its destination becomes 10.1.2.3:80 (container b)" in texts(found, "rules")
    assert texts(found, "arrival") == ["arrives at container b"]
    assert any("the port leads to a pod" in text for text in texts(found, "rules"))


def test_policies(node: Node, cni: CNI, daemon: Start, documents: Documents) -> None:
    """Which policy isolates, which allows, and that a pod is held."""
    documents.write("pods.yaml", *(pod_document(name, app=name) for name in ("web", "client", "other")))
    from_client = [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]
    documents.write("web.yaml", policy("web", ingress=from_client, pods={"app": "web"}))
    documents.write("other.yaml", policy("silent", egress=[], pods={"app": "other"}))
    one = daemon("vxlan", more=ENABLED).await_ready()
    documents.await_force(one)
    addresses = {name: add(cni, name)[1] for name in ("web", "client", "other")}
    port = ("--port", str(PORT))
    found = traced(node, "client", "default/web", *port, outcome="answered")
    allowed = "ingress of default/web is allowed by NetworkPolicy default/web"
    assert any(allowed in text for text in texts(found, "rules")), found
    assert any("the node routes it, the bridge does not switch it" in text for text in texts(found, "rules"))
    found = traced(node, "web", "client", *port, outcome="answered")
    found = traced(node, "other", "client", *port, outcome="stopped")
    isolated = "egress of default/other is isolated by NetworkPolicy default/silent, and no rule allows this"
    assert isolated in found["sentence"]
    assert "bridge slash24_policy prerouting" in passed(found)
    documents.delete("other.yaml")
    documents.await_force(one)
    found = traced(node, "other", "web", *port, "--protocol", "udp", outcome="stopped")
    assert "ingress of default/web is isolated by NetworkPolicy default/web" in found["sentence"]
    one.stop(signal.SIGKILL)
    untraced = node.run([sys.executable, "-c", UNTRACED, "trace", "other", "web", *port], env=ENVIRONMENT, check=False)
    assert untraced.returncode == 1, untraced.stderr
    assert f"ingress of {addresses['web']}: default/web; isolated by default/web" in untraced.stdout
    assert "rules of inet tables are not shown: the kernel cannot trace them (not supported)" in untraced.stdout
    assert "it is not seen after cbr0" in untraced.stdout
    node.run(["nft", f"delete element inet slash24_policy ingress4 {{ {addresses['web']} }}"])
    node.run(["nft", f"add element inet slash24_policy ingress4 {{ {addresses['web']} : goto held }}"])
    found = traced(node, "client", addresses["web"], *port, outcome="stopped")
    assert "is held until slash24-node says which policies it has" in found["sentence"]


def test_to_a_pod_of_another_node(node: Node, other: Node, bin_dir: Path) -> None:
    """By a tunnel: which node has it, and what it answers; without an FDB entry it stops, and so does a lost answer."""
    join(node, other)
    for one, number in ((node, 1), (other, 2)):
        one.run(["ip", "route", "add", "default", "via", f"192.0.2.{3 - number}"])
        write(one, "/run/slash24/peers.json", {"peers": [record(1), record(2)]})
        conf = network("vxlan", podCIDRs=[f"10.244.{number}.0/24", f"fd00:244:0:{number}::/64"])
        CNI(one, bin_dir).add(conf, one.pod(f"pod{number}"))
    found = traced(node, "pod1", "10.244.2.2", outcome="answered")
    assert "slash24.1 sends it to 192.0.2.2, node n2" in texts(found, "tunnel")
    assert "echo reply, from 10.244.2.2" in texts(found, "answer")
    traced(node, "pod1", "fd00:244:0:2::2", "--port", "80", outcome="answered")
    node.run(["nft", "delete element inet slash24_vtep_net peers4 { 192.0.2.2 }"])
    for words in (("10.244.2.2",), ("10.244.2.2", "--port", "80")):
        found = traced(node, "pod1", *words, outcome="stopped")
        assert found["sentence"].startswith("it was answered, but the answer was dropped by filter of the tunnel")
        assert found["sentence"].endswith("it is not from a node of the network")
    other.run(["nft", "add", "table", "inet", "other"])
    other.run(["nft", "add", "chain", "inet", "other", "f", "{ type filter hook forward priority 5; policy drop; }"])
    found = traced(node, "pod1", "10.244.2.2", "--port", "80", outcome="left")
    assert "it left this node by wan0 to node n2" in found["sentence"]
    assert "What happens there is not seen from here: run `slash24 trace` there" in found["sentence"]
    entries = json.loads(node.run(["bridge", "-j", "fdb", "show", "dev", "slash24.1"]).stdout)
    mac = next(entry["mac"] for entry in entries if entry.get("dst") == "192.0.2.2")
    node.run(["bridge", "fdb", "del", mac, "dev", "slash24.1", "dst", "192.0.2.2"])
    found = traced(node, "pod1", "10.244.2.2", outcome="stopped")
    assert found["hops"][-1]["where"] == "tunnel"
    assert f"slash24.1 has no FDB entry for {mac}" in found["sentence"]


@pytest.mark.usefixtures("pods")
def test_what_cannot_be_traced(node: Node) -> None:
    """Exit status 3, and a sentence."""
    for words, sentence in (
        (("nobody", "b"), "no pod of this node is called nobody"),
        (("a", "nobody"), "and it is no IP address"),
        (("a", "b", "--port", "80", "--protocol", "icmp"), "ICMP has no ports"),
    ):
        status, text = slash24(node, "trace", *words)
        assert (status, sentence in " ".join(text.split())) == (2 if "--port" in words else 3, True), text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.usefixtures("pods")
def test_nothing_is_left_of_a_run_that_is_killed(node: Node, number: int) -> None:
    """Nor does it disturb the next one; two at a time do not get into each other's way."""
    argv = [sys.executable, "-m", "cli", "trace", "a", "192.0.2.77"]
    run = node.start(argv, env=ENVIRONMENT, stderr=subprocess.PIPE)
    assert wait_until(lambda: any("slash24_trace" in table for table in tables(node)))
    status, text = slash24(node, "trace", "a", "b")
    assert (status, "another `slash24 trace` runs" in text) == (3, True)
    run.send_signal(number)
    run.communicate()
    assert wait_until(lambda: not any("slash24_trace" in table for table in tables(node)))
    traced(node, "a", "b", outcome="answered")
