"""What changes mean: who is who, who has which address, and that changes of pods are changes of elements."""

from dataclasses import replace

import pytest

from policy.compiled import Delta
from policy.engine import Engine
from policy.objects import (
    ACCEPT,
    DENY,
    ClusterNode,
    LocalPod,
    Namespace,
    NetworkPeer,
    NodePeer,
    Pod,
    PodPeer,
    Selector,
)
from spec.addresses import pack
from tests.pure.policy.shop import (
    CLUSTER,
    DB,
    FAR,
    HOST,
    LAB,
    WEB,
    cluster_policy,
    engine_of,
    having,
    local,
    of_shop,
    of_teams,
    passes,
    policy,
    says,
)

FROM_WEB = policy("from-web", of_shop(app="db"), ingress=[says(ACCEPT, of_shop(app="web"))])
FROM_RED = policy("from-red", of_shop(app="db"), ingress=[says(ACCEPT, of_teams(team="red"))])
FROM_EDGE = policy("from-edge", of_shop(app="db"), ingress=[says(ACCEPT, NodePeer(having(role="edge")))])


def only_elements(delta: Delta) -> tuple[set[bytes], set[bytes]]:
    """What sets lose and gain, of a Delta that changes nothing else."""
    assert not delta.new_chains
    assert not delta.new_sets
    assert not delta.unused_chains
    assert not delta.unused_sets
    assert not delta.pods
    changes = delta.sets.values()
    return {one for change in changes for one in change.gone}, {one for change in changes for one in change.new}


def reached(engine: Engine, source: str) -> bool:
    """Whether db can be reached from an address."""
    engine.take()
    return passes(engine.compiled, source, DB.ips[0])


@pytest.mark.parametrize(
    ("change", "gone", "new"),
    [
        (replace(FAR, labels={"app": "db"}), {"10.0.1.1"}, set()),
        (replace(FAR, labels={"app": "web", "x": "y"}), set(), set()),
        (replace(FAR, ips=("10.0.1.9",)), {"10.0.1.1"}, {"10.0.1.9"}),
        (replace(FAR, ips=(*FAR.ips, "fd00::9")), set(), {"fd00::9"}),
        (replace(FAR, is_host_network=True), {"10.0.1.1"}, set()),
        (Pod("shop", "new", {"app": "web"}, ("10.0.1.9",)), set(), {"10.0.1.9"}),
        (Namespace("lab", {"team": "red"}), set(), {"10.0.1.2"}),
        (ClusterNode("n2", {"role": "edge"}, ("192.0.2.2", "192.0.2.3")), set(), {"192.0.2.3"}),
        (ClusterNode("n2", {}, ("192.0.2.2",)), {"192.0.2.2"}, set()),
    ],
)
def test_a_change_of_a_pod_a_namespace_or_a_node_changes_elements(change: object, gone: set, new: set) -> None:
    """Chains stay, and so do those of the pods of this node."""
    engine = engine_of(FROM_WEB, FROM_RED, FROM_EDGE)
    engine.put(change)
    found = only_elements(engine.take())
    web = {pack(one) for one in ("10.0.1.1", "10.0.1.9", "fd00::9") if change and one in gone | new}
    assert {one for one in found[0] if one not in web} == {pack(one) for one in gone} - web
    assert {pack(one) for one in gone} <= found[0]
    assert found[1] == {pack(one) for one in new}


def test_nothing_new_is_an_empty_delta_and_the_same_value() -> None:
    """Objects that are put again do not matter."""
    engine = engine_of(FROM_WEB)
    before = engine.compiled
    engine.replace([*CLUSTER, FROM_WEB])
    delta = engine.take()
    assert not delta
    assert delta.narrowed == frozenset()
    assert engine.compiled is before


def test_a_compiled_is_not_touched_by_later_changes() -> None:
    """It is what was in force when it was taken."""
    engine = engine_of(FROM_WEB)
    before, sets = engine.compiled, dict(engine.compiled.sets)
    engine.put(replace(FAR, labels={}))
    assert engine.compiled is before
    engine.take()
    assert before.sets == sets
    assert engine.compiled.sets != sets


def test_policies_that_select_no_pod_of_this_node_cost_nothing() -> None:
    """Neither sets nor chains, whatever their peers are."""
    engine = engine_of()
    engine.put(policy("other", of_shop(app="other"), ingress=[says(ACCEPT, of_teams())]))
    engine.put(replace(FROM_RED, namespace="lab", subject=PodPeer(Selector(), namespace="lab")))
    assert not engine.take()


