"""Whatever happens to a cluster, the Engine knows what is in force, and says exactly what has changed."""

from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.compiled import JUMP, AddressSet, Compiled, Delta
from policy.documents import WrongDocument, read_document
from policy.engine import Engine
from policy.objects import LocalPod
from policy.sources.sink import ClusterObject
from policy.verdicts import Judge, Packet
from spec.addresses import pack
from tests.policy import model, random_clusters
from tests.pure.policy.small_clusters import (
    ADDRESSES,
    NODE,
    NODE_ADDRESSES,
    OUTSIDE,
    Ledger,
    histories,
    narrow_peers,
)

PROTOCOLS = {model.TCP: 6, model.UDP: 17, model.SCTP: 132, model.ICMP: 1}


def applied(old: Compiled, delta: Delta) -> Compiled:
    """What a Delta makes of the Compiled before it; fails where the Delta is about what is not there."""
    assert not delta.new_sets.keys() & old.sets.keys()
    assert not delta.new_chains.keys() & old.chains.keys()
    assert delta.unused_sets <= old.sets.keys()
    assert delta.unused_chains <= old.chains.keys()
    sets = {name: one for name, one in old.sets.items() if name not in delta.unused_sets}
    for name, change in delta.sets.items():
        one = sets[name]
        assert change.kind == one.kind
        assert change.gone <= one.elements
        assert not change.new & one.elements
        sets[name] = AddressSet(one.kind, one.elements - change.gone | change.new, one.comment)
    chains = {name: one for name, one in old.chains.items() if name not in delta.unused_chains}
    for name, chain in delta.new_chains.items():
        assert {rule.target for rule in chain.rules if rule.verdict == JUMP} <= chains.keys()
        chains[name] = chain
    pods = {address: one for address, one in {**old.pods, **delta.pods}.items() if one}
    assert delta.exempt_gone <= old.metadata_exempt
    assert not delta.exempt_new & old.metadata_exempt
    return Compiled(pods, chains, sets | delta.new_sets, old.metadata_exempt - delta.exempt_gone | delta.exempt_new)


def packets() -> Iterator[Packet]:
    """Between all addresses of the small clusters that are of one family."""
    every = [*map(pack, (*ADDRESSES, *NODE_ADDRESSES[:2], *OUTSIDE))]
    for source in every:
        for destination in every:
            if len(source) == len(destination):
                for protocol, port in ((6, 80), (6, 81), (17, 81)):
                    yield Packet(source, destination, protocol, port)


def wrongly_kept(old: Compiled, new: Compiled, narrowed: frozenset[str]) -> list[Packet]:
    """What was allowed and is not any more, though no end of it is said to be allowed less.

    Packets of pods that have come or gone are left out: their connections are flushed.
    """
    same = {pack(one) for one in old.pods.keys() & new.pods.keys() if old.pods[one].owner == new.pods[one].owner}
    others = {pack(one) for one in old.pods.keys() | new.pods.keys()} - same
    told = set(map(pack, narrowed))
    before, after = (Judge(one, metadata_deny=True) for one in (old, new))
    return [
        packet
        for packet in packets()
        if not {packet.source, packet.destination} & (others | told)
        and before.decide(packet).is_allowed
        and not after.decide(packet).is_allowed
    ]


@pytest.mark.parametrize("needs_pods", [True, False])
@given(history=histories, exceptions=st.lists(narrow_peers, max_size=1))
def test_the_result_is_the_same_as_from_nothing(history: list, exceptions: list, needs_pods: bool) -> None:
    """After each change; the Delta says what has changed and no more, and who may be allowed less."""
    engine = Engine(needs_pods=needs_pods, metadata_exceptions=exceptions, node=NODE)
    ledger = Ledger(needs_pods, tuple(exceptions))
    old = engine.compiled
    for event in history:
        ledger.do(engine, event)
        if event[0] != "remove_local":
            delta, wanted = engine.take(), ledger.compiled()
            assert engine.compiled == wanted
            assert applied(old, delta) == wanted
            assert bool(delta) == (old != wanted)
            assert not delta or wrongly_kept(old, wanted, delta.narrowed) == []
            old = wanted
    engine.take()
    assert not engine.take()
    assert {pod.name for pod in engine.on_node()} == {
        one.name for one in ledger.objects.values() if getattr(one, "node", "") == NODE and not one.is_host_network
    }


