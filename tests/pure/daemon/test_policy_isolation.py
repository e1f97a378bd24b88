"""An object on which the engine fails is set aside; everything else stays in force, and changes."""

import itertools
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from socket import IPPROTO_SCTP

import pytest

from daemon.policies.inbox import key_of
from daemon.policies.isolation import IsolatingEngine
from daemon.policies.loop import DOCUMENTS, POD, WHOLE, Policies
from daemon.policies.pods import local_pod
from policy import compile as module
from policy.compiled import DROP, EGRESS, INGRESS, ChainRule, Delta
from policy.engine import Engine
from policy.nftables import rules
from policy.objects import (
    ADMIN,
    DENY,
    EVERYTHING,
    IN,
    NETWORK,
    LocalPod,
    Namespace,
    PodPeer,
    Policy,
    Ports,
    Requirement,
    Rule,
    Selector,
)
from policy.programming import creation
from tests.pure.daemon.test_policies import IP_A, IP_B, A, B, Case, pod

ALL = PodPeer(namespace="default")
POISON = Rule(where="poison")
WEB = Policy(NETWORK, "default", "web", ALL, ingress=(Rule(where="ingress[0]"),))
OF_B = PodPeer(Selector((Requirement("app", IN, ("b",)),)), namespace="default")
SPACE = Namespace("default", {"kubernetes.io/metadata.name": "default"})
IS_WRONG = "NetworkPolicy/default/web cannot be computed (KeyError: 'poison'); "


class Made:
    """Engines that fail on certain objects, attached pods, and subjects of policies."""

    def __init__(self) -> None:
        self.fails_on: list[object] = []
        self.clock = lambda: 0.0

    def engine(self) -> IsolatingEngine:
        """For pods of which no Pod need be known."""
        return IsolatingEngine(lambda: FailingEngine(self.fails_on), clock=self.clock)


class FailingEngine(Engine):
    """The real one, but for that."""

    def __init__(self, fails_on: list[object]) -> None:
        super().__init__(needs_pods=False)
        self._fails_on = fails_on

    def put(self, value: object) -> None:
        if value in self._fails_on or getattr(value, "subject", None) in self._fails_on:
            raise RuntimeError("put")
        super().put(value)

    def put_local(self, local: LocalPod) -> None:
        if local in self._fails_on:
            raise RuntimeError("put_local")
        super().put_local(local)


def pods_of(engine: IsolatingEngine) -> set[str]:
    """The addresses of pods that are not held."""
    if engine.is_broken:
        engine.rebuild({})
    engine.take()
    return set(engine.compiled.pods)


@pytest.fixture(name="made")
def made_here(failing: None) -> Made:
    """They fail on nothing yet."""
    return Made()


@pytest.fixture(name="failing")
def failing_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rule "poison" can be compiled."""
    expanded = module.expanded

    def failing(rule: Rule, *more: object) -> object:
        if rule.where == "poison":
            raise KeyError(rule.where)
        return expanded(rule, *more)

    monkeypatch.setattr(module, "expanded", failing)


@pytest.fixture(name="case")
def new_case(tmp_path: Path, failing: None) -> Case:
    """A loop with the real engine."""
    case = Case(tmp_path)
    parts = replace(case.parts, new_engine=lambda: Engine(needs_pods=True, node="n1"))
    case.loop = Policies(parts, case.waker, case._log, case, clock=case.clock)
    return case


def settle(case: Case) -> None:
    """Have it fail, and begin anew after the first pause."""
    assert case.step() == []
    assert case.step(after=0.5) == [WHOLE]


def chain(case: Case, ip: str, direction: str) -> list[tuple[str, str]]:
    """The rules of a pod's chain, in short: verdicts, and what is said of them."""
    name = getattr(case.kernel.pods[ip], direction)
    return [(rule.verdict, rule.comment) for rule in case.loop.in_force.compiled.chains[name].rules] if name else []


