"""The pages of the daemon, and that docs/slash24-node.md lists every metric and option."""

import http.client
import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.log import NOTICE, WARNING
from agent.pages import Page
from daemon import options
from daemon.drift import Found
from daemon.monitoring import Monitoring
from daemon.policies.inbox import Inbox, digest_of, key_of
from daemon.policies.loop import POD, InForce
from daemon.policies.pages import PolicyMetrics
from daemon.readiness import State
from daemon.reconciler import Pass
from daemon.records import Store
from linux.rtnl.monitor import ADDRESS, DOWN, FORWARDING, LINK, NEIGHBOUR, ROUTE, SETTING, Change
from nodes.network import Outcome
from nodes.registry import Entry
from policy.compiled import EGRESS, INGRESS, Compiled, Enforced
from policy.objects import NETWORK, LocalPod, Pod, PodPeer, Policy
from tests.pure.daemon.test_records import Clock, record
from tests.pure.test_docs import cells

PAGE = "slash24-node.md"


class FakeLoop:
    """What the pages read of the loop."""

    outcome = Outcome(is_complete=True, left_out=("peer n9 has no addresses",))
    state = State(outcome)
    error = ""


@dataclass
class FakePolicies:
    """What the pages read of policies."""

    in_force: InForce = field(default_factory=InForce)
    denied: dict[tuple[str, str], int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    is_cutting: bool = False
    failing_seconds: float = 0.0


class Pages:
    """A monitoring that serves, and what it serves."""

    def __init__(self, path: Path) -> None:
        self.clock, self.loop, self.path = Clock(), FakeLoop(), str(path)
        self.store = Store("n1", "", lambda: None, clock=self.clock)
        self.monitoring = Monitoring(self.clock)
        self.policies, self.inbox = FakePolicies(), Inbox("n1", lambda: None, clock=self.clock)
        self.metrics = PolicyMetrics(self.monitoring.registry)
        self.idle, self.why = 0.0, ""
        self.close = self.monitoring.open(self.path, self.loop, self.store, self, {"node": "n1", "mode": "vxlan"})

    def pages(self) -> dict[str, Page]:
        """As those of a node's policies."""
        return self.metrics.serve(self.policies, self.inbox, "/srv/policies", lambda: self.policies.denied)

    def idle_seconds(self) -> float:
        """As those of a node's policies."""
        return self.idle

    def pending(self) -> str:
        """As those of a node's policies."""
        return self.why

    def get(self, name: str) -> tuple[int, str]:
        """Status and body of a page."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(10)
        connection.sock.connect(self.path)
        connection.request("GET", f"/{name}")
        response = connection.getresponse()
        body = response.read().decode()
        connection.close()
        return response.status, body


@pytest.fixture(name="pages")
def pages_served(tmp_path: Path) -> Iterator[Pages]:
    """The pages of a loop that has not begun."""
    pages = Pages(tmp_path / "http.sock")
    yield pages
    pages.close()


def test_health_is_that_of_the_loop(pages: Pages) -> None:
    """It goes round every minute; whether it succeeds is another matter."""
    assert pages.get("healthz")[0] == 200
    pages.clock.now += 149
    assert pages.get("healthz")[0] == 200
    pages.clock.now += 2
    assert pages.get("healthz")[0] == 503
    pages.monitoring.on_round()
    assert pages.get("healthz")[0] == 200
    pages.idle = 151.0
    assert pages.get("healthz") == (503, '{"problem": "policies were not looked at for 150 s"}\n')


def test_readiness_names_every_problem(pages: Pages) -> None:
    """Those that do not matter for it too."""
    status, body = pages.get("readyz")
    assert status == 200
    assert json.loads(body)["problems"] == ["peer n9 has no addresses"]
    pages.loop.state = State(pages.loop.outcome, lost_seconds=61.0, why="connection refused")
    status, body = pages.get("readyz")
    assert status == 503
    assert "the registry cannot be reached: connection refused" in json.loads(body)["problems"]
    pages.loop.state = State(None, unready="this node has no subnet yet: refused")
    status, body = pages.get("readyz")
    assert (status, json.loads(body)["reason"]) == (503, "NoSubnet")


def test_a_node_without_policies_in_force_is_not_ready(pages: Pages) -> None:
    """At once: its new pods are held. What is wrong with its network comes first."""
    pages.why = "new pods are held"
    status, body = pages.get("readyz")
    assert (status, json.loads(body)["reason"]) == (503, "PoliciesNotInForce")
    assert json.loads(body)["message"] == "new pods are held"
    pages.loop.state = State(None)
    assert json.loads(pages.get("readyz")[1])["reason"] == "Starting"
    pages.loop.state, pages.why = State(pages.loop.outcome), ""
    assert pages.get("readyz")[0] == 200


def test_passes_and_records_are_counted(pages: Pages) -> None:
    """By kind, with what they have written."""
    pages.store.replace([Entry("n2", record(2)), Entry("n3", None, "no JSON")])
    done = Outcome(is_complete=True, written=6, removed=2)
    pages.monitoring.on_pass(Pass(done, 0.02, is_whole=True, is_repair=True))
    pages.monitoring.on_pass(Pass(Outcome(), 0.001, is_whole=False, is_repair=False))
    lines = pages.get("metrics")[1].splitlines()
    for line in (
        'slash24_node_pass_duration_seconds_count{kind="sync"} 1.0',
        'slash24_node_pass_duration_seconds_count{kind="update"} 1.0',
        "slash24_node_kernel_writes_total 6.0",
        "slash24_node_kernel_removals_total 2.0",
        "slash24_node_repairs_total 1.0",
        "slash24_node_failures_total 1.0",
        "slash24_node_records 1.0",
        "slash24_node_records_wrong 1.0",
        "slash24_node_left_out 1.0",
        "slash24_node_ready 1.0",
        "slash24_node_registry_connected 1.0",
    ):
        assert line in lines


def test_the_status_tells_what_happened_lately(pages: Pages) -> None:
    """Repairs and warnings, the newest first, each with its age; and how the registry is."""
    log = pages.monitoring.recent.watch(lambda _priority, _fields: None)
    pages.store.replace([Entry("n2", record(2))])
    for name, warned in (("10.1.2.0/24", "refused"), ("10.1.3.0/24", "x" * 9999)):
        done = Pass(
            Outcome(is_complete=True), 0.01, is_whole=False, is_repair=True, damage=(f"route {name} was deleted",)
        )
        pages.monitoring.on_pass(done)
        log(WARNING, {"event": "problem", "msg": warned})
        log(NOTICE, {"event": "solved", "msg": "nothing to see"})
        pages.clock.now += 10
    pages.monitoring.on_pass(Pass(Outcome(), 0.001, is_whole=True, is_repair=False))
    status, body = pages.get("status")
    page = json.loads(body)
    assert (status, page["node"], page["mode"], page["connected"], page["records"]) == (200, "n1", "vxlan", True, 1)
    assert page["left_out"] == ["peer n9 has no addresses"]
    assert [(one["seconds_ago"], one["found"]) for one in page["repairs"]] == [
        (10.0, ["route 10.1.3.0/24 was deleted"]),
        (20.0, ["route 10.1.2.0/24 was deleted"]),
    ]
    assert [(one["seconds_ago"], one["msg"]) for one in page["errors"]] == [(10.0, "x" * 500), (20.0, "refused")]
    pages.store.lost("connection refused")
    page = json.loads(pages.get("status")[1])
    assert (page["connected"], page["why"]) == (False, "connection refused")


def test_what_is_remembered_is_bounded(pages: Pages) -> None:
    """However often another program takes away what the daemon writes."""
    log = pages.monitoring.recent.watch(lambda _priority, _fields: None)
    for number in range(100):
        pages.monitoring.on_pass(
            Pass(Outcome(is_complete=True), 0.01, is_whole=True, is_repair=True, damage=(str(number),))
        )
        log(WARNING, {"event": "problem", "msg": number})
    page = json.loads(pages.get("status")[1])
    assert [len(page["repairs"]), len(page["errors"])] == [10, 10]
    assert (page["repairs"][0]["found"], page["errors"][0]["msg"]) == (["99"], "99")


def test_damage_is_told_in_words() -> None:
    """Of many changes the first five. What may be no damage, such as the carrier of a link, is not told."""
    network, mac = bytes((10, 1, 2, 0)), bytes(range(6))
    found = Found(
        changes=(
            Change(LINK, 3, b"cbr0", value=DOWN),
            Change(ADDRESS, 3, network, 24, is_gone=True),
            Change(ROUTE, 3, network, 24, is_gone=True),
            Change(LINK, 4, b"eth0"),
            Change(ADDRESS, 4, network, 16),
            Change(ROUTE, 4, bytes(4), is_gone=True),
            Change(SETTING, 4),
            Change(NEIGHBOUR, 3, network),
            Change(FORWARDING, 3, mac, is_gone=True),
        )
    )
    assert found.sentences() == (
        "link cbr0 was set down",
        "address 10.1.2.0/24 was deleted",
        "route 10.1.2.0/24 was deleted",
        "neighbour 10.1.2.0 was changed",
        "FDB entry 00:01:02:03:04:05 was deleted",
    )
    more = found + Found(is_any=True, changes=(Change(LINK, 5, b"x", is_gone=True), Change(ROUTE, 3, network, 25)))
    assert more.sentences()[5:] == ("2 more", "rules were changed, or too much at once")
    assert Found().sentences() == ()


def test_every_metric_is_documented(pages: Pages) -> None:
    """And no other."""
    pages.monitoring.on_pass(Pass(Outcome(), 0.001, is_whole=True, is_repair=False))
    names = set(re.findall(r"^# TYPE (\w+) ", pages.get("metrics")[1], re.MULTILINE))
    documented = {name for cell in cells(PAGE, "metric") for name in re.findall(r"`(\w+)`", cell)}
    assert {name.removesuffix("_total") for name in documented} == names


def test_every_option_is_documented(capsys: pytest.CaptureFixture) -> None:
    """And no other."""
    with pytest.raises(SystemExit):
        options.parse(["--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help", "--version"}
    documented = {word for cell in cells(PAGE, "option") for word in re.findall(r"--[a-z-]+", cell)}
    assert documented == known


def test_options_are_checked(capsys: pytest.CaptureFixture) -> None:
    """A place that others can reach is refused, and two tasks at once."""
    for argv in (["--listen", "0.0.0.0:9325"], ["--check", "--uninstall"], ["--log-level", "loud"]):
        with pytest.raises(SystemExit):
            options.parse(argv)
    assert options.parse([]).config == "/etc/slash24/slash24.toml"
    assert options.parse(["--listen", "[::1]:9325"]).listen == "[::1]:9325"


WEB = Policy(NETWORK, "default", "web", PodPeer(namespace="default"))
LOCALS = {
    "v1:pods:a:eth0": LocalPod("v1:pods:a:eth0", ("10.1.0.2",), "veth0", "default", "a"),
    "v1:pods:b:eth0": LocalPod("v1:pods:b:eth0", ("10.1.0.3",), "veth1", "default", "b"),
}
IN_FORCE = Enforced("v1:pods:a:eth0", "veth0", "default/a", ingress="in-1", policies=((INGRESS, "default/web"),))
COMPILED = Compiled({"10.1.0.2": IN_FORCE})


def test_the_page_of_policies_says_what_is_in_force(pages: Pages) -> None:
    """Documents with their digests, and the pods of the node; one that is not known yet is held."""
    assert json.loads(pages.get("policies")[1])["complete"] is False
    pages.inbox.replace([WEB, Pod("default", "a")])
    pages.policies.in_force = InForce(7, COMPILED, LOCALS, {key_of(WEB): WEB})
    pages.policies.problems = ("web.yaml: expected a list",)
    page = json.loads(pages.get("policies")[1])
    assert (page["source"], page["complete"], page["connected"]) == ("/srv/policies", True, True)
    assert (page["generation"], page["waiting"], page["problems"]) == (7, 0, ["web.yaml: expected a list"])
    assert page["documents"] == {"NetworkPolicy": 1, "Pod": 1}
    web = {"kind": "NetworkPolicy", "namespace": "default", "name": "web", "digest": digest_of(WEB)}
    assert page["policies"] == [web]
    assert [(pod["address"], pod["pod"], pod["held"], pod["ingress"], pod["egress"]) for pod in page["pods"]] == [
        ("10.1.0.2", "default/a", False, ["default/web"], []),
        ("10.1.0.3", "default/b", True, [], []),
    ]
    documents = json.loads(pages.get("policies/documents")[1])
    assert documents["documents"] == {"NetworkPolicy/default/web": digest_of(WEB)}
    pages.inbox.lost("connection refused")
    assert json.loads(pages.get("policies")[1])["connected"] is False


def test_policies_have_metrics(pages: Pages) -> None:
    """What is in force, what was denied, and what it took."""
    pages.inbox.replace([WEB])
    pages.inbox.wrong("a.yaml", "a.yaml: expected a list")
    pages.policies.in_force = InForce(7, COMPILED, LOCALS, {})
    pages.policies.failing_seconds = 3.0
    pages.metrics.on_programmed(POD, 0.001)
    pages.metrics.on_failed()
    pages.metrics.on_cut(4)
    pages.policies.denied = {(INGRESS, "10.1.0.2"): 5, (EGRESS, "10.1.0.9"): 1}
    lines = pages.get("metrics")[1].splitlines()
    for line in (
        'slash24_policy_denied_packets_total{direction="ingress",namespace="default",pod="a",policy="default/web"} 5.0',
        'slash24_policy_programming_duration_seconds_count{kind="pod"} 1.0',
        "slash24_policy_failures_total 1.0",
        "slash24_policy_failing_seconds 3.0",
        "slash24_policy_cut_connections_total 4.0",
        "slash24_policy_policies 1.0",
        "slash24_policy_documents_wrong 1.0",
        "slash24_policy_pods 1.0",
        "slash24_policy_pods_held 1.0",
        "slash24_policy_source_connected 1.0",
    ):
        assert line in lines