@given(history=histories)
def test_what_is_taken_away_leaves_nothing(history: list) -> None:
    """No chain, set, group or claim remains when all objects and attached pods are gone."""
    engine, ledger = Engine(needs_pods=True), Ledger(needs_pods=True)
    for event in history:
        ledger.do(engine, event)
    engine.take()
    engine.replace([])
    for owner in list(ledger.locals):
        engine.remove_local(owner)
    engine.take()
    assert engine.compiled == Compiled()
    assert set(engine.counts().values()) == {0}
    assert not any(engine.name_of(address) for address in ADDRESSES)
    assert engine._index.spaces == {}
    assert (engine._sets._selections, engine._sets._in_one, engine._sets._in_many) == ({}, {}, [])
    assert (engine._policies, engine._compiler._made_of) == ({}, {})
    assert {key[3:] for key in engine._compiler._made} <= {()}  # of no policy at all


def _read(document: Mapping) -> ClusterObject | None:
    try:
        return read_document(document)
    except WrongDocument as error:
        return error.item


class _Nodes:
    """The Engines of both nodes of a random cluster; each has its node's pods attached."""

    def __init__(self, documents: list[Mapping]) -> None:
        self.engines = {name: Engine(needs_pods=False, node=name) for name in random_clusters.NODES}
        for engine in self.engines.values():
            engine.replace([one for one in map(_read, documents) if one])
        self._attached = self._attach(documents)

    def change(self, change: random_clusters.Change, documents: list[Mapping]) -> None:
        """Tell both of a change; `documents`: after it."""
        for engine in self.engines.values():
            if change.removed:
                engine.remove(*change.removed)
            else:
                engine.put(_read(change.put))
        gone = self._attached - self._attach(documents)
        for node, local in gone:
            if (node, local.owner) not in {(name, one.owner) for name, one in self._attach(documents)}:
                self.engines[node].remove_local(local.owner)
        self._attached = self._attach(documents)

    def judges(self) -> dict[str, Judge]:
        """By node; after a take."""
        for engine in self.engines.values():
            engine.take()
        own = {name: frozenset(map(pack, random_clusters.node_addresses(name))) for name in self.engines}
        return {
            name: Judge(engine.compiled, is_own_node=own[name].__contains__) for name, engine in self.engines.items()
        }

    def _attach(self, documents: list[Mapping]) -> set[tuple[str, LocalPod]]:
        found = set()
        for one in documents:
            if one["kind"] == "Pod" and not one["spec"].get("hostNetwork"):
                namespace, name = one["metadata"]["namespace"], one["metadata"]["name"]
                ips = tuple(ip["ip"] for ip in one["status"]["podIPs"])
                local = LocalPod(f"{namespace}/{name}", ips, "v", namespace, name)
                found.add((one["spec"]["nodeName"], local))
                self.engines[one["spec"]["nodeName"]].put_local(local)
        return found


@given(data=st.data(), history=random_clusters.histories(length=4))
def test_the_verdicts_are_those_of_the_model(data: st.DataObject, history: tuple) -> None:
    """A connection is allowed if the node of its source lets it out and the node of its destination lets it in."""
    documents, changes = history
    nodes = _Nodes(documents)
    random = data.draw(st.randoms(use_true_random=False))
    for change in (None, *changes):
        if change:
            documents = random_clusters.changed(documents, change)
            nodes.change(change, documents)
        judges = nodes.judges()
        every = list(random_clusters.connections(documents))
        for one in random.sample(every, min(30, len(every))):
            ends = pack(one.source_address), pack(one.destination_address)
            verdicts = [judge.decide(Packet(*ends, PROTOCOLS[one.protocol], one.port)) for judge in judges.values()]
            assert all(verdict.is_allowed for verdict in verdicts) == one.is_allowed(documents), (one, verdicts)
