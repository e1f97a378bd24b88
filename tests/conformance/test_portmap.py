"""`portmap` after `bridge`: host ports are forwarded to the pod from everywhere, until DEL of the attachment."""

from collections.abc import Mapping

import pytest

from tests.conformance.support import DUAL, Refused, addresses, mentions, network
from tests.netns.cni import CNI, with_prev
from tests.netns.node import NODE_V4, NODE_V6, OUTSIDE_V4, OUTSIDE_V6, Host, Node, Pod, ask

HTTP = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}
OTHER = {"hostPort": 8081, "containerPort": 81, "protocol": "tcp"}
BACKENDS = pytest.mark.parametrize("backend", ["iptables", "nftables"])


def mapped(*ports: Mapping, version: str = "1.1.0", **keys: object) -> dict:
    """The plugin's configuration, with ports as a runtime passes them."""
    conf = {"cniVersion": version, "name": "net", "type": "portmap", "capabilities": {"portMappings": True}, **keys}
    return {**conf, "runtimeConfig": {"portMappings": list(ports)}}


@pytest.fixture
def outside(node: Node) -> Pod:
    """A host outside the node."""
    return node.outside()


def connected(cni: CNI, pod: Pod, version: str = "1.1.0") -> dict:
    """The result of `bridge` for the pod, dual stack, once its gateway replies."""
    result = cni.add(network(DUAL, version=version, hairpinMode=True), pod)
    assert pod.reaches("fd00:1::1", timeout=15)
    return result


def published(cni: CNI, pod: Pod, *ports: Mapping, **keys: object) -> dict:
    """Add a pod with ports; returns the result of `bridge`."""
    return cni.add(with_prev(mapped(*ports, **keys), connected(cni, pod)), pod)


def answers(client: Host, server: Pod, inside: str, number: int, node_port: int = 8080, via: str = NODE_V4) -> bool:
    """Whether the pod replies on a port of the node."""
    try:
        ask(client, server, inside, number, "tcp", to=(via, node_port))
    except (TimeoutError, ConnectionError):
        return False
    return True


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_without_ports_the_result_is_passed_on(cni: CNI, node: Node, pod: Pod, version: str) -> None:
    """Without mappings the result is prevResult and there are no rules."""
    result = connected(cni, pod, version)
    assert cni.add(with_prev(mapped(version=version), result), pod) == result
    assert mentions(node, "poda", "10.1.2.2") == []


def test_without_prev_result_add_is_an_error(cni: CNI, pod: Pod, refused: Refused) -> None:
    """A chained plugin without prevResult has no pod and returns an error."""
    with refused():
        cni.add(mapped(HTTP), pod)


@BACKENDS
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_ports_lead_to_the_pod(cni: CNI, pod: Pod, outside: Pod, backend: str, kind: str) -> None:
    """Ports are reachable from outside in both families, and the pod sees the client's address."""
    result = published(cni, pod, {**HTTP, "protocol": kind}, backend=backend)
    v4, v6 = addresses(result)
    assert ask(outside, pod, v4, 80, kind, to=(NODE_V4, 8080)) == OUTSIDE_V4
    assert ask(outside, pod, v6, 80, kind, to=(NODE_V6, 8080)) == OUTSIDE_V6


@BACKENDS
@pytest.mark.parametrize("client", ["itself", "neighbour", "node", "127.0.0.1"])
def test_from_inside(cni: CNI, node: Node, pod: Pod, other: Pod, outside: Pod, backend: str, client: str) -> None:
    """Ports are reachable from the node on each of its addresses, from another pod and from the pod itself."""
    result = published(cni, pod, HTTP, backend=backend)
    connected(cni, other)
    asking: Host = {"itself": pod, "neighbour": other}.get(client, node)
    via = "127.0.0.1" if client == "127.0.0.1" else NODE_V4
    assert answers(asking, pod, addresses(result)[0], 80, via=via)


@BACKENDS
def test_host_ip(cni: CNI, node: Node, pod: Pod, outside: Pod, backend: str) -> None:
    """A mapping with a hostIP does not apply to the node's other addresses."""
    node.run(["ip", "addr", "add", "192.0.2.9/24", "dev", "wan0"])
    result = published(cni, pod, {**HTTP, "hostIP": "192.0.2.9"}, backend=backend)
    assert answers(outside, pod, addresses(result)[0], 80, via="192.0.2.9")
    assert not answers(outside, pod, addresses(result)[0], 80)


@pytest.mark.parametrize(
    "wrong",
    [
        {"hostPort": 0},
        {"hostPort": -1},
        {"containerPort": 0},
        {"hostPort": 65536},
        {"hostPort": "80"},
        {"protocol": "x"},
    ],
    ids=str,
)
def test_wrong_ports_are_refused(cni: CNI, node: Node, pod: Pod, wrong: dict, refused: Refused) -> None:
    """An invalid mapping is an error and leaves nothing behind."""
    prev = connected(cni, pod)
    with refused():
        cni.add(with_prev(mapped({**HTTP, **wrong}), prev), pod)
    assert mentions(node, "poda", "8080", "dpt") == []


