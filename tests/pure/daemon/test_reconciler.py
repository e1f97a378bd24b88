"""The loop of the daemon, with a network, a registry and a clock that are not real."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import pytest

from daemon import reconciler as module
from daemon.config import Config
from daemon.drift import Found
from daemon.files import NodeFile, PeersFile
from daemon.reconciler import Parts, Pass, Reconciler
from daemon.records import Store
from linux.rtnl.monitor import ROUTE, Change
from nodes.network import Outcome
from nodes.registry import Entry, Grant, Readiness
from plugins.node.records import Node
from tests.pure.daemon.fake_policies import FakePolicies
from tests.pure.daemon.test_files import content
from tests.pure.daemon.test_records import Clock, Woken, record

GRANT = Grant(("10.244.1.0/24",), since=5)
DONE = Outcome(is_complete=True, mtu=1450, mac="02:00:00:00:00:01", vni=1, port=4789, address="192.0.2.1")
CLUSTER = ("10.244.0.0/16",)


@dataclass
class FakeNetwork:
    """Records what it is to make; `outcome` is what comes of it."""

    outcome: Outcome = DONE
    passes: list[tuple] = field(default_factory=list)
    failure: Exception | None = None
    clock: Clock = field(default_factory=Clock)
    seconds: float = 0.0

    def is_expected(self, _change: object) -> bool:
        return True

    def update(self, own: Grant, nodes: Mapping[str, Node], changed: Collection[str]) -> Outcome:
        self.passes.append(("update", own, sorted(changed)))
        return self.outcome

    def repair(self, own: Grant, nodes: Mapping[str, Node], changes: Sequence[Change]) -> Outcome:
        self.passes.append(("repair", own, [change.kind for change in changes]))
        self.clock.now += self.seconds
        return self.outcome

    def sync(self, own: Grant, nodes: Mapping[str, Node]) -> Outcome:
        self.passes.append(("sync", own, sorted(nodes)))
        if self.failure:
            raise self.failure
        return self.outcome


class FakeRegistrar:
    """Records what is published and told."""

    def __init__(self) -> None:
        self.grant: Grant | None = GRANT
        self.published: Node | None = None
        self.told: list[Readiness] = []
        self.why: dict[str, str] = {}

    def publish(self, node: Node) -> None:
        self.published = node

    def tell(self, readiness: Readiness) -> None:
        if readiness not in self.told[-1:]:
            self.told.append(readiness)

    def problem(self, job: str) -> str:
        return self.why.get(job, "")


@dataclass
class FakeDrift:
    """`found` is what has been announced, once."""

    found: Found = field(default_factory=Found)
    watched: int = 0

    def read(self, *_: object) -> Found:
        found, self.found = self.found, Found()
        return found

    def watch(self, *_: object) -> None:
        self.watched += 1


@dataclass
class FakeThisNode:
    """A node with these addresses."""

    addresses: tuple[str, ...] = ("192.0.2.1",)
    links: tuple[int, ...] = ()
    problem: str = ""
    looks: int = 0

    def look(self, *_: object) -> None:
        self.looks += 1

    def own(self, grant: Grant) -> Grant:
        return replace(grant, addresses=self.addresses)

    def record(self, own: Grant, outcome: Outcome) -> Node:
        return Node("n1", own.addresses, own.subnets, outcome.mac)


@dataclass
class FakeService:
    """Counts how often it is kept."""

    kept: int = 0
    is_on: bool = False
    warnings: tuple[str, ...] = ()

    def resume(self) -> None:
        self.is_on = True

    def keep(self) -> None:
        self.kept += 1
        self.is_on = True

    def end(self) -> None:
        self.is_on = False


class Observer:
    """Remembers passes."""

    def __init__(self) -> None:
        self.passes: list[Pass] = []

    def on_pass(self, done: Pass) -> None:
        self.passes.append(done)

    def on_round(self) -> None:
        """Nothing to remember."""


class Case:
    """The loop of the node n1, and its parts."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.log, self.observer = Clock(), Woken(), Observer()
        self.network, self.registrar, self.drift = FakeNetwork(clock=self.clock), FakeRegistrar(), FakeDrift()
        self.this, self.service, self.folder = FakeThisNode(), FakeService(), folder
        self.store = Store("n1", "", lambda: None, clock=self.clock)
        self.policies = FakePolicies()
        parts = Parts(
            self.network,
            self.store,
            self.registrar,
            self.drift,
            self.this,
            self.service,
            NodeFile(str(folder / "node.json")),
            PeersFile(str(folder / "peers.json"), self.clock),
            self.policies,
        )
        config = Config("vxlan", CLUSTER, "file:///nodes", "n1")
        self.loop = Reconciler(config, parts, self.log, self.observer, clock=self.clock)

    def step(self, *, after: float = 0.0) -> list[tuple]:
        """One round after so many seconds; the passes in it, as (kind, names)."""
        self.clock.now += after
        before = len(self.network.passes)
        self.loop.step()
        return [(kind, names) for kind, _, names in self.network.passes[before:]]

    def start(self) -> None:
        """The first pass, with the nodes n2 and n3."""
        self.store.replace([Entry(f"n{n}", record(n)) for n in (1, 2, 3)])
        assert self.step() == [("sync", ["n2", "n3"])]

    @property
    def logged(self) -> list[str]:
        """The messages of the log."""
        return [str(fields.get("msg", fields["event"])) for _, fields in self.log.calls]


