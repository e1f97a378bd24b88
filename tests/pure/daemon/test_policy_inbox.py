"""What a source of policies says is kept, in parts that a new pod can wait for."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.policies.inbox import Batch, Inbox, digest_of, key_of, text_of
from policy.objects import NETWORK, ClusterNode, Namespace, Pod, PodPeer, Policy, Rule
from tests.pure.daemon.test_records import Clock

POLICY = Policy(NETWORK, "default", "web", PodPeer(namespace="default"))


def pod(name: str, node: str = "n2", **labels: str) -> Pod:
    """A pod of the namespace "default"."""
    return Pod("default", name, labels, node=node)


class Case:
    """An inbox of the node n1."""

    def __init__(self) -> None:
        self.clock, self.woken = Clock(), 0
        self.inbox = Inbox("n1", self._wake, clock=self.clock)

    def _wake(self) -> None:
        self.woken += 1

    def complete(self, *objects: object) -> None:
        """The first list, taken."""
        self.inbox.replace(objects)
        assert self.inbox.take(1).whole == objects


@pytest.fixture(name="case")
def new_case() -> Case:
    """An inbox that is empty."""
    return Case()


def test_nothing_is_taken_before_the_first_list(case: Case) -> None:
    """Then everything, also what was put after it."""
    case.inbox.put(pod("a"))
    assert case.inbox.take(9) == Batch()
    assert not case.inbox.is_complete
    case.inbox.replace([pod("b")])
    case.inbox.put(pod("c"))
    assert case.inbox.take(1) == Batch((pod("b"), pod("c")))
    assert case.inbox.take(9) == Batch(None, {})
    assert not case.inbox.has_news()


def test_changes_are_taken_in_parts(case: Case) -> None:
    """Each object once, as it is by then."""
    case.complete()
    for name in "abc":
        case.inbox.put(pod(name))
    case.inbox.put(pod("a", app="x"))
    case.inbox.remove("Pod", "default", "b")
    assert case.inbox.take(2).changes == {("Pod", "default", "a"): pod("a", app="x"), ("Pod", "default", "b"): None}
    assert case.inbox.has_news()
    assert case.inbox.take(2).changes == {("Pod", "default", "c"): pod("c")}


def test_large_policies_are_taken_one_by_one(case: Case) -> None:
    """To program one with a thousand peers takes a second; a pod waits for one at most."""
    case.complete()
    large = Rule(tuple(PodPeer(namespace=f"n{number}") for number in range(1000)))
    for name in "ab":
        case.inbox.put(replace(POLICY, name=name, ingress=(large,)))
    case.inbox.put(POLICY)
    case.inbox.put(pod("own", "n1"))
    case.inbox.put(pod("c"))
    taken = [[key[2] for key in case.inbox.take(200).changes] for _ in range(4)]
    assert taken == [["a"], ["b"], ["web", "own", "c"], []]


def test_what_a_new_pod_waits_for_comes_first(case: Case) -> None:
    """Its own Pod, namespaces and policies, before the pods of other nodes and nodes."""
    case.complete()
    case.inbox.put(pod("a"))
    case.inbox.put(ClusterNode("n2"))
    case.inbox.put(pod("own", "n1"))
    case.inbox.put(POLICY)
    case.inbox.put(Namespace("x"))
    assert list(case.inbox.take(3).changes) == [key_of(one) for one in (pod("own"), POLICY, Namespace("x"))]
    assert list(case.inbox.take(3).changes) == [("Pod", "default", "a"), ("Node", "", "n2")]


def test_equal_objects_are_no_news(case: Case) -> None:
    """The loop is not woken for them, nor by the removal of what is not there."""
    case.complete(pod("a"))
    woken = case.woken
    case.inbox.put(pod("a"))
    case.inbox.remove("Pod", "default", "b")
    assert (case.woken, case.inbox.has_news()) == (woken, False)


def test_a_later_list_is_compared(case: Case) -> None:
    """Only what differs is taken."""
    case.complete(pod("a"), pod("b"), pod("c"))
    case.inbox.replace([pod("a"), pod("b", app="x"), pod("d")])
    changes = {("Pod", "default", "b"): pod("b", app="x"), ("Pod", "default", "c"): None}
    assert case.inbox.take(9).changes == {**changes, ("Pod", "default", "d"): pod("d")}


def test_pods_that_may_be_here_are_known(case: Case) -> None:
    """Those of this node, and those of no node that is known, but not those on their node's own network."""
    case.complete(pod("a", "n1"), pod("b", ""), pod("c", "n2"), Pod("default", "d", node="n1", is_host_network=True))
    assert case.inbox.pods_here() == (pod("a", "n1"), pod("b", ""))
    case.inbox.remove("Pod", "default", "a")
    case.inbox.put(pod("b", "n2"))
    assert case.inbox.pods_here() == ()


