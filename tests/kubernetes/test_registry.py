"""The registry of Kubernetes with a real API server: records, subnets, reports, rights."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from nodes.registries.kubernetes import following
from nodes.registry import Readiness, RegistryError, Wish
from plugins.node.records import Node
from tests.kubernetes.apiserver import ROOT, ApiServer
from tests.kubernetes.watching import delete_nodes, make_node, registry, set_status, watched

WISH = Wish(cluster=("10.244.0.0/16", "fd00:244::/48"), lengths=(24, 64))
READY = Readiness(is_ready=True, reason="RoutesInPlace", message="The routes to 3 peers are in place.")
UNREADY = Readiness(is_ready=False, reason="NoAddress", message="This node has no address.")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server for all tests of this module."""
    with ApiServer(tmp_path_factory.mktemp("api")) as made:
        yield made


@pytest.fixture
def api(shared: ApiServer) -> ApiServer:
    """The API server, without Nodes."""
    delete_nodes(shared)
    return shared


def conditions(api: ApiServer, node: str) -> dict[str, dict]:
    """The conditions of a Node by type."""
    found = api.request("GET", f"/api/v1/nodes/{node}")["status"].get("conditions") or []
    return {each["type"]: each for each in found}


def events(api: ApiServer) -> list[dict]:
    """All Events."""
    return api.request("GET", "/apis/events.k8s.io/v1/namespaces/default/events")["items"]


def version(api: ApiServer, node: str) -> str:
    """The version of a Node, which grows with every write."""
    return api.request("GET", f"/api/v1/nodes/{node}")["metadata"]["resourceVersion"]


def test_nodes_come_change_and_go(api: ApiServer) -> None:
    """A list at first, then every change of a record."""
    make_node(api, "a", 1)
    with watched(registry(api)) as seen:
        assert seen.nodes["a"].node.subnets == ("10.0.1.0/24",)
        make_node(api, "b")
        seen.wait(lambda: "b" in seen.nodes, "b has joined")
        assert seen.nodes["b"].node.addresses == ()
        set_status(api, "b", addresses=[{"type": "InternalIP", "address": "192.0.2.2"}])
        seen.wait(lambda: seen.nodes["b"].node.addresses, "b has an address")
        api.request("DELETE", "/api/v1/nodes/b")
        seen.wait(lambda: "b" not in seen.nodes, "b has left")
        assert [call for call in seen.calls if call != "alive"] == ["replace", "put", "put", "remove"]


def test_heartbeats_change_nothing(api: ApiServer) -> None:
    """A condition of the kubelet is not passed on; what follows is."""
    make_node(api, "a", 1)
    with watched(registry(api)) as seen:
        for second in range(10):
            beat = {"type": "Ready", "status": "True", "lastHeartbeatTime": f"2026-11-30T00:00:0{second}Z"}
            set_status(api, "a", conditions=[beat])
        make_node(api, "b")
        seen.wait_for("put")
        assert (seen.calls.count("put"), list(seen.nodes)) == (1, ["a", "b"])


