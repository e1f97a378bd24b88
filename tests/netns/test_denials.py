"""The thread that logs denied packets, on a kernel whose rules log them."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from agent.log import NOTICE, WARNING
from daemon.policies import denials
from linux.nflog import Nflog
from policy.compiled import DROP, INGRESS, Chain, ChainRule, Compiled, Enforced
from policy.denied import Denied
from policy.settings import NodePorts, Settings
from tests.netns.nft_tools import on
from tests.netns.node import OUTSIDE_V4, Node, wait_until
from tests.netns.policy_cluster import ADDRESSES, GATEWAYS, Cluster, web_allows

POD, METADATA, GROUP = "10.1.2.5", "169.254.169.254", 24
RULES = """
table inet t {
  chain forward {
    type filter hook forward priority filter;
    ip daddr 10.1.2.5 log prefix "ingress " group 24 drop
  }
}
"""
COMPILED = Compiled(
    pods={POD: Enforced("o", "veth", "default/web", ingress="in", policies=((INGRESS, "default/deny-all"),))},
    chains={"in": Chain(INGRESS, (ChainRule(DROP, comment="isolated by default/deny-all"),))},
)


@contextmanager
def running(
    node: Node,
    compiled: Callable[[], Compiled] = lambda: COMPILED,
    *,
    settings: Settings | None = None,
    name: str = "team-b/client",
) -> Iterator[list[tuple[int, dict]]]:
    """What the thread logs on a node, where every address but those of its pods belongs to a pod of that name."""
    lines: list[tuple[int, dict]] = []
    settings = settings or Settings(log_group=GROUP)
    thread = denials.Denials(GROUP, compiled, settings, lambda _: name, lambda *line: lines.append(line))
    with node.inside():
        thread.start()
    try:
        yield lines
    finally:
        thread.stop()
    assert not thread._thread.is_alive()


class Denying:
    """A node that denies packets to the pod and logs them, and a host that sends some."""

    def __init__(self, node: Node) -> None:
        self.node, self._host = node, node.outside()
        node.run(["nft", "-f", "-"], stdin=RULES)
        node.run(["ip", "route", "add", f"{POD}/32", "dev", "wan0"])
        node.run(["sysctl", "-w", "net.ipv4.ip_forward=1"])

    def knock(self) -> None:
        """Send a packet to the pod."""
        with self._host.socket(POD, "udp") as sender:
            sender.sendto(b"word", (POD, 8080))


@pytest.fixture
def denying(node: Node) -> Denying:
    """Such a node."""
    return Denying(node)


def test_each_denied_packet_is_a_line(denying: Denying) -> None:
    """With who sent it, and the policies."""
    with running(denying.node) as lines:
        assert wait_until(lambda: denying.knock() or lines)
    priority, fields = lines[0]
    assert priority == NOTICE
    assert (fields["event"], fields["destinationPod"], fields["port"]) == ("denied", "default/web", 8080)
    assert fields["msg"].endswith("none of its policies allows udp 8080 from team-b/client")


def test_a_group_that_another_program_has_is_waited_for(denying: Denying, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is said once; when the other program is gone, packets are logged."""
    monkeypatch.setattr(denials, "_AGAIN_SECONDS", 0.05)
    with denying.node.inside():
        other = Nflog(GROUP)
    with running(denying.node) as lines:
        assert wait_until(lambda: lines)
        other.close()
        assert wait_until(lambda: denying.knock() or len(lines) > 1)
    assert lines[0][0] == WARNING
    assert "nflog group 24" in lines[0][1]["msg"]
    assert {fields["event"] for _, fields in lines[1:]} == {"denied"}


def test_a_mistake_does_not_end_the_thread(denying: Denying, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is in force, or is made of a packet, may be wrong for a while."""
    monkeypatch.setattr(denials, "_AGAIN_SECONDS", 0.05)
    broken = Compiled(pods=COMPILED.pods)  # without the chain
    in_force = [broken]
    with running(denying.node, lambda: in_force[0]) as lines:
        assert wait_until(lambda: denying.knock() or lines)
        in_force[0] = COMPILED
        assert wait_until(lambda: denying.knock() or lines[-1][1]["event"] == "denied")
    assert lines[0][1]["event"] == "denials-failed"


@pytest.fixture
def cluster(node: Node) -> Cluster:
    """Pods that do not reach the metadata service, and of their node only port 53."""
    settings = Settings(metadata_deny=True, node_access=(NodePorts(socket.IPPROTO_UDP, 53, 53),), log_group=GROUP)
    return Cluster(node, settings)


def test_what_the_tables_deny_is_told_and_counted(cluster: Cluster) -> None:
    """Each with its reason: a policy, or what the configuration says."""
    cluster.node.outside()
    cluster.node.run(["ip", "route", "add", METADATA, "via", OUTSIDE_V4])
    compiled = cluster.enforce(web_allows(80))
    client, counted = cluster.pods["client"], Denied()
    isolated = 'shop/web is isolated by NetworkPolicy "shop/web"; none of its policies allows udp'
    denied = {
        (ADDRESSES["web"][0], 81): (f"{isolated} 81 from shop/client", ""),
        (ADDRESSES["web"][1], 82): (f"{isolated} 82 from shop/client", ""),
        (GATEWAYS[0], 54): (f"shop/client is denied udp 54 to {GATEWAYS[0]}", "nodeAccess"),
        (METADATA, 80): (f"shop/client is denied udp 80 to {METADATA}", "metadataAccess"),
    }
    allowed = (ADDRESSES["web"][0], 80), (GATEWAYS[0], 53)
    with running(cluster.node, lambda: compiled, settings=cluster.programmer.settings, name="") as lines:
        assert wait_until(lambda: cluster.node.run(["cat", "/proc/net/netfilter/nfnetlink_log"]).stdout)
        for to in (*denied, *allowed):
            with client.socket(to[0], "udp") as sender:
                sender.sendto(b"word", to)
        assert wait_until(lambda: len(lines) >= len(denied))
    for (_, fields), (sentence, reason) in zip(lines, denied.values(), strict=True):
        assert fields["msg"].startswith(sentence)
        assert reason in fields["msg"]
    counted.update(lambda: on(cluster.node, cluster.programmer.denied), compiled)
    assert counted.totals == {("ingress", "shop/web", "shop/web"): 2, ("egress", "shop/client", ""): 2}
