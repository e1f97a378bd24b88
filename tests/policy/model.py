"""Whether a connection is allowed: what the text of the Kubernetes API says, slowly and step by step.

It knows nothing of slash24's code, and works on the documents as they are written: Namespaces, Pods, Nodes,
NetworkPolicies (networking.k8s.io/v1) and ClusterNetworkPolicies (policy.networking.k8s.io/v1alpha2). The tests compare
slash24 with it.
"""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

NAME_LABEL = "kubernetes.io/metadata.name"
METADATA = ("169.254.169.254", "fd00:ec2::254")
TCP, UDP, SCTP, ICMP = "TCP", "UDP", "SCTP", "ICMP"
_ACCEPT, _DENY, _PASS = "Accept", "Deny", "Pass"
_INGRESS, _EGRESS = "Ingress", "Egress"

Document = Mapping


@dataclass(frozen=True)
class Pod:
    """A pod, by its name. `ips` and `node`: if its document, which may be missing, does not say them."""

    namespace: str
    name: str
    ips: tuple[str, ...] = ()
    node: str = ""


@dataclass(frozen=True)
class Node:
    """A node, by its name. `ips`: the addresses it uses here, if not those of its document."""

    name: str
    ips: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outside:
    """An address of neither pod nor node."""

    address: str


End = Pod | Node | Outside


@dataclass(frozen=True)
class Settings:
    """What the API does not have. `metadata_exceptions`: mappings with "namespace" and perhaps "labels".

    `node_access`: None for all, or texts such as "tcp/53" and "udp/30000-32767".
    """

    is_metadata_denied: bool = False
    metadata_exceptions: Sequence[Mapping] = field(default=())
    node_access: Sequence[str] | None = None


DEFAULTS = Settings()


@dataclass(frozen=True)
class _Party:
    """One end of a connection with all that is known of it. `namespace`: None if it is no pod of a namespace.

    `is_pod`: it has addresses of its own; a pod on the network of its node is a node.
    """

    address: str
    node: str = ""
    namespace: str | None = None
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    named_ports: Sequence[tuple[str, str, int]] = ()
    is_node: bool = False
    is_pod: bool = False


@dataclass(frozen=True)
class _Connection:
    """A connection. `port`: that of the destination; 0 for ICMP, which has none."""

    source: _Party
    destination: _Party
    protocol: str
    port: int

    def peer(self, direction: str) -> _Party:
        """The other end, for the pod whose policies of this direction are asked."""
        return self.source if direction == _INGRESS else self.destination


def allows(
    documents: Sequence[Document],
    source: End,
    destination: End,
    protocol: str,
    port: int,
    *,
    family: int = 4,
    settings: Settings = DEFAULTS,
) -> bool:
    """Whether the policies allow a new connection. `protocol`: TCP, UDP, SCTP or ICMP; `family`: 4 or 6.

    Raises ValueError if an end has no address of the family.
    """
    one, two = _party(documents, source, family), _party(documents, destination, family)
    connection = _Connection(one, two, protocol, port)
    if one.address == two.address:
        return True  # a pod cannot block access to itself
    if one.is_node and _share_node(one, two):
        return True  # what comes from the pod's own node is always allowed
    if not _allows_metadata(connection, settings):
        return False
    if one.is_pod and two.is_node and _share_node(one, two):
        return _allows_own_node(documents, connection, settings)
    return _decide(documents, connection, _EGRESS) and _decide(documents, connection, _INGRESS)


def _share_node(one: _Party, two: _Party) -> bool:
    return one.node == two.node != ""


def _allows_own_node(documents: Sequence[Document], connection: _Connection, settings: Settings) -> bool:
    """Whether a pod may speak to its own node: NetworkPolicies never forbid it, the other ones and `nodeAccess` may."""
    return _decide(documents, connection, _EGRESS) and _allows_node_access(connection, settings.node_access)


def _allows_node_access(connection: _Connection, listed: Sequence[str] | None) -> bool:
    if listed is None or connection.protocol == ICMP:
        return True
    for text in listed:
        protocol, _, ports = text.partition("/")
        first, _, last = ports.partition("-")
        if protocol.upper() == connection.protocol and int(first) <= connection.port <= int(last or first):
            return True
    return False


def _allows_metadata(connection: _Connection, settings: Settings) -> bool:
    if not settings.is_metadata_denied or not connection.source.is_pod:
        return True
    if _ip(connection.destination.address) not in [_ip(one) for one in METADATA]:
        return True
    return any(_is_exempt(connection.source, one) for one in settings.metadata_exceptions)


def _is_exempt(pod: _Party, exception: Mapping) -> bool:
    wanted = exception.get("labels") or {}
    return pod.namespace == exception["namespace"] and all(pod.labels.get(key) == wanted[key] for key in wanted)


# The tiers