def test_a_policy_on_which_the_engine_fails_stops_no_other(case: Case) -> None:
    """It allows nothing to its pods; others come, change and go meanwhile; a change of it is tried again."""
    case.start(SPACE)
    case.inbox.put(replace(WEB, subject=OF_B, ingress=(POISON,)))
    case.inbox.put(replace(pod("b"), labels={"app": "b"}))
    case.write(B)
    settle(case)
    assert case.loop.problems == (f"{IS_WRONG}it denies all that it may deny, and allows nothing",)
    assert case.loop.problems[0] in case.logged
    assert chain(case, IP_B, INGRESS) == [(DROP, "isolated by default/web")]
    assert (chain(case, IP_B, EGRESS), chain(case, IP_A, INGRESS)) == ([], [])
    assert key_of(WEB) not in case.loop.in_force.objects
    case.inbox.put(replace(WEB, name="other"))
    assert case.step() == [DOCUMENTS]
    assert len(chain(case, IP_A, INGRESS)) == 2
    case.write(A)
    assert case.step() == [POD]
    case.inbox.put(WEB)
    assert case.step() == [WHOLE]
    assert case.loop.problems == ()
    assert case.loop.in_force.objects[key_of(WEB)] == WEB
    assert case.failures == 1


def test_the_last_content_of_a_policy_stays_in_force(case: Case) -> None:
    """Also if it changes to something else that cannot be computed; who reads the pages is told the truth."""
    case.start(SPACE, WEB)
    before = chain(case, IP_A, INGRESS)
    for egress in ((), None):
        case.inbox.put(replace(WEB, ingress=(POISON,), egress=egress))
        case.step()
        case.step(after=0.5)
        assert case.loop.problems == (f"{IS_WRONG}its last content stays in force",)
        assert (chain(case, IP_A, INGRESS), chain(case, IP_A, EGRESS)) == (before, [])
        assert case.loop.in_force.objects[key_of(WEB)] == WEB
    case.inbox.remove(*key_of(WEB))
    assert case.step() == [WHOLE]
    assert (case.loop.problems, chain(case, IP_A, INGRESS)) == ((), [])