def test_a_list_of_several_pages_is_complete(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every Node once."""
    monkeypatch.setattr(following, "PAGE", 3)
    for number in range(1, 9):
        make_node(api, f"n{number}", number)
    with watched(registry(api)) as seen:
        assert sorted(seen.nodes) == [f"n{number}" for number in range(1, 9)]
        assert seen.calls.count("replace") == 1


def test_separators_of_lines_in_an_annotation_break_nothing(api: ApiServer) -> None:
    """NEL and others, which str.splitlines would split at."""
    make_node(api, "a", 1)
    with watched(registry(api)) as seen:
        make_node(api, "b", 2, note="one\u0085two\u2028three\rfour")
        seen.wait(lambda: "b" in seen.nodes and seen.nodes["b"].node.addresses, "b has joined")
        assert "lost" not in seen.calls


def test_a_node_that_is_wrong_is_reported_and_others_are_not_affected(api: ApiServer) -> None:
    """By its name, with a sentence."""
    make_node(api, "a", 1, **{"slash24.dev/addresses": "nonsense"})
    make_node(api, "b", 2)
    with watched(registry(api)) as seen:
        assert (seen.nodes["a"].node, seen.nodes["b"].node.name) == (None, "b")
        assert 'the annotation slash24.dev/addresses: "addresses": expected an address' in seen.nodes["a"].problem


def test_a_node_s_subnets_are_its_pod_cidrs(api: ApiServer) -> None:
    """With its addresses, its zone and its age."""
    made = make_node(api, "a", 1)
    grant = registry(api).lease(Wish())
    assert (grant.subnets, grant.addresses) == (("10.0.1.0/24",), ("192.0.0.1",))
    assert grant.since > 0
    assert made["metadata"]["creationTimestamp"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("a", 'the Node "a" has no podCIDRs: start kube-controller-manager'), ("b", 'the cluster has no Node "b"')],
)
def test_without_a_subnet_the_error_says_what_to_do(api: ApiServer, name: str, sentence: str) -> None:
    """And without a Node."""
    make_node(api, "a")
    with pytest.raises(RegistryError, match=sentence):
        registry(api, name).lease(Wish())


def test_two_hundred_nodes_that_start_at_once_get_different_subnets(api: ApiServer) -> None:
    """Of both families; and the same ones when they start again."""
    names = [f"n{number}" for number in range(200)]
    for name in names:
        make_node(api, name)
    first = lease_all(api, names)
    for family in (0, 1):
        assert len({subnets[family] for subnets in first.values()}) == len(names)
    assert lease_all(api, names[:20]) == {name: first[name] for name in names[:20]}


def lease_all(api: ApiServer, names: list[str]) -> dict[str, tuple[str, ...]]:
    """The subnets that these nodes lease at the same time."""
    found: dict[str, tuple[str, ...]] = {}

    def lease(name: str) -> None:
        found[name] = registry(api, name).lease(WISH).subnets

    threads = [threading.Thread(target=lease, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(names)
    return found


def test_a_subnet_is_reused_only_when_no_other_is_left(api: ApiServer) -> None:
    """Then that of a Node that is gone; one that came back under its name has its old subnet."""
    wish = Wish(cluster=("10.244.0.0/22",), lengths=(24,))
    leases = {}
    for name in ("a", "b", "c"):
        make_node(api, name)
        leases[name] = registry(api, name).lease(wish).subnets
    for name in ("a", "b"):
        api.request("DELETE", f"/api/v1/nodes/{name}")
    make_node(api, "d")
    leases["d"] = registry(api, "d").lease(wish).subnets
    assert len(set(leases.values())) == 4
    make_node(api, "b")
    assert registry(api, "b").lease(wish).subnets == leases["b"]
    make_node(api, "e")
    assert registry(api, "e").lease(wish).subnets == leases["a"]
    make_node(api, "f")
    with pytest.raises(RegistryError, match="the cluster is full"):
        registry(api, "f").lease(wish)


def test_subnets_that_nodes_have_otherwise_are_not_leased(api: ApiServer) -> None:
    """From podCIDRs, or announced by a node whose line is gone; it gets its own again."""
    wish = Wish(cluster=("10.0.0.0/22",), lengths=(24,))
    make_node(api, "other", 1)
    subnets = {"other": ("10.0.1.0/24",)}
    for name in ("a", "b"):
        make_node(api, name)
        opened = registry(api, name)
        subnets[name] = opened.lease(wish).subnets
        opened.publish(Node(name, ("192.0.2.1",), subnets[name]))
    api.request("DELETE", "/api/v1/namespaces/kube-system/configmaps/slash24-subnets")
    make_node(api, "c")
    subnets["c"] = registry(api, "c").lease(wish).subnets
    assert len(set(subnets.values())) == 4
    assert registry(api, "b").lease(wish).subnets == subnets["b"]


def test_what_the_node_does_not_say_is_announced(api: ApiServer) -> None:
    """Once; and no longer when the Node says it."""
    make_node(api, "a", 1)
    opened = registry(api)
    own = Node("a", ("192.0.0.1",), ("10.0.1.0/24",), vni=1, port=4789)
    before = version(api, "a")
    with watched(registry(api)) as seen:
        opened.publish(own)
        assert version(api, "a") == before
        elsewhere = Node("a", ("198.51.100.1",), ("10.0.1.0/24",))
        opened.publish(elsewhere)
        seen.wait(lambda: seen.nodes["a"].node.addresses == ("198.51.100.1",), "the address has been announced")
        before = version(api, "a")
        opened.publish(elsewhere)
        assert version(api, "a") == before
        assert opened.lease(Wish()).addresses == ("192.0.0.1",)
        opened.publish(own)
        seen.wait(lambda: seen.nodes["a"].node.addresses == ("192.0.0.1",), "the announcement has been removed")


def test_the_condition_is_written_when_it_changes(api: ApiServer) -> None:
    """Beside the kubelet's conditions; and removed by `withdraw`."""
    make_node(api, "a", 1)
    set_status(api, "a", conditions=[{"type": "Ready", "status": "True"}])
    opened = registry(api)
    with watched(opened):
        opened.tell(UNREADY)
        condition = conditions(api, "a")["NetworkUnavailable"]
        assert (condition["status"], condition["reason"]) == ("True", "NoAddress")
        assert condition["message"] == UNREADY.message
        opened.tell(READY)
        assert conditions(api, "a")["NetworkUnavailable"]["status"] == "False"
        before = version(api, "a")
        opened.tell(READY)
        opened.tell(Readiness(is_ready=True, reason=READY.reason, message="The routes to 4 peers are in place."))
        assert version(api, "a") == before
        opened.withdraw()
        assert set(conditions(api, "a")) == {"Ready"}


def test_a_condition_that_somebody_else_has_changed_is_set_again(api: ApiServer) -> None:
    """As seen by the watch."""
    make_node(api, "a", 1)
    opened = registry(api)
    with watched(opened) as seen:
        opened.tell(READY)
        set_status(api, "a", conditions=[{"type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated"}])
        make_node(api, "b")
        seen.wait(lambda: "b" in seen.nodes, "the watch has seen the change before")
        opened.tell(READY)
        assert conditions(api, "a")["NetworkUnavailable"]["status"] == "False"


def test_warnings_are_events_of_the_node(api: ApiServer) -> None:
    """One each, even of several processes; too many become one."""
    uid = make_node(api, "a", 1)["metadata"]["uid"]
    warned = Readiness(is_ready=True, reason="RoutesInPlace", message="", warnings=("peer b is wrong", "x" * 5000))
    opened = registry(api)
    for _ in range(3):
        opened.tell(warned)
    found = {event["note"][:15]: event for event in events(api)}
    assert len(found) == len(events(api)) == 2
    event = found["peer b is wrong"]
    assert event["regarding"] == {"apiVersion": "v1", "kind": "Node", "name": "a", "uid": uid}
    assert event["type"] == "Warning"
    registry(api).tell(warned)
    counts = [event["series"]["count"] for event in events(api)]
    assert counts == [2, 2]
    many = tuple(f"peer {number} is wrong" for number in range(500))
    opened.tell(Readiness(is_ready=True, reason="RoutesInPlace", message="", warnings=many))
    assert len(events(api)) == 12


def test_the_documented_rights_are_enough(api: ApiServer, tmp_path: Path) -> None:
    """For everything but leases; without them the error says what is forbidden."""
    make_node(api, "a", 1)
    namespace = "/api/v1/namespaces/kube-system/serviceaccounts"
    api.request("POST", namespace, {"metadata": {"name": "slash24-node"}})
    token = api.service_token("slash24-node")
    opened = registry(api, kubeconfig=str(api.write_kubeconfig("account", token=token)))
    with pytest.raises(RegistryError, match="nodes .* is forbidden"):
        opened.lease(Wish())
    page = (ROOT / "docs" / "registry-kubernetes.md").read_text()
    (role,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    rights = "/apis/rbac.authorization.k8s.io/v1"
    api.request("POST", f"{rights}/clusterroles", yaml.safe_load(role))
    binding = {
        "metadata": {"name": "slash24-node"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "slash24-node"},
        "subjects": [{"kind": "ServiceAccount", "name": "slash24-node", "namespace": "kube-system"}],
    }
    api.request("POST", f"{rights}/clusterrolebindings", binding)
    with watched(opened) as seen:
        assert opened.lease(Wish()).subnets == ("10.0.1.0/24",)
        opened.publish(Node("a", ("198.51.100.1",), ("10.0.1.0/24",)))
        seen.wait(lambda: seen.nodes["a"].node.addresses == ("198.51.100.1",), "the address has been announced")
        for _ in range(2):
            opened.tell(Readiness(is_ready=True, reason="R", message="m", warnings=("w",)))
        opened.withdraw()
    assert len(events(api)) == 1