@BACKENDS
def test_upper_case_protocol(cni: CNI, pod: Pod, outside: Pod, backend: str) -> None:
    """The CRI writes protocols in upper case."""
    result = published(cni, pod, {**HTTP, "protocol": "TCP"}, backend=backend)
    assert answers(outside, pod, addresses(result)[0], 80)


@BACKENDS
def test_a_repeated_add_replaces(cni: CNI, pod: Pod, outside: Pod, backend: str) -> None:
    """A port that the second ADD does not map is closed."""
    prev = connected(cni, pod)
    cni.add(with_prev(mapped(HTTP, backend=backend), prev), pod)
    cni.add(with_prev(mapped(OTHER, backend=backend), prev), pod)
    assert answers(outside, pod, addresses(prev)[0], 81, 8081)
    assert not answers(outside, pod, addresses(prev)[0], 80, 8080)


def test_a_taken_port_is_refused(cni: CNI, pod: Pod, other: Pod, outside: Pod, refused: Refused) -> None:
    """If two pods want the same port, ADD of the second is an error."""
    published(cni, pod, HTTP)
    prev = connected(cni, other)
    with refused():
        cni.add(with_prev(mapped(HTTP), prev), other)


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_conditions_are_an_attachments_own(cni: CNI, pod: Pod, other: Pod, outside: Pod, backend: str) -> None:
    """The conditions of the pod added last do not close the ports of the pod before."""
    words = {"iptables": ["!", "-s", "192.0.2.0/24"], "nftables": ["ip", "saddr", "!=", "192.0.2.0/24"]}[backend]
    first = published(cni, pod, HTTP, backend=backend)
    second = published(cni, other, OTHER, backend=backend, conditionsV4=words)
    assert answers(outside, pod, addresses(first)[0], 80)
    assert not answers(outside, other, addresses(second)[0], 81, 8081)


@pytest.mark.parametrize("broken", ["nothing", "no prevResult", "no ports", "no namespace", "bad ports", "backend"])
@BACKENDS
def test_del_leaves_nothing(cni: CNI, node: Node, pod: Pod, other: Pod, backend: str, broken: str) -> None:
    """DEL removes the ports of the attachment and keeps another pod's. A repeated DEL succeeds."""
    kept = published(cni, other, OTHER, backend=backend)
    prev: Mapping | None = published(cni, pod, HTTP, backend=backend)
    conf, variables = mapped(HTTP, backend=backend), {}
    match broken:
        case "no prevResult":
            prev = None
        case "no ports":
            conf = mapped(backend=backend)
        case "no namespace":
            variables = {"netns": None}
        case "bad ports":
            conf = mapped({"hostPort": "x"}, backend=backend)
        case "backend":
            conf = mapped(HTTP, backend={"iptables": "nftables", "nftables": "iptables"}[backend])
    for _ in range(2):
        cni.delete(conf, pod, prev, **variables)
    assert mentions(node, "poda", "10.1.2.3:80", " 10.1.2.3 . 80", "8080") == []
    cni.check(mapped(OTHER, backend=backend), other, kept)


@BACKENDS
def test_check_fails_when_the_rules_are_gone(cni: CNI, node: Node, pod: Pod, backend: str, refused: Refused) -> None:
    """CHECK passes after ADD, and fails after the ruleset was flushed."""
    result = published(cni, pod, HTTP, backend=backend)
    cni.check(mapped(HTTP, backend=backend), pod, result)
    node.run(["nft", "flush", "ruleset"])
    with refused():
        cni.check(mapped(HTTP, backend=backend), pod, result)


def test_check_fails_when_the_ways_in_are_gone(cni: CNI, node: Node, pod: Pod, refused: Refused) -> None:
    """CHECK fails when no base chain leads packets to the pod's rules."""
    result = published(cni, pod, HTTP, backend="nftables")
    for table in ("inet slash24_portmap", "ip cni_hostport"):
        node.run(["nft", "flush", "chain", *table.split(), "prerouting"], check=False)
    with refused():
        cni.check(mapped(HTTP, backend="nftables"), pod, result)


def test_gc_removes_what_is_stale(cni: CNI, node: Node, pod: Pod, other: Pod) -> None:
    """GC removes the ports of an attachment that is not on the list and keeps the others."""
    kept = published(cni, other, OTHER)
    published(cni, pod, HTTP)
    pod.vanish()
    cni.gc(mapped(), other)
    assert mentions(node, "poda", "8080") == []
    cni.check(mapped(OTHER), other, kept)


def test_status(cni: CNI) -> None:
    """STATUS succeeds with empty output when an ADD would succeed."""
    cni.status(mapped())