def test_a_policy_that_cannot_be_written_stops_no_other(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the engine has computed may be what the kernel cannot be told."""
    written, apply = rules._expressions, case.kernel.apply

    def failing(direction: str, rule: ChainRule, kinds: Mapping[str, str]) -> object:
        if rule.protocol == IPPROTO_SCTP:
            raise KeyError("sctp")
        return written(direction, rule, kinds)

    def applied(delta: Delta) -> None:
        creation(delta, {})
        apply(delta)

    monkeypatch.setattr(rules, "_expressions", failing)
    monkeypatch.setattr(case.kernel, "apply", applied)
    case.start(SPACE)
    case.inbox.put(replace(WEB, ingress=(Rule(ports=(Ports("SCTP", 80, 80),)),)))
    case.inbox.put(replace(WEB, name="other", egress=()))
    settle(case)
    assert case.loop.problems == (
        f"{IS_WRONG.replace('poison', 'sctp')}it denies all that it may deny, and allows nothing",
    )
    assert len(chain(case, IP_A, INGRESS)) == 2
    assert chain(case, IP_A, EGRESS) == [(DROP, "isolated by default/other")]


def test_a_cluster_policy_denies_what_it_may_deny(case: Case) -> None:
    """Where it only accepts, it says nothing."""
    case.start(SPACE)
    subject = PodPeer(namespaces=EVERYTHING)
    case.inbox.put(Policy(ADMIN, "", "all", subject, (POISON,), (POISON, Rule(action=DENY))))
    settle(case)
    assert chain(case, IP_A, INGRESS) == []
    jump, *_ = case.loop.in_force.compiled.chains[case.kernel.pods[IP_A].egress].rules
    assert [rule.verdict for rule in case.loop.in_force.compiled.chains[jump.target].rules] == [DROP]


def test_a_pod_on_which_the_engine_fails_is_held(case: Case) -> None:
    """If it is one of this node; the others are not."""
    case.start(SPACE)
    case.inbox.put(replace(pod("c"), ips=("no address",)))
    case.write(replace(B, name="c"))
    settle(case)
    assert set(case.kernel.pods) == {IP_A}
    (problem,) = case.loop.problems
    assert problem.startswith("Pod/default/c cannot be computed (ValueError: ")
    assert problem.endswith("; pods of this node that it concerns are held")
    case.inbox.put(pod("c"))
    assert case.step() == [WHOLE]
    assert (set(case.kernel.pods), case.loop.problems) == ({IP_A, IP_B}, ())


def test_a_pod_does_not_lose_its_labels(made: Made) -> None:
    """Where a pod need not be known, it would be one without labels, and policies for these would not be about it."""
    engine = made.engine()
    engine.change_attached([local_pod(A)], ())
    with pytest.raises(ValueError, match="no address"):
        engine.change({key_of(one): one for one in (replace(pod("a"), ips=("no address",)), WEB)})
    assert pods_of(engine) == set()
    engine.change_attached([local_pod(A), local_pod(B)], ())
    assert pods_of(engine) == {IP_B}
    engine.change({key_of(pod("a")): pod("a")})
    assert pods_of(engine) == {IP_A, IP_B}
    assert engine.compiled.pods[IP_A].policies == (("ingress", "default/web"),)


def test_pods_are_held_that_a_policy_may_select(made: Made) -> None:
    """If it is not even known which pods a policy is for, those of its namespace are held; of a cluster's, all."""
    made.fails_on.append(WEB.subject)
    engine = made.engine()
    engine.change_attached([local_pod(A), local_pod(replace(B, namespace="shop"))], ())
    assert pods_of(engine) == {IP_A, IP_B}
    for policy, held in ((WEB, {IP_A}), (replace(WEB, tier=ADMIN, namespace=""), {IP_A, IP_B})):
        with pytest.raises(RuntimeError):
            engine.change({policy.key: policy})
        assert pods_of(engine) == {IP_A, IP_B} - held
        engine.change({policy.key: None})
        assert pods_of(engine) == {IP_A, IP_B}


def test_an_attached_pod_on_which_the_engine_fails_stays_held(made: Made) -> None:
    """Until its file is another; without it, all is well."""
    made.fails_on.append(local_pod(B))
    engine = made.engine()
    with pytest.raises(RuntimeError):
        engine.change_attached([local_pod(B), local_pod(A)], ())
    assert pods_of(engine) == {IP_A}
    assert engine.problems[0].startswith("LocalPod/")
    engine.change_attached([local_pod(replace(B, name="c"))], ())
    assert pods_of(engine) == {IP_A, IP_B}
    engine.change_attached([], [local_pod(B).owner])
    assert pods_of(engine) == {IP_A}


def test_nothing_is_set_aside_if_all_can_be_computed(made: Made) -> None:
    """What fails once, and not when it is begun anew, is as good as all others."""
    engine = made.engine()
    made.fails_on.append(WEB.subject)
    engine.change_attached([local_pod(A)], ())
    with pytest.raises(RuntimeError):
        engine.change({WEB.key: WEB})
    made.fails_on.clear()
    assert pods_of(engine) == {IP_A}
    assert engine.all_known() == {WEB.key: WEB}


def test_the_search_goes_on_in_the_next_round(made: Made) -> None:
    """The loop must go round; what has been found meanwhile is not searched again."""
    policies = [replace(WEB, name=f"p{number}", ingress=(POISON,)) for number in range(6)]
    times = itertools.count(0, 8)
    made.clock = lambda: float(next(times))
    engine = made.engine()
    engine.change_attached([local_pod(A)], ())
    engine.change({one.key: one for one in policies})
    rounds = 0
    while engine.is_broken or rounds == 0:
        rounds += 1
        with suppress(RuntimeError, KeyError):
            pods_of(engine)
    assert (rounds, len(engine.problems)) == (4, len(policies))