def _decide(documents: Sequence[Document], connection: _Connection, direction: str) -> bool:
    """Whether the pod at one end may open (Egress) or accept (Ingress) the connection."""
    subject = connection.destination if direction == _INGRESS else connection.source
    if subject.namespace is None:
        return True  # policies select pods
    verdict = _ask_tier(documents, "Admin", subject, connection, direction)
    if verdict in (_ACCEPT, _DENY):
        return verdict == _ACCEPT
    policies = [one for one in _network_policies(documents) if _isolates(one, subject, direction)]
    if policies:
        if direction == _EGRESS and connection.destination.is_node and _share_node(subject, connection.destination):
            return True
        return any(_network_policy_allows(one, connection, direction) for one in policies)
    return _ask_tier(documents, "Baseline", subject, connection, direction) != _DENY


def _ask_tier(
    documents: Sequence[Document], tier: str, subject: _Party, connection: _Connection, direction: str
) -> str | None:
    """What the first rule that matches says; None if there is none."""
    policies = [one for one in _of_kind(documents, "ClusterNetworkPolicy") if one["spec"]["tier"] == tier]
    for policy in sorted(policies, key=lambda one: (one["spec"]["priority"], one["metadata"]["name"])):
        spec = policy["spec"]
        if not _selects_pods(spec["subject"], subject):
            continue
        for rule in spec.get(direction.lower()) or ():
            verdict = _ask_rule(documents, rule, connection, direction)
            if verdict is not None:
                return verdict
    return None


def _ask_rule(documents: Sequence[Document], rule: Mapping, connection: _Connection, direction: str) -> str | None:
    """The action of a rule that matches, else None. A peer of an unknown kind: the rule fails closed."""
    action, peers = rule["action"], rule["from" if direction == _INGRESS else "to"]
    if any(_is_unknown(peer, direction) for peer in peers):
        return None if action == _ACCEPT else _DENY
    other = connection.peer(direction)
    if not any(_cluster_peer_matches(documents, peer, other) for peer in peers):
        return None
    protocols = rule.get("protocols")
    if protocols and not any(_cluster_protocol_matches(one, connection) for one in protocols):
        return None
    return action


def _is_unknown(peer: Mapping, direction: str) -> bool:
    known = {"namespaces", "pods"} if direction == _INGRESS else {"namespaces", "pods", "nodes", "networks"}
    return not known & peer.keys()


def _selects_pods(peer: Mapping, party: _Party) -> bool:
    """Whether `namespaces` or `pods`, of a subject or a peer, select the pod."""
    if party.namespace is None:
        return False
    if "namespaces" in peer:
        return _selects(peer["namespaces"], party.namespace_labels)
    if "pods" in peer:
        both = peer["pods"]
        is_there = _selects(both.get("namespaceSelector"), party.namespace_labels)
        return is_there and _selects(both.get("podSelector"), party.labels)
    return False


def _cluster_peer_matches(documents: Sequence[Document], peer: Mapping, party: _Party) -> bool:
    if "networks" in peer:
        return any(_is_in(party.address, cidr) for cidr in peer["networks"])
    if "nodes" in peer:
        nodes = [one for one in _of_kind(documents, "Node") if _selects(peer["nodes"], _labels(one))]
        return any(_ip(party.address) == _ip(address) for one in nodes for address in _node_addresses(one))
    return _selects_pods(peer, party)


def _cluster_protocol_matches(match: Mapping, connection: _Connection) -> bool:
    if "destinationNamedPort" in match:
        named = connection.destination.named_ports
        return (match["destinationNamedPort"], connection.protocol, connection.port) in named
    for protocol in (TCP, UDP, SCTP):
        if protocol.lower() in match and protocol == connection.protocol:
            wanted = (match[protocol.lower()] or {}).get("destinationPort")
            if wanted is None:
                return True
            if "range" in wanted:
                return wanted["range"]["start"] <= connection.port <= wanted["range"]["end"]
            return wanted["number"] == connection.port
    return False


# NetworkPolicies


def _network_policies(documents: Sequence[Document]) -> Iterator[Document]:
    yield from _of_kind(documents, "NetworkPolicy")


def _isolates(policy: Document, pod: _Party, direction: str) -> bool:
    """Whether the policy selects the pod, and is about this direction."""
    spec = policy.get("spec") or {}
    return (
        _namespace(policy) == pod.namespace
        and _selects(spec.get("podSelector"), pod.labels)
        and direction in _policy_types(spec)
    )


def _policy_types(spec: Mapping) -> Sequence[str]:
    """Those of the policy; if there are none, Ingress, and Egress if there are rules for it."""
    return spec.get("policyTypes") or ([_INGRESS, _EGRESS] if spec.get("egress") else [_INGRESS])


def _network_policy_allows(policy: Document, connection: _Connection, direction: str) -> bool:
    """Whether one of the rules allows the connection."""
    for rule in (policy.get("spec") or {}).get(direction.lower()) or ():
        peers, ports = rule.get("from" if direction == _INGRESS else "to"), rule.get("ports")
        other = connection.peer(direction)
        is_peer = not peers or any(_peer_matches(peer, _namespace(policy), other) for peer in peers)
        if is_peer and (not ports or any(_port_matches(port, connection) for port in ports)):
            return True
    return False


