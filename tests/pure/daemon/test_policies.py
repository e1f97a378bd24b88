"""The loop that keeps policies in force, with an engine, a kernel and a clock that are not real."""

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from daemon.policies.adoption import Adopted
from daemon.policies.inbox import Inbox, key_of
from daemon.policies.loop import DOCUMENTS, POD, PODS, WHOLE, Parts, Policies, Waker
from daemon.policies.pods import PodFiles
from linux.nftables.monitor import ANYTHING, ELEMENTS
from linux.ownership import owner_tag
from plugins.pod import pod_files
from plugins.pod.pod_files import PodFile
from policy.compiled import Compiled, Delta, Enforced
from policy.objects import NETWORK, LocalPod, Pod, PodPeer, Policy
from tests.pure.daemon.fake_policies import FakeAdoption, FakeMonitor
from tests.pure.daemon.test_records import Clock

A = PodFile("pods", "a", "eth0", ("10.1.0.2",), "veth0", "default", "a", "u1")
B = PodFile("pods", "b", "eth0", ("10.1.0.3",), "veth1", "default", "b", "u2")
POLICY = Policy(NETWORK, "default", "web", PodPeer(namespace="default"))
(IP_A,), (IP_B,) = A.ips, B.ips
TAG_A, TAG_B = owner_tag(A.owner), owner_tag(B.owner)


class FakeEngine:
    """Decides every pod whose Pod it knows; its chain is named after the policies."""

    def __init__(self) -> None:
        self.objects: dict = {}
        self.locals: dict[str, LocalPod] = {}
        self.compiled = Compiled()
        self.mistake, self.unused = "", frozenset()

    def put(self, one: object) -> None:
        self.objects[key_of(one)] = one

    def remove(self, *key: str) -> None:
        self.objects.pop(key, None)

    def replace(self, values: Iterable[object]) -> None:
        self.objects = {key_of(one): one for one in values}

    def put_local(self, local: LocalPod) -> None:
        self.locals[local.owner] = local

    def remove_local(self, owner: str) -> None:
        self.locals.pop(owner, None)

    def take(self) -> Delta:
        if self.mistake:
            raise KeyError(self.mistake)
        before, chain = self.compiled.pods, "+".join(key[2] for key in sorted(self.objects) if "Policy" in key[0])
        known = {key[1:] for key in self.objects if key[0] == "Pod"}
        pods = {
            ip: Enforced(local.owner, local.link, local.name, chain, chain)
            for local in self.locals.values()
            for ip in local.ips
            if (local.namespace, local.name) in known or not local.name
        }
        self.compiled = Compiled(pods)
        changed = {ip: pods.get(ip) for ip in before.keys() | pods.keys() if before.get(ip) != pods.get(ip)}
        narrowed = {ip for ip, now in changed.items() if now and ip in before}
        return Delta(pods=changed, narrowed=frozenset(narrowed), unused_chains=self.unused)


@dataclass
class FakeKernel:
    """A programmer, whose pods are held until it is told of them."""

    pods: dict[str, Enforced] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    refuses: str = ""

    def resync(self, compiled: Compiled, local: Mapping[str, str]) -> None:
        self._do("resync")
        assert compiled.pods.keys() <= local.keys()
        self.pods = dict(compiled.pods)

    def resync_pods(self, compiled: Compiled, _local: Mapping[str, str]) -> bool:
        self._do("resync_pods")
        before, self.pods = self.pods, dict(compiled.pods)
        return before != self.pods

    def apply(self, delta: Delta) -> None:
        self._do("apply")
        self.pods = {ip: now for ip, now in {**self.pods, **delta.pods}.items() if now}

    def sweep(self) -> None:
        self.calls.append("sweep")

    def prepare(self, _networks: Collection[str]) -> None:
        self._do("prepare")

    def hold(self, ip: str) -> None:
        """As an ADD."""
        self.pods.pop(ip, None)

    def _do(self, call: str) -> None:
        if self.refuses:
            raise OSError(self.refuses)
        self.calls.append(call)


