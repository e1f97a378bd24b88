"""Random clusters, policies and changes for property tests: so few labels and ports that much matches.

All are documents as in YAML. Ends of connections are those of tests/policy/model.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from tests.policy import model

NAMESPACES, NODES = ("x", "y", "z"), ("n1", "n2")
PORTS = (80, 81, 82)
PORT_NAMES = ("web", "dns")
PROTOCOLS = (model.TCP, model.UDP, model.SCTP)
OUTSIDE = (model.Outside("203.0.113.9"), model.Outside("2001:db8:9::9"), model.Outside("198.51.100.7"))
CIDRS4 = ("0.0.0.0/0", "10.244.0.0/16", "10.244.1.0/24", "10.244.1.0/30", "10.244.2.2/32")
CIDRS4 += ("203.0.113.0/24", "192.0.2.1/32")
CIDRS6 = ("::/0", "fd00:244::/48", "fd00:244:0:1::/64", "fd00:244:0:2::2/128", "2001:db8::/32", "2001:db8:1::1/128")
CIDRS = CIDRS4 + CIDRS6
_INSIDE = {
    "0.0.0.0/0": CIDRS4[1:],
    "10.244.0.0/16": CIDRS4[2:5],
    "10.244.1.0/24": CIDRS4[3:4],
    "::/0": CIDRS6[1:],
    "fd00:244::/48": CIDRS6[2:4],
    "2001:db8::/32": CIDRS6[5:],
}
_KEYS, _VALUES = ("app", "tier"), ("a", "b", "c")

Document = Mapping


@dataclass(frozen=True)
class Change:
    """A document that is created or replaced, or the kind, namespace ("" for none) and name of one that is deleted."""

    put: Document | None = None
    removed: tuple[str, str, str] | None = None


def key_of(document: Document) -> tuple[str, str, str]:
    """Kind, namespace ("" for none) and name."""
    return document["kind"], document["metadata"].get("namespace", ""), document["metadata"]["name"]


def changed(documents: Sequence[Document], change: Change) -> list[Document]:
    """The documents after a change."""
    gone = key_of(change.put) if change.put is not None else change.removed
    kept = [one for one in documents if key_of(one) != gone]
    return [*kept, change.put] if change.put is not None else kept


# Selectors

labels = st.dictionaries(st.sampled_from(_KEYS), st.sampled_from(_VALUES), max_size=2)


def _expressions(keys: Sequence[str]) -> st.SearchStrategy[dict]:
    key = st.sampled_from(keys)
    some = st.lists(st.sampled_from(_VALUES), min_size=1, max_size=2, unique=True)
    with_values = st.fixed_dictionaries({"key": key, "operator": st.sampled_from(["In", "NotIn"]), "values": some})
    without = st.fixed_dictionaries({"key": key, "operator": st.sampled_from(["Exists", "DoesNotExist"])})
    return with_values | without


def _selectors(matching: st.SearchStrategy[dict], keys: Sequence[str] = _KEYS) -> st.SearchStrategy[dict]:
    parts = {"matchLabels": matching, "matchExpressions": st.lists(_expressions(keys), min_size=1, max_size=2)}
    return st.just({}) | st.fixed_dictionaries({}, optional=parts)


selectors = _selectors(labels)
namespace_selectors = _selectors(labels) | st.builds(
    lambda name: {"matchLabels": {model.NAME_LABEL: name}}, st.sampled_from(NAMESPACES)
)


# Namespaces, nodes, pods


def _meta(name: str, namespace: str = "", **more: object) -> dict:
    return {"name": name} | ({"namespace": namespace} if namespace else {}) | more


def _namespace(name: str) -> st.SearchStrategy[dict]:
    return labels.map(lambda own: {"apiVersion": "v1", "kind": "Namespace", "metadata": _meta(name, labels=own)})


def _node(name: str) -> st.SearchStrategy[dict]:
    addresses = [{"type": "InternalIP", "address": one} for one in node_addresses(name)]
    status = {"addresses": [*addresses, {"type": "Hostname", "address": name}]}
    return labels.map(
        lambda own: {"apiVersion": "v1", "kind": "Node", "metadata": _meta(name, labels=own), "status": status}
    )


def node_addresses(name: str) -> tuple[str, str]:
    """The addresses of a node, IPv4 and IPv6."""
    return f"192.0.2.{name[1:]}", f"2001:db8:1::{name[1:]}"


_container_ports = st.lists(
    st.fixed_dictionaries(
        {"containerPort": st.sampled_from(PORTS)},
        optional={"protocol": st.sampled_from(PROTOCOLS), "name": st.sampled_from(PORT_NAMES)},
    ),
    max_size=3,
    unique_by=lambda port: (port.get("protocol", model.TCP), port.get("name")),
)


@st.composite
def pods(draw: st.DrawFn, namespace: str, number: int) -> dict:
    """A pod; its number, unique within its namespace, becomes part of its name and addresses."""
    node, host = draw(st.sampled_from(NODES)), draw(st.integers(0, 9)) == 0
    at = f"{NODES.index(node) + 1}", f"{NAMESPACES.index(namespace) * 4 + number + 1}"
    ips = node_addresses(node) if host else (f"10.244.{at[0]}.{at[1]}", f"fd00:244:0:{at[0]}::{at[1]}")
    ips = draw(st.sampled_from([ips, ips, ips, ips[:1], ips[1:]]))
    spec = {"nodeName": node, "containers": [{"name": "c", "ports": draw(_container_ports)}]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _meta(f"p{number}", namespace, labels=draw(labels)),
        "spec": spec | ({"hostNetwork": True} if host else {}),
        "status": {"phase": "Running", "podIP": ips[0], "podIPs": [{"ip": one} for one in ips]},
    }


# NetworkPolicies


@st.composite
def _blocks(draw: st.DrawFn) -> dict:
    cidr = draw(st.sampled_from(CIDRS))
    inside = _INSIDE.get(cidr, ())
    if inside and draw(st.booleans()):
        return {"cidr": cidr, "except": draw(st.lists(st.sampled_from(inside), min_size=1, max_size=2, unique=True))}
    return {"cidr": cidr}


_peers = st.one_of(
    st.fixed_dictionaries({"podSelector": selectors}),
    st.fixed_dictionaries({"namespaceSelector": namespace_selectors}),
    st.fixed_dictionaries({"podSelector": selectors, "namespaceSelector": namespace_selectors}),
    st.fixed_dictionaries({"ipBlock": _blocks()}),
)
_protocols = st.fixed_dictionaries({}, optional={"protocol": st.sampled_from(PROTOCOLS)})
_ports = st.one_of(
    _protocols,
    st.builds(lambda one, number: one | {"port": number}, _protocols, st.sampled_from((*PORTS, *PORT_NAMES))),
    st.builds(lambda one, to: one | {"port": 80, "endPort": to}, _protocols, st.sampled_from(PORTS)),
)


def _rules(peers: str) -> st.SearchStrategy[list]:
    parts = {peers: st.lists(_peers, max_size=2), "ports": st.lists(_ports, max_size=2)}
    return st.lists(st.fixed_dictionaries({}, optional=parts), max_size=2)


_types = st.sampled_from([["Ingress"], ["Egress"], ["Ingress", "Egress"]])


def network_policies(namespace: str, number: int) -> st.SearchStrategy[dict]:
    """A NetworkPolicy named after its number."""
    optional = {"policyTypes": _types, "ingress": _rules("from"), "egress": _rules("to")}
    spec = st.fixed_dictionaries({"podSelector": selectors}, optional=optional)
    head = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": _meta(f"np{number}", namespace)}
    return spec.map(lambda one: {**head, "spec": one})


# ClusterNetworkPolicies

_both = st.fixed_dictionaries({"namespaceSelector": namespace_selectors, "podSelector": selectors})
_subjects = st.fixed_dictionaries({"namespaces": namespace_selectors}) | st.fixed_dictionaries({"pods": _both})
_networks = st.lists(st.sampled_from(CIDRS), min_size=1, max_size=2, unique=True)
_elsewhere = st.one_of(
    st.fixed_dictionaries({"nodes": selectors}),
    st.fixed_dictionaries({"networks": _networks}),
)
_numbers = st.one_of(
    st.builds(lambda number: {"number": number}, st.sampled_from(PORTS)),
    st.sampled_from([{"range": {"start": 80, "end": 81}}, {"range": {"start": 1, "end": 80}}]),
)
_numbered = st.builds(
    lambda protocol, port: {protocol.lower(): {"destinationPort": port}}, st.sampled_from(PROTOCOLS), _numbers
)
_named = st.builds(lambda name: {"destinationNamedPort": name}, st.sampled_from(PORT_NAMES))
_actions = st.sampled_from(["Accept", "Deny", "Pass"])


def _cluster_rule(peers: str, who: st.SearchStrategy, matches: st.SearchStrategy) -> st.SearchStrategy[dict]:
    parts = {"action": _actions, peers: st.lists(who, min_size=1, max_size=2)}
    optional = {"protocols": st.lists(matches, min_size=1, max_size=2), "name": st.sampled_from(["one", "two"])}
    return st.fixed_dictionaries(parts, optional=optional)


# Ports have no names on nodes and in networks: the API refuses such rules.
_ingress = _cluster_rule("from", _subjects, _numbered | _named)
_egress = _cluster_rule("to", _subjects, _numbered | _named) | _cluster_rule("to", _subjects | _elsewhere, _numbered)


def cluster_policies(number: int) -> st.SearchStrategy[dict]:
    """A ClusterNetworkPolicy named after its number. Priorities are often equal: then the name decides."""
    spec = st.fixed_dictionaries(
        {
            "tier": st.sampled_from(["Admin", "Baseline"]),
            "priority": st.sampled_from([0, 1, 1000]),
            "subject": _subjects,
        },
        optional={"ingress": st.lists(_ingress, max_size=3), "egress": st.lists(_egress, max_size=3)},
    )
    head = {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": _meta(f"cnp{number}"),
    }
    return spec.map(lambda one: {**head, "spec": one})


# Clusters, changes, connections


@st.composite
def clusters(draw: st.DrawFn, *, policies: int = 4) -> list[Document]:
    """The documents of a cluster: two nodes, three namespaces (one may lack its document), pods, some policies.

    `policies`: the most of each of the two kinds.
    """
    found = [draw(_node(name)) for name in NODES]
    found += [draw(_namespace(name)) for name in NAMESPACES if draw(st.integers(0, 9))]
    for name in NAMESPACES:
        found += [draw(pods(name, number)) for number in range(draw(st.integers(1, 3)))]
    somewhere = st.sampled_from(NAMESPACES)
    found += [draw(network_policies(draw(somewhere), n)) for n in range(draw(st.integers(0, policies)))]
    return found + [draw(cluster_policies(n)) for n in range(draw(st.integers(0, policies)))]


@st.composite
def changes(draw: st.DrawFn, documents: Sequence[Document]) -> Change:
    """One change of a cluster: a pod or policy that is new, other, or gone; other labels of a namespace or node."""
    numbers, kind = st.integers(0, 3), draw(st.sampled_from(["delete", "Pod", "np", "cnp", "Namespace", "Node"]))
    if kind == "delete":
        gone = [key_of(one) for one in documents if one["kind"] != "Node"]
        return Change(removed=draw(st.sampled_from(gone))) if gone else Change(put=draw(cluster_policies(0)))
    somewhere, number = draw(st.sampled_from(NAMESPACES)), draw(numbers)
    made = {
        "Pod": pods(somewhere, number),
        "np": network_policies(somewhere, number),
        "cnp": cluster_policies(number),
        "Namespace": _namespace(somewhere),
        "Node": st.sampled_from(NODES).flatmap(_node),
    }
    return Change(put=draw(made[kind]))


@st.composite
def histories(draw: st.DrawFn, *, length: int = 6) -> tuple[list[Document], list[Change]]:
    """A cluster, and changes of it in turn."""
    first = now = draw(clusters())
    found = []
    for _ in range(draw(st.integers(0, length))):
        found.append(draw(changes(now)))
        now = changed(now, found[-1])
    return first, found


@dataclass(frozen=True)
class Connection:
    """A connection to ask about: `source` and `destination` as the model names them, and their addresses."""

    source: model.End
    destination: model.End
    source_address: str
    destination_address: str
    protocol: str
    port: int
    family: int

    def is_allowed(self, documents: Sequence[Document], settings: model.Settings = model.DEFAULTS) -> bool:
        """What the model says."""
        ends = self.source, self.destination
        return model.allows(documents, *ends, self.protocol, self.port, family=self.family, settings=settings)


def ends(documents: Sequence[Document]) -> Iterator[tuple[model.End, str, int]]:
    """Every pod with addresses of its own, every node, and hosts outside: each with its addresses and their family."""
    for one in documents:
        if one["kind"] == "Pod" and not one["spec"].get("hostNetwork"):
            for ip in one["status"]["podIPs"]:
                pod = model.Pod(one["metadata"]["namespace"], one["metadata"]["name"])
                yield pod, ip["ip"], _family(ip["ip"])
        elif one["kind"] == "Node":
            for address in node_addresses(one["metadata"]["name"]):
                yield model.Node(one["metadata"]["name"]), address, _family(address)
    for host in OUTSIDE:
        yield host, host.address, _family(host.address)


def connections(
    documents: Sequence[Document], *, protocols: Sequence[str] = (*PROTOCOLS, model.ICMP), ports: Sequence[int] = PORTS
) -> Iterator[Connection]:
    """All connections from and to pods, of both families."""
    every = list(ends(documents))
    for source, one, family in every:
        for destination, two, other in every:
            if family == other and one != two and model.Pod in (type(source), type(destination)):
                for protocol in protocols:
                    for port in (0,) if protocol == model.ICMP else ports:
                        yield Connection(source, destination, one, two, protocol, port, family)


def _family(address: str) -> int:
    return 6 if ":" in address else 4