def _peer_matches(peer: Mapping, own_namespace: str, party: _Party) -> bool:
    if peer.get("ipBlock") is not None:
        block = peer["ipBlock"]
        is_inside = _is_in(party.address, block["cidr"])
        return is_inside and not any(_is_in(party.address, cidr) for cidr in block.get("except") or ())
    pods, namespaces = peer.get("podSelector"), peer.get("namespaceSelector")
    if party.namespace is None or (pods is None and namespaces is None):
        return False
    if namespaces is None:
        return party.namespace == own_namespace and _selects(pods, party.labels)
    return _selects(namespaces, party.namespace_labels) and _selects(pods, party.labels)


def _port_matches(port: Mapping, connection: _Connection) -> bool:
    protocol = port.get("protocol") or TCP
    if connection.protocol != protocol:
        return False
    number = port.get("port")
    if number is None:
        return True
    if isinstance(number, str):
        return (number, protocol, connection.port) in connection.destination.named_ports
    return number <= connection.port <= (port.get("endPort") or number)


# Documents


def _of_kind(documents: Iterable[Document], kind: str) -> Iterator[Document]:
    return (one for one in documents if one["kind"] == kind)


def _namespace(document: Document) -> str:
    return document["metadata"].get("namespace") or "default"


def _labels(document: Document) -> Mapping[str, str]:
    return document["metadata"].get("labels") or {}


def _find(documents: Sequence[Document], kind: str, namespace: str | None, name: str) -> Document | None:
    for one in _of_kind(documents, kind):
        if one["metadata"]["name"] == name and (namespace is None or _namespace(one) == namespace):
            return one
    return None


def _party(documents: Sequence[Document], end: End, family: int) -> _Party:
    if isinstance(end, Outside):
        return _Party(_of_family([end.address], family))
    if isinstance(end, Node):
        document = _find(documents, "Node", None, end.name)
        addresses = end.ips or (tuple(_node_addresses(document)) if document else ())
        return _Party(_of_family(addresses, family), node=end.name, is_node=True)
    return _pod(documents, end, family)


def _pod(documents: Sequence[Document], end: Pod, family: int) -> _Party:
    document = _find(documents, "Pod", end.namespace, end.name) if end.namespace else None
    document = document or {"metadata": {}}
    spec, status = document.get("spec") or {}, document.get("status") or {}
    written = [one["ip"] for one in status.get("podIPs") or ()] or [status[key] for key in ("podIP",) if key in status]
    address, node = _of_family(end.ips or written, family), end.node or spec.get("nodeName") or ""
    if spec.get("hostNetwork"):
        return _Party(address, node=node, is_node=True)  # it cannot be told from its node
    if not end.namespace:
        return _Party(address, node=node, is_pod=True)  # of no namespace: nothing selects it
    return _Party(
        address,
        node=node,
        namespace=end.namespace,
        name=end.name,
        labels=_labels(document),
        namespace_labels=_namespace_labels(documents, end.namespace),
        named_ports=[
            (port["name"], port.get("protocol") or TCP, port["containerPort"])
            for container in spec.get("containers") or ()
            for port in container.get("ports") or ()
            if port.get("name")
        ],
        is_pod=True,
    )


def _namespace_labels(documents: Sequence[Document], name: str) -> Mapping[str, str]:
    document = _find(documents, "Namespace", None, name)
    return {**(_labels(document) if document else {}), NAME_LABEL: name}


def _node_addresses(node: Document) -> Iterator[str]:
    """All that are addresses: its `status.addresses` may have names of hosts, too."""
    for one in (node.get("status") or {}).get("addresses") or ():
        if one["type"] in ("InternalIP", "ExternalIP"):
            yield one["address"]


# Selectors and addresses


def _selects(selector: Mapping | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector selects labels; one that is empty, or left out, selects everything."""
    selector = selector or {}
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    return all(_fulfils(labels, one) for one in selector.get("matchExpressions") or ())


def _fulfils(labels: Mapping[str, str], expression: Mapping) -> bool:
    key, operator, values = expression["key"], expression["operator"], expression.get("values") or ()
    if operator == "In":
        return key in labels and labels[key] in values
    if operator == "NotIn":
        return key not in labels or labels[key] not in values
    if operator == "Exists":
        return key in labels
    if operator == "DoesNotExist":
        return key not in labels
    raise ValueError(f"no such operator: {operator}")


def _of_family(addresses: Iterable[str], family: int) -> str:
    for one in addresses:
        if _ip(one).version == family:
            return one
    raise ValueError(f"no address of IPv{family} in {list(addresses)}")


def _is_in(address: str, cidr: str) -> bool:
    network = ipaddress.ip_network(cidr, strict=False)
    return _ip(address).version == network.version and _ip(address) in network


@cache
def _ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(address)
