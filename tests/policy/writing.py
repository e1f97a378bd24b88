"""Short ways to write policies, as the API has them."""

from collections.abc import Mapping, Sequence

INGRESS, EGRESS = "Ingress", "Egress"
BOTH = (INGRESS, EGRESS)
EVERYTHING: Mapping = {}
"""The selector that selects everything."""

NAME = "kubernetes.io/metadata.name"

Document = Mapping
Rules = Sequence[Mapping]


def labels(**wanted: str) -> dict:
    """A selector by labels."""
    return {"matchLabels": wanted}


def where(*expressions: tuple) -> dict:
    """A selector by expressions, each (key, operator, value, ...)."""
    found = []
    for key, operator, *values in expressions:
        found.append({"key": key, "operator": operator, **({"values": values} if values else {})})
    return {"matchExpressions": found}


def named(*names: str) -> dict:
    """A selector of namespaces by name."""
    return {"matchLabels": {NAME: names[0]}} if len(names) == 1 else where((NAME, "In", *names))


def pods(selector: Mapping = EVERYTHING, namespaces: Mapping | None = None) -> dict:
    """A peer of a NetworkPolicy: pods, of its own namespace, or of namespaces."""
    return {"podSelector": selector} | ({} if namespaces is None else {"namespaceSelector": namespaces})


def all_in(namespaces: Mapping) -> dict:
    """A peer of a NetworkPolicy: all pods of namespaces."""
    return {"namespaceSelector": namespaces}


def block(cidr: str, *excepts: str) -> dict:
    """A peer of a NetworkPolicy: addresses."""
    return {"ipBlock": {"cidr": cidr} | ({"except": list(excepts)} if excepts else {})}


def port(port: int | str | None = None, protocol: str | None = None, end: int | None = None) -> dict:
    """A port of a NetworkPolicy; what is None is left out."""
    found = {"protocol": protocol, "port": port, "endPort": end}
    return {key: value for key, value in found.items() if value is not None}


def rule(direction: str, peers: Sequence[Mapping] | None = None, ports: Sequence[Mapping] | None = None) -> dict:
    """A rule of a NetworkPolicy; what is None is left out."""
    found = {"from" if direction == INGRESS else "to": peers, "ports": ports}
    return {key: list(value) for key, value in found.items() if value is not None}


def policy(
    namespace: str,
    name: str,
    *,
    subject: Mapping | None = EVERYTHING,
    ingress: Rules | None = None,
    egress: Rules | None = None,
    types: Sequence[str] | None = None,
) -> dict:
    """A NetworkPolicy; what is None is left out."""
    spec = {"podSelector": subject, "ingress": ingress, "egress": egress, "policyTypes": types}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            key: list(value) if key != "podSelector" else value for key, value in spec.items() if value is not None
        },
    }


def one_way(direction: str, namespace: str, rules: Rules, *, subject: Mapping = EVERYTHING, name: str = "some") -> dict:
    """A NetworkPolicy for one direction."""
    return policy(namespace, name, subject=subject, types=[direction], **{direction.lower(): rules})


def cluster_policy(
    name: str,
    tier: str,
    priority: int,
    *,
    subject: Mapping | None = None,
    ingress: Rules | None = None,
    egress: Rules | None = None,
) -> dict:
    """A ClusterNetworkPolicy, for all pods if no subject is given."""
    spec = {"tier": tier, "priority": priority, "subject": subject or {"namespaces": {}}}
    spec |= {key: list(value) for key, value in (("ingress", ingress), ("egress", egress)) if value is not None}
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": spec,
    }


def members(namespaces: Mapping = EVERYTHING, selector: Mapping = EVERYTHING) -> dict:
    """A subject or peer of a ClusterNetworkPolicy: pods of namespaces."""
    return {"pods": {"namespaceSelector": namespaces, "podSelector": selector}}


def tenants(namespaces: Mapping = EVERYTHING) -> dict:
    """A subject or peer of a ClusterNetworkPolicy: all pods of namespaces."""
    return {"namespaces": namespaces}


def says(action: str, direction: str, *peers: Mapping, protocols: Sequence[Mapping] | None = None) -> dict:
    """A rule of a ClusterNetworkPolicy."""
    found = {"action": action, "from" if direction == INGRESS else "to": list(peers)}
    return found | ({} if protocols is None else {"protocols": list(protocols)})


def to_port(protocol: str, first: int = 0, last: int = 0) -> dict:
    """A match of a ClusterNetworkPolicy: a port of a protocol, or the ports first to last."""
    number = {"range": {"start": first, "end": last}} if last else {"number": first}
    return {protocol.lower(): {"destinationPort": number}}


def to_name(name: str) -> dict:
    """A match of a ClusterNetworkPolicy: a port by name."""
    return {"destinationNamedPort": name}