@pytest.fixture(name="case")
def new_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """A loop that has not begun."""

    class NoNetlink:
        """In place of a socket."""

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(module, "Netlink", NoNetlink)
    return Case(tmp_path)


def test_nothing_is_touched_before_the_registry_has_answered(case: Case) -> None:
    """A node that is missing may exist. Plugins are told that there is no subnet."""
    case.registrar.grant = None
    case.registrar.why["lease"] = "connection refused"
    assert case.step() == []
    assert content(case.folder / "node.json")["problem"] == "this node has no subnet yet: connection refused"
    assert case.registrar.told[-1].reason == "NoSubnet"
    case.registrar.grant = GRANT
    assert case.step() == []
    assert case.service.kept == 0


def test_files_of_an_earlier_daemon_are_left_until_the_registry_has_answered(case: Case) -> None:
    """Pods are started with them meanwhile."""
    (case.folder / "node.json").write_text('{"podCIDRs": ["10.244.1.0/24"]}')
    case.registrar.grant = None
    case.step()
    assert content(case.folder / "node.json") == {"podCIDRs": ["10.244.1.0/24"]}


def test_files_of_an_earlier_daemon_are_adopted_without_a_registry(case: Case) -> None:
    """After ten seconds: the network is kept, but nothing is published. The registry's records take over."""
    case.start()
    case.step()
    again = Case(case.folder)
    again.registrar.grant = None
    again.store.lost("connection refused")
    assert again.step() == []
    assert again.step(after=again.loop.seconds_left()) == [("sync", ["n2", "n3"])]
    assert again.clock.now == 110.0
    assert again.network.passes[-1][1].subnets == GRANT.subnets
    assert (again.service.kept, again.registrar.published) == (1, None)
    assert again.step() == []
    assert again.step(after=60) == [("sync", ["n2", "n3"])]
    again.store.replace([Entry("n2", record(2))])
    assert again.step() == []
    again.registrar.grant = GRANT
    assert again.step() == [("sync", ["n2"])]
    assert again.registrar.published is not None


def test_the_order_at_the_start(case: Case) -> None:
    """The network, the files, the record; then, once others know this node, the conflist; then it is ready."""
    case.registrar.publish = lambda _: None
    case.start()
    assert content(case.folder / "node.json")["podCIDRs"] == ["10.244.1.0/24"]
    assert [one["name"] for one in content(case.folder / "peers.json")["peers"]] == ["n2", "n3"]
    assert case.service.kept == 0
    case.registrar.published = record(1)
    assert case.step() == []
    assert case.service.kept == 1
    assert case.registrar.told[-1].is_ready