def test_a_lost_source_and_wrong_documents_are_told(case: Case) -> None:
    """Until they are not any more."""
    case.complete(pod("a"), POLICY)
    case.inbox.lost("connection refused")
    case.inbox.wrong("web.yaml", "web.yaml: expected a list")
    case.clock.now += 5
    case.inbox.put(pod("b"))
    counts = case.inbox.counts()
    assert (counts.known, counts.waiting) == ({"Pod": 2, "NetworkPolicy": 1}, 1)
    assert (counts.lost_seconds, counts.why) == (5, "connection refused")
    assert (counts.wrong, counts.wrong_count) == (("web.yaml: expected a list",), 1)
    case.inbox.alive()
    case.inbox.wrong("web.yaml", None)
    case.inbox.remove("Pod", "default", "b")
    counts = case.inbox.counts()
    assert (counts.known, counts.lost_seconds, counts.why, counts.wrong) == ({"Pod": 1, "NetworkPolicy": 1}, 0, "", ())


NAMES = st.sampled_from("abc")
STEPS = st.one_of(
    st.tuples(st.just("put"), st.builds(pod, NAMES, st.sampled_from(("n1", "n2", "")), app=NAMES)),
    st.tuples(st.just("remove"), NAMES),
    st.tuples(st.just("replace"), st.lists(st.builds(pod, NAMES, st.sampled_from(("n1", "n2"))), max_size=3)),
    st.tuples(st.just("take"), st.integers(1, 3)),
)


@given(st.lists(STEPS))
def test_what_is_taken_adds_up_to_what_there_is(steps: list[tuple]) -> None:
    """Whatever the order of changes."""
    inbox, taken = Case().inbox, {}

    def take(most: int) -> None:
        batch = inbox.take(most)
        if batch.whole is not None:
            taken.clear()
            taken.update({key_of(one): one for one in batch.whole})
        assert len(batch.changes) <= most
        for key, one in batch.changes.items():
            taken.pop(key, None)
            if one is not None:
                taken[key] = one

    inbox.replace([])
    for kind, value in steps:
        match kind:
            case "put":
                inbox.put(value)
            case "remove":
                inbox.remove("Pod", "default", value)
            case "replace":
                inbox.replace(value)
            case _:
                take(value)
    while inbox.has_news():
        take(2)
    assert taken == {key_of(one): one for one in inbox.objects()}
    assert inbox.counts().known.get("Pod", 0) == len(taken)


def test_digests_follow_the_content() -> None:
    """The order of labels makes no difference."""
    assert digest_of(pod("a", x="1", y="2")) == digest_of(pod("a", y="2", x="1"))
    assert len({digest_of(one) for one in (pod("a"), pod("a", x="1"), pod("b"), POLICY, Namespace("a"))}) == 5
    assert text_of(key_of(POLICY)) == "NetworkPolicy/default/web"
    assert text_of(key_of(Namespace("x"))) == "Namespace/x"