@dataclass
class FakeCuts:
    """Remembers what was to be cut, and how often what was left was to be flushed."""

    asked: list[frozenset[str] | None] = field(default_factory=list)
    flushed: int = 0
    problem: str = ""
    is_cutting: bool = False

    def request(self, _compiled: Compiled, addresses: Collection[str] | None) -> None:
        self.asked.append(None if addresses is None else frozenset(addresses))

    def flush(self) -> None:
        self.flushed += 1


class Case:
    """A loop, and its parts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock, self.waker = str(folder / "pods"), Clock(), Waker()
        self.inbox = Inbox("n1", self.waker.wake, clock=self.clock)
        self.kernel, self.cuts, self.monitor, self.adoption = FakeKernel(), FakeCuts(), FakeMonitor(), FakeAdoption()
        self.engines: list[FakeEngine] = []
        self.done: list[str] = []
        self.failures = 0
        self.logged: list[str] = []
        self.bound: list[LocalPod] = []
        self.parts = Parts(
            inbox=self.inbox,
            new_engine=self._new_engine,
            programmer=self.kernel,
            files=PodFiles(self.folder),
            adoption=self.adoption,
            cuts=self.cuts,
            prepare=self.kernel.prepare,
            bind=self.bound.extend,
            open_monitor=lambda: self.monitor,
        )
        self.loop = Policies(self.parts, self.waker, self._log, self, clock=self.clock)

    def _new_engine(self) -> FakeEngine:
        self.engines.append(FakeEngine())
        return self.engines[-1]

    def _log(self, _level: int, fields: dict) -> None:
        self.logged.append(str(fields.get("msg", fields["event"])))

    def on_programmed(self, kind: str, seconds: float) -> None:
        assert seconds >= 0
        self.done.append(kind)

    def on_failed(self) -> None:
        self.failures += 1

    def write(self, *pods: PodFile) -> None:
        """As their ADDs."""
        for pod in pods:
            pod_files.write(pod, self.folder)

    def step(self, *, after: float = 0.0) -> list[str]:
        """One round after so many seconds; what was programmed in it."""
        self.clock.now += after
        before = len(self.done)
        self.loop.step()
        return self.done[before:]

    def start(self, *objects: object) -> None:
        """The first complete list, with the pods A and B of the API and these; A is attached."""
        self.write(A)
        self.inbox.replace([pod("a"), pod("b"), *objects])
        assert self.step() == [WHOLE]
        self.kernel.calls.clear()
        self.cuts.asked.clear()


def pod(name: str) -> Pod:
    """A Pod of this node."""
    return Pod("default", name, node="n1")


@pytest.fixture(name="case")
def new_case(tmp_path: Path) -> Case:
    """A loop that has not begun."""
    return Case(tmp_path)


def test_nothing_is_decided_before_the_first_list(case: Case) -> None:
    """Only the tables that hold new pods are made; what an earlier daemon has programmed stays."""
    case.write(A)
    assert case.step() == []
    assert case.kernel.calls == ["prepare"]
    assert case.step(after=1000) == []
    assert case.kernel.calls == ["prepare"]
    case.monitor.found = ANYTHING
    assert case.step() == []
    assert case.kernel.calls == ["prepare", "prepare"]
    assert case.loop.in_force.objects is None


def test_the_first_list_is_put_into_force_as_a_whole(case: Case) -> None:
    """Connections of all pods are compared: nobody knows what was allowed when they were opened."""
    case.write(A)
    case.inbox.replace([pod("a"), POLICY])
    assert case.step() == [WHOLE]
    assert (case.kernel.pods[IP_A].ingress, case.cuts.asked) == ("web", [None])
    assert set(case.loop.in_force.objects) == {key_of(pod("a")), key_of(POLICY)}
    assert case.loop.in_force.pods[TAG_A].ips == A.ips


def test_a_new_pod_is_put_into_force_at_once(case: Case) -> None:
    """By what its file says; nothing is compared."""
    case.start()
    case.write(B)
    assert case.step() == [POD]
    assert (set(case.kernel.pods), case.kernel.calls) == ({IP_A, IP_B}, ["apply"])
    pod_files.delete(B.owner, case.folder)
    flushed = case.cuts.flushed
    assert case.step() == [POD]
    assert (set(case.kernel.pods), case.cuts.flushed) == ({IP_A}, flushed + 1)


def test_a_pod_whose_add_is_repeated_does_not_stay_held(case: Case) -> None:
    """The engine knows of no change, but the ADD has held the pod again."""
    case.start()
    case.kernel.hold(IP_A)
    case.write(A)
    assert case.step() == [POD]
    assert IP_A in case.kernel.pods
    assert case.step() == []


def test_a_pod_that_is_not_known_yet_is_decided_when_it_is(case: Case) -> None:
    """Until then it stays held."""
    unknown = replace(B, name="c")
    case.start()
    case.write(unknown)
    assert case.step() == []
    assert IP_B not in case.kernel.pods
    assert set(case.loop.in_force.pods) == {TAG_A, TAG_B}
    case.inbox.put(pod("c"))
    assert case.step() == [DOCUMENTS]
    assert IP_B in case.kernel.pods


def test_a_burst_of_changes_does_not_hold_up_a_pod(case: Case) -> None:
    """A round takes a part of them; a file that appears meanwhile is in the next."""
    case.start()
    for number in range(1000):
        case.inbox.put(Pod("default", f"p{number}", node="n2"))
    case.write(B)
    assert case.step() == [DOCUMENTS]
    assert IP_B in case.kernel.pods
    assert case.inbox.counts().waiting == 800
    assert case.loop.seconds_left() == 0
    for _ in range(4):
        case.step()
    assert case.inbox.counts().waiting == 0
    assert case.loop.seconds_left() > 0


def test_a_change_that_changes_nothing_is_in_force(case: Case) -> None:
    """Whoever waits for it is told."""
    case.start()
    generation = case.loop.in_force.generation
    case.inbox.put(pod("x"))
    assert case.step() == []
    assert key_of(pod("x")) in case.loop.in_force.objects
    assert case.loop.in_force.generation == generation + 1
    case.step()
    assert case.loop.in_force.generation == generation + 1


def test_what_is_no_longer_allowed_is_cut(case: Case) -> None:
    """Of the pods that a change narrows, after it is in force."""
    case.start()
    case.inbox.put(POLICY)
    assert case.step() == [DOCUMENTS]
    assert case.cuts.asked == [{IP_A}]


def test_connections_can_be_kept(tmp_path: Path) -> None:
    """If the configuration says so."""
    case = Case(tmp_path)
    case.loop = Policies(replace(case.parts, keeps_connections=True), case.waker, case._log, case, clock=case.clock)
    case.start()
    case.inbox.put(POLICY)
    case.step()
    assert case.cuts.asked == []


def test_rules_that_others_change_are_restored_at_once(case: Case) -> None:
    """Once; meanwhile anything may have been opened."""
    case.start()
    case.monitor.found = ANYTHING
    assert case.step() == [WHOLE]
    assert (case.kernel.calls, case.cuts.asked) == (["prepare", "resync"], [None])
    assert case.step() == []


def test_elements_that_others_change_are_compared_later(case: Case) -> None:
    """Most are those of an ADD or a DEL, which come with a file."""
    case.start()
    case.monitor.found = ELEMENTS
    assert case.step() == []
    assert 0 < case.loop.seconds_left() <= 1
    assert case.step(after=0.6) == [PODS]
    assert (case.kernel.calls, case.cuts.asked) == (["resync_pods"], [])
    assert case.step(after=0.6) == []


def test_everything_is_compared_every_minute(case: Case) -> None:
    """Also the files."""
    case.start()
    assert case.step(after=59) == []
    assert case.step(after=2) == [WHOLE]


def test_what_fails_is_tried_again_with_growing_pauses(case: Case) -> None:
    """It is said once; what has changed meanwhile is done then, and cut."""
    case.start()
    case.kernel.refuses = "no memory"
    case.inbox.put(POLICY)
    assert case.step() == []
    assert case.logged.count("policies cannot be programmed: no memory") == 1
    assert case.loop.problems == ("policies cannot be programmed: no memory",)
    assert case.loop.seconds_left() == 0.5
    assert case.step(after=0.4) == []
    assert case.failures == 1
    assert case.step(after=0.2) == []
    assert (case.failures, case.loop.seconds_left()) == (2, 1.0)
    assert key_of(POLICY) not in case.loop.in_force.objects
    case.clock.now += 100
    assert case.loop.failing_seconds > 100
    case.kernel.refuses = ""
    assert case.step() == [WHOLE]
    assert (case.kernel.pods[IP_A].ingress, case.cuts.asked) == ("web", [{IP_A}])
    assert (case.loop.problems, case.loop.failing_seconds) == ((), 0)
    assert key_of(POLICY) in case.loop.in_force.objects


def test_a_new_pod_does_not_wait_for_the_pause(case: Case) -> None:
    """What failed may work by now."""
    case.start()
    case.kernel.refuses = "no memory"
    case.inbox.put(POLICY)
    case.step()
    case.kernel.refuses = ""
    case.write(B)
    assert case.step() == [WHOLE]
    assert set(case.kernel.pods) == {IP_A, IP_B}


def test_an_engine_that_fails_is_replaced(case: Case) -> None:
    """The new one knows all that the other did; nothing is lost, and the thread does not end."""
    case.start()
    case.engines[-1].mistake = "a mistake"
    case.write(B)
    case.inbox.put(POLICY)
    assert case.step() == []
    assert case.loop.error == "KeyError: 'a mistake'"
    assert case.step(after=1) == [WHOLE]
    assert len(case.engines) == 2
    assert {ip: now.ingress for ip, now in case.kernel.pods.items()} == {IP_A: "web", IP_B: "web"}
    assert case.cuts.asked == [None]


def test_pods_without_a_file_are_put_into_force(case: Case) -> None:
    """They were attached before policies were enabled; those that are waited for are looked for again soon."""
    case.start()
    nameless = PodFile("pods", "c", "eth0", ("10.1.0.4",), "veth2")
    case.adoption.answer = Adopted((nameless,), is_waiting=True)
    assert case.step(after=30) == []
    case.loop.look_soon()
    assert case.step() == []
    assert case.loop.seconds_left() == 0
    assert case.step() == [WHOLE]
    assert "10.1.0.4" in case.kernel.pods
    assert case.loop.seconds_left() == 2
    case.adoption.answer = Adopted((), (owner_tag(nameless.owner),))
    case.step(after=2)
    assert case.step() == [WHOLE]
    assert "10.1.0.4" not in case.kernel.pods


def test_bridges_are_looked_at_when_the_network_was_made(case: Case) -> None:
    """One that was replaced may have another MAC, by which its pods are routed."""
    case.start()
    case.loop.look_soon()
    assert case.step() == []
    assert case.kernel.calls == ["prepare"]


def test_unused_chains_are_swept_until_there_are_none(case: Case) -> None:
    """Some seconds after they are unused."""
    case.start()
    assert case.step(after=4) == []
    assert case.kernel.calls == []
    case.step(after=1)
    assert case.kernel.calls == ["sweep"]
    case.inbox.put(POLICY)
    case.engines[-1].unused = frozenset({"a"})
    case.step(after=1)
    case.inbox.remove(*key_of(POLICY))
    case.step(after=4)
    case.engines[-1].unused = frozenset()
    assert case.kernel.calls == ["sweep", "apply", "apply"]
    case.step(after=1)
    case.step(after=5)
    assert case.kernel.calls == ["sweep", "apply", "apply", "sweep", "sweep"]
    case.step(after=10)
    assert case.kernel.calls == ["sweep", "apply", "apply", "sweep", "sweep"]


def test_the_loop_ends_when_it_is_told_to(case: Case) -> None:
    """And polls what it waits for."""
    case.start()
    case.loop.stop()
    case.loop.run()
    assert os.path.isdir(case.folder)
