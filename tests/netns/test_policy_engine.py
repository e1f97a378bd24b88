"""The engine's deltas and policy/programming.py together, on random clusters, with pods that come and go meanwhile."""

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from linux.ownership import owner_tag
from policy.documents import read_document
from policy.engine import Engine
from policy.objects import LocalPod, PodPeer, Selector
from policy.settings import Settings
from rules import policy
from spec.attachment import Attachment
from tests.netns.nft_tools import on
from tests.netns.node import Node
from tests.netns.policy_tools import GROUP, MAC, Clock, generation, listed, programmer
from tests.policy.random_clusters import Change, Document, histories

EXEMPT = (PodPeer(Selector(), None, "x"),)


class Attached:
    """The pods of a node, as its ADDs and DELs and the daemon see them."""

    def __init__(self, node: Node, engine: Engine) -> None:
        self._node, self._engine = node, engine
        self._pods: dict[tuple[str, str], LocalPod] = {}
        self._count = 0

    def follow(self, change: Change) -> None:
        """Attach the pod that a change adds to this node, or detach the one that it removes."""
        put = change.put or {}
        is_pod = put.get("kind") == "Pod"
        key = (put["metadata"]["namespace"], put["metadata"]["name"]) if is_pod else (change.removed or ("",) * 3)[1:]
        if is_pod or (change.removed or ("",))[0] == "Pod":
            self._detach(key)
        if is_pod and put["spec"]["nodeName"] == "n1" and not put["spec"].get("hostNetwork"):
            self._attach(key, tuple(one["ip"] for one in put["status"]["podIPs"]))

    def _attach(self, key: tuple[str, str], ips: tuple[str, ...]) -> None:
        self._count += 1
        owner, link = Attachment("net1", f"c{self._count}", "eth0"), f"veth{self._count}"
        on(self._node, policy.hold, owner, ips, link, GROUP, MAC)
        self._pods[key] = LocalPod(owner_tag(owner), ips, link, *key)
        self._engine.put_local(self._pods[key])

    def _detach(self, key: tuple[str, str]) -> None:
        if local := self._pods.pop(key, None):
            on(self._node, policy.release, Attachment(*local.owner.split(":")[1:]), local.ips, local.link)
            self._engine.remove_local(local.owner)

    def local(self) -> dict[str, str]:
        """The owners by address."""
        return {address: one.owner for one in self._pods.values() for address in one.ips}


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Node, Node]]:
    """Two nodes for all examples: a namespace takes longer than an example."""
    made = Node(), Node()
    yield made
    for one in made:
        one.close()


@settings(max_examples=25, phases=[Phase.generate], deadline=None, suppress_health_check=list(HealthCheck))
@given(history=histories(length=8))
def test_deltas_of_the_engine(nodes: tuple[Node, Node], history: tuple[Sequence[Document], Sequence[Change]]) -> None:
    """However a cluster came about, nftables is as if written from nothing, and a resync writes nothing."""
    node, fresh = nodes
    for one in nodes:
        on(one, policy.delete_all)
    first, changes = history
    engine = Engine(needs_pods=False, metadata_exceptions=EXEMPT, node="n1")
    clock, attached = Clock(), Attached(node, engine)
    configured = Settings(metadata_deny=True)
    made = programmer(configured, clock)
    on(node, policy.ensure_base)
    for document in first:
        engine.put(read_document(document))
        attached.follow(Change(put=document))
    engine.take()
    on(node, made.resync, engine.compiled, attached.local())
    for change in changes:
        if change.put is not None:
            engine.put(read_document(change.put))
        else:
            engine.remove(*change.removed)
        attached.follow(change)
        on(node, made.apply, engine.take())
        clock.now += 1.5
        on(node, made.sweep)
    clock.now += 3
    on(node, made.sweep)
    on(fresh, programmer(configured).resync, engine.compiled, attached.local())
    on(fresh, policy.set_gateway, GROUP, MAC)
    on(node, policy.set_gateway, GROUP, MAC)
    assert listed(node) == listed(fresh)
    before = generation(node)
    on(node, made.resync, engine.compiled, attached.local())
    assert generation(node) == before