def test_a_node_that_others_do_not_learn_of_is_not_ready(case: Case) -> None:
    """Once they have, a failure to tell them something new is a warning."""
    case.registrar.publish = lambda _: None
    case.registrar.why["publish"] = "permission denied"
    case.start()
    told = case.registrar.told[-1]
    assert (told.is_ready, told.reason) == (False, "RecordNotPublished")
    assert told.message == "the other nodes do not learn of this one: permission denied"
    case.registrar.published = record(1)
    case.step()
    assert case.registrar.told[-1].is_ready
    assert case.registrar.told[-1].warnings == (told.message,)


def test_plugins_do_everything_while_the_network_does_not_work(case: Case) -> None:
    """They tell the runtime what is wrong; the lock is taken again when it works."""
    case.start()
    assert case.service.is_on
    case.network.outcome = Outcome(problems=("failed to set up the tunnel: no link",))
    case.step(after=60)
    assert not case.service.is_on
    case.network.outcome = DONE
    case.step(after=1)
    assert case.service.is_on


def test_a_peers_file_that_cannot_be_written_stops_nothing(case: Case) -> None:
    """It is told, and tried again."""
    (case.folder / "peers.json").mkdir()
    case.start()
    assert case.loop.error.startswith("cannot write the records for plugins")
    assert case.registrar.told[-1].is_ready
    assert case.service.is_on
    (case.folder / "peers.json").rmdir()
    case.step(after=1)
    assert case.loop.error == ""
    assert len(content(case.folder / "peers.json")["peers"]) == 2


def test_a_subnet_that_comes_late_starts_the_network(case: Case) -> None:
    """Until then the records wait."""
    case.registrar.grant = None
    case.store.replace([Entry("n2", record(2))])
    assert case.step() == []
    case.registrar.grant = GRANT
    assert case.step() == [("sync", ["n2"])]
    assert "problem" not in content(case.folder / "node.json")


def test_a_change_is_one_pass_and_nothing_is_none(case: Case) -> None:
    """Several changes that arrive together are one pass too."""
    case.start()
    assert case.step() == []
    case.store.put(Entry("n4", record(4)))
    assert case.step() == [("update", ["n4"])]
    case.store.remove("n2")
    case.store.remove("n3")
    assert case.step() == [("update", ["n2", "n3"])]


def test_everything_is_compared_every_minute(case: Case) -> None:
    """Whatever was or was not announced."""
    case.start()
    assert case.step(after=59) == []
    assert case.loop.seconds_left() <= 1
    assert case.step(after=1) == [("sync", ["n2", "n3"])]
    assert case.this.looks == 2


def test_drift_is_repaired_at_once(case: Case) -> None:
    """And counted; single changes together with records that have changed."""
    case.start()
    case.drift.found = Found(is_any=True)
    assert case.step() == [("sync", ["n2", "n3"])]
    case.drift.found = Found(changes=(Change(ROUTE, 7, bytes(4), 24, is_gone=True),))
    case.store.put(Entry("n4", record(4)))
    assert case.step() == [("repair", ["route"]), ("update", ["n4"])]
    assert [done.is_repair for done in case.observer.passes] == [False, True, True]


def test_a_quarrel_with_another_program_is_bounded(case: Case) -> None:
    """A repair that took a second is followed by two seconds without one, except for what else is due."""
    drift = Found(changes=(Change(ROUTE, 7, bytes(4), 24, is_gone=True),))
    case.start()
    case.network.seconds = 1.0
    case.drift.found = drift
    assert case.step() == [("repair", ["route"])]
    case.network.seconds = 0.0
    case.drift.found = drift
    case.store.put(Entry("n4", record(4)))
    assert case.step() == [("update", ["n4"])]
    assert case.loop.seconds_left() <= 2.0
    assert case.step(after=1) == []
    assert case.step(after=1) == [("repair", ["route"])]
    case.drift.found = drift
    assert case.step() == [("repair", ["route"])]