def test_the_last_pod_that_uses_something_takes_it_away() -> None:
    """With the last policy or the last pod."""
    engine = engine_of(FROM_WEB)
    engine.remove("NetworkPolicy", "shop", "from-web")
    delta = engine.take()
    assert (len(delta.unused_chains), len(delta.unused_sets)) == (4, 2)
    engine.put(FROM_WEB)
    engine.take()
    engine.remove_local(local(DB).owner)
    delta = engine.take()
    assert (len(delta.unused_chains), len(delta.unused_sets)) == (4, 2)
    assert delta.pods == dict.fromkeys(DB.ips)


def test_of_pods_that_claim_an_address_the_newest_claim_counts() -> None:
    """A pod that had it before has it again when the other one goes; other labels are no claim."""
    engine = engine_of(FROM_WEB)
    engine.put(Pod("shop", "other", {"app": "other"}, FAR.ips))
    assert not reached(engine, FAR.ips[0])
    engine.put(replace(FAR, labels={"app": "web", "x": "y"}))
    assert not reached(engine, FAR.ips[0])
    engine.remove("Pod", "shop", "other")
    assert reached(engine, FAR.ips[0])


def test_an_attached_pod_has_its_addresses_whoever_claims_them() -> None:
    """Even before its Pod says them, and while it is not known itself."""
    engine = engine_of(FROM_WEB)
    engine.put(Pod("shop", "thief", {"app": "other"}, WEB.ips))
    engine.put(replace(WEB, ips=()))
    assert reached(engine, WEB.ips[0])
    engine.put_local(LocalPod("o", FAR.ips, "veth9", "shop", "unknown"))
    assert not reached(engine, FAR.ips[0])


def test_a_pod_is_not_decided_before_its_pod_and_namespace_are_known() -> None:
    """With the API as source; the UID must be that which its ADD was told."""
    engine = Engine(needs_pods=True)
    engine.put_local(local(DB))
    for known in ([], [replace(DB, uids=("before",))], [Namespace("shop")], [FROM_WEB]):
        for one in known:
            engine.put(one)
        engine.take()
        assert engine.compiled.pods == {}
        assert engine.undecided() == (local(DB),)
    engine.put(DB)
    engine.take()
    assert engine.compiled.pods.keys() == set(DB.ips)
    assert engine.undecided() == ()


@pytest.mark.parametrize(("told", "uids"), [("", ("a",)), ("a", ()), ("", ()), ("b", ("a", "b"))])
def test_a_uid_that_is_not_known_matches(told: str, uids: tuple[str, ...]) -> None:
    """On either side; of several one must match (static pods have two)."""
    engine = Engine(needs_pods=True)
    engine.replace([Namespace("shop"), replace(DB, uids=uids)])
    engine.put_local(local(DB, uid=told))
    engine.take()
    assert engine.compiled.pods.keys() == set(DB.ips)


def test_a_pod_whose_pod_is_gone_stays_what_it_was_until_it_is_detached() -> None:
    """Even if another one with its name comes; policies still apply to it, and it is still a peer."""
    to_web = policy("to-web", of_shop(app="web"), ingress=[says(ACCEPT, of_shop(app="db"))])
    engine = engine_of(FROM_WEB, to_web)
    before = engine.compiled
    engine.remove("Pod", "shop", "db")
    engine.put(Pod("shop", "db", {"app": "other"}, uids=("another",)))
    engine.take()
    assert engine.compiled == before
    engine.replace([one for one in (*CLUSTER, FROM_WEB, to_web) if one != DB])
    engine.take()
    assert engine.compiled == before
    engine.remove_local(local(DB).owner)
    engine.take()
    assert not passes(engine.compiled, DB.ips[0], WEB.ips[0])


def test_without_need_of_pods_one_that_is_not_known_has_no_labels() -> None:
    """Its namespace has its name, and what its own document says. When the Pod is gone, so are the labels."""
    engine = engine_of(FROM_WEB, needs_pods=False)
    engine.put(policy("closed", PodPeer(having(), namespace="shop"), egress=[]))
    engine.put_local(LocalPod("o", ("10.0.0.9",), "veth9", "shop", "unknown", "uid"))
    engine.take()
    assert engine.compiled.pods["10.0.0.9"].policies == (("egress", "shop/closed"),)
    assert engine.undecided() == ()
    engine.remove("Pod", "shop", "db")
    engine.take()
    assert engine.compiled.pods[DB.ips[0]].policies == (("egress", "shop/closed"),)


def test_a_pod_in_no_namespace_is_decided_and_no_policy_selects_it() -> None:
    """Nor does any peer have it."""
    everything = cluster_policy("closed", ingress=[says(DENY)], egress=[says(DENY)])
    engine = engine_of(everything, FROM_RED)
    engine.put_local(LocalPod("o", FAR.ips, "veth9"))
    engine.take()
    found = engine.compiled.pods[FAR.ips[0]]
    assert (found.ingress, found.egress, found.to_node, found.pod) == ("", "", "", "")
    assert pack(FAR.ips[0]) not in {one for some in engine.compiled.sets.values() for one in some.elements}


def test_another_attachment_with_an_address_takes_its_place() -> None:
    """If it is not known yet, nothing is in force for the address."""
    engine = engine_of(FROM_WEB)
    engine.put_local(LocalPod("new", DB.ips, "veth9", "shop", "soon"))
    assert engine.take().pods == dict.fromkeys(DB.ips)
    engine.put(Pod("shop", "soon", {"app": "db"}))
    assert {one.owner for one in engine.take().pods.values()} == {"new"}
    engine.remove_local("new")
    assert {one.owner for one in engine.take().pods.values()} == {local(DB).owner}


def test_the_names_of_addresses_are_for_people() -> None:
    """Those of pods, not of pods on their node's network."""
    engine = engine_of()
    assert engine.name_of(DB.ips[1]) == "shop/db"
    assert engine.name_of(LAB.ips[0]) == "lab/lab"
    assert (engine.name_of(HOST.ips[0]), engine.name_of("203.0.113.9")) == ("", "")
    assert engine.on_node() == (WEB, DB)
    assert engine.counts() == {
        "Pod": 5,
        "Namespace": 2,
        "Node": 2,
        "NetworkPolicy": 0,
        "ClusterNetworkPolicy": 0,
        "LocalPod": 2,
    }


def test_the_kinds_that_can_be_removed_are_told() -> None:
    """What is not there need not be removed."""
    engine = engine_of()
    for kind in ("Pod", "Namespace", "Node", "ClusterNode", "NetworkPolicy", "ClusterNetworkPolicy"):
        engine.remove(kind, "none", "none")
    assert not engine.take()
    with pytest.raises(ValueError, match=r"kind is 'Service', allowed: Pod, Namespace, Node, NetworkPolicy, Cluster"):
        engine.remove("Service", "shop", "db")


@pytest.mark.parametrize(
    ("before", "change", "narrowed"),
    [
        ((FROM_WEB,), FROM_RED, ()),
        ((), FROM_RED, DB.ips),
        ((FROM_WEB,), policy("from-web", of_shop(app="db"), ingress=[]), DB.ips),
        ((FROM_WEB,), policy("from-web", of_shop(app="db"), egress=[], ingress=[says()]), DB.ips),
        ((FROM_WEB,), policy("from-web", of_shop(app="db"), ingress=[*FROM_WEB.ingress, *FROM_RED.ingress]), ()),
        ((FROM_WEB,), replace(FAR, labels={}), DB.ips[:1]),
        ((FROM_WEB,), replace(LAB, namespace="shop", labels={"app": "web"}), ()),
        ((cluster_policy("a", ingress=[says(DENY, of_teams(team="blue"))]),), Namespace("lab"), ()),
        (
            (cluster_policy("a", ingress=[says(DENY, of_teams(team="green"))]),),
            Namespace("lab", {"team": "green"}),
            (*WEB.ips[:1], *DB.ips[:1]),
        ),
        ((), cluster_policy("a", egress=[says(DENY, NetworkPeer("192.0.2.0/24"))]), (*WEB.ips, *DB.ips)),
    ],
)
def test_who_may_be_allowed_less_is_told(before: tuple, change: object, narrowed: tuple[str, ...]) -> None:
    """What only adds peers or rules to what is accepted narrows nothing."""
    engine = engine_of(*before)
    engine.put(change)
    assert engine.take().narrowed == set(narrowed)


def test_a_policy_that_goes_narrows_what_others_still_isolate() -> None:
    """The last one that isolates a pod narrows nothing when it goes."""
    engine = engine_of(FROM_WEB, FROM_RED)
    engine.remove("NetworkPolicy", "shop", "from-red")
    assert engine.take().narrowed == set(DB.ips)
    engine.remove("NetworkPolicy", "shop", "from-web")
    assert engine.take().narrowed == frozenset()


def test_a_pod_that_is_no_longer_an_exception_is_allowed_less() -> None:
    """Of the metadata service."""
    engine = engine_of(exceptions=[of_shop(app="db")])
    engine.put(replace(DB, labels={}))
    delta = engine.take()
    assert (delta.exempt_gone, delta.exempt_new, delta.narrowed) == (set(DB.ips), set(), set(DB.ips))