def test_a_new_address_of_this_node_is_used_and_published(case: Case) -> None:
    """It is looked up when the kernel announces one."""
    case.start()
    case.this.addresses = ("192.0.2.9",)
    case.drift.found = Found(is_own_affected=True, is_any=True)
    assert case.step() == [("sync", ["n2", "n3"])]
    assert case.network.passes[-1][1].addresses == ("192.0.2.9",)
    assert case.registrar.published.addresses == ("192.0.2.9",)


def test_a_new_subnet_of_this_node_is_used(case: Case) -> None:
    """It is written for plugins and published."""
    case.start()
    case.registrar.grant = Grant(("10.244.9.0/24",))
    assert case.step() == [("sync", ["n2", "n3"])]
    assert content(case.folder / "node.json")["podCIDRs"] == ["10.244.9.0/24"]
    assert case.registrar.published.subnets == ("10.244.9.0/24",)


def test_a_subnet_of_an_older_node_gives_no_addresses(case: Case) -> None:
    """Plugins get the reason; the conflist stays, since others' pods are served."""
    case.start()
    case.step()
    case.network.outcome = replace(DONE, own_conflict="10.244.1.0/24 is the subnet of the older node n7")
    case.drift.found = Found(is_any=True)
    case.step()
    found = content(case.folder / "node.json")
    assert (found["podCIDRs"], found["problem"]) == ([], "10.244.1.0/24 is the subnet of the older node n7")
    assert (case.registrar.told[-1].is_ready, case.registrar.told[-1].reason) == (False, "SubnetConflict")
    case.network.outcome = DONE
    assert case.step(after=60)
    assert content(case.folder / "node.json")["podCIDRs"] == ["10.244.1.0/24"]
    assert case.registrar.told[-1].is_ready


def test_what_fails_is_tried_again_with_a_growing_pause(case: Case) -> None:
    """It is told once, and when it works again."""
    case.network.outcome = Outcome(problems=("failed to set up the tunnel: no link",))
    case.start()
    times = [case.clock.now]
    while len(times) < 10:
        if case.step(after=case.loop.seconds_left()):
            times.append(case.clock.now)
    pauses = [after - before for before, after in pairwise(times)]
    assert (pauses[:3], pauses[-1]) == ([0.5, 1.0, 2.0], 30.0)
    assert case.service.kept == 0
    assert case.registrar.published is None
    assert case.registrar.told[-1].reason == "NetworkIncomplete"
    sentence = "failed to set up the tunnel: no link"
    assert 1 <= case.logged.count(sentence) <= 3
    case.network.outcome = DONE
    case.step(after=30)
    assert case.registrar.told[-1].is_ready
    assert case.log.calls[-1][1] == {"event": "solved", "msg": sentence}


def test_an_exception_does_not_end_the_loop(case: Case) -> None:
    """A mistake of ours is told as an error of the pass."""
    case.start()
    case.network.failure = ZeroDivisionError("division by zero")
    case.step(after=60)
    assert case.loop.error == "ZeroDivisionError: division by zero"
    case.network.failure = None
    case.step(after=1)
    assert case.loop.error == ""


def test_a_registry_that_is_gone_changes_nothing(case: Case) -> None:
    """The network is kept; after a minute it is told."""
    case.start()
    case.step()
    case.store.lost("connection refused")
    case.drift.found = Found(is_any=True)
    assert case.step() == [("sync", ["n2", "n3"])]
    assert case.registrar.told[-1].warnings == ()
    assert case.step(after=3600) == [("sync", ["n2", "n3"])]
    assert case.registrar.told[-1].warnings == ("the registry cannot be reached: connection refused",)
    case.store.alive()
    case.step(after=60)
    assert case.registrar.told[-1].warnings == ()


def test_peers_are_written_when_it_ends(case: Case) -> None:
    """Though they were written a moment ago."""
    case.start()
    case.loop._parts.peers_file._due = case.clock.now + 1
    case.store.put(Entry("n4", record(4)))
    case.step()
    assert len(content(case.folder / "peers.json")["peers"]) == 2
    case.loop.stop()
    case.drift.filenos = lambda: ()
    case.loop.run()
    assert len(content(case.folder / "peers.json")["peers"]) == 3
