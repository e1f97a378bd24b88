"""The cluster in which all cases of tests/policy/cases.py are tried: three namespaces with three pods each.

Its documents lack addresses and nodes, which a test knows when it has made the pods.
"""

from collections.abc import Mapping, Sequence

NAMESPACES = {
    "x": {"team": "red", "stage": "live"},
    "y": {"team": "red", "stage": "trial"},
    "z": {"team": "blue"},
}
PODS = {
    "a": {"app": "web", "tier": "front"},
    "b": {"app": "api", "tier": "back"},
    "c": {"app": "store", "tier": "back", "secret": "yes"},
}
PORTS = {
    "a": [("web", "TCP", 80), ("dns", "UDP", 81), ("signal", "SCTP", 80)],
    "b": [("web", "TCP", 80), ("dns", "UDP", 80)],
    "c": [("web", "TCP", 81), ("dns", "UDP", 80), ("signal", "SCTP", 81)],
}
"""Names of ports: "web" and "signal" are other ports of other pods; b has no "signal"."""

NODES = {"n1": {"zone": "one"}, "n2": {"zone": "two"}, "n3": {"zone": "two", "edge": ""}}

Document = Mapping


def namespace(name: str, **labels: str) -> dict:
    """The document of a namespace, with the labels above or these."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or NAMESPACES[name]}}


def node(name: str, ips: Sequence[str], **labels: str) -> dict:
    """The document of a node, with the labels above or these."""
    addresses = [{"type": "InternalIP", "address": one} for one in ips]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels or NODES[name]},
        "status": {"addresses": [{"type": "Hostname", "address": name}, *addresses]},
    }


def pod(namespace: str, name: str, **changes: object) -> dict:
    """The document of a pod. `changes`: other `labels`, other `ports`; `ips` and `node`."""
    ports = changes.get("ports", PORTS.get(name, ()))
    listed = [{"name": one, "protocol": protocol, "containerPort": number} for one, protocol, number in ports]
    spec = {"containers": [{"name": "main", "image": "none", "ports": listed}]}
    made = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": changes.get("labels", PODS.get(name, {}))},
        "spec": spec | ({"nodeName": changes["node"]} if "node" in changes else {}),
    }
    if "ips" in changes:
        ips = [{"ip": one} for one in changes["ips"]]
        made["status"] = {"phase": "Running", "podIP": ips[0]["ip"], "podIPs": ips}
    return made


def key_of(document: Document) -> tuple[str, str, str]:
    """Kind, namespace ("" for none) and name."""
    return document["kind"], document["metadata"].get("namespace", ""), document["metadata"]["name"]


def overlaid(base: Sequence[Document], more: Sequence[Document]) -> list[Document]:
    """The documents; later ones replace those of the same name, but pods keep addresses and nodes that they had."""
    found = {key_of(one): one for one in base}
    for one in more:
        old = found.get(key_of(one), {})
        if one["kind"] == "Pod" and old:
            one = {**old, **one, "spec": {**old["spec"], **one["spec"]}}  # noqa: PLW2901 (the new one)
        found[key_of(one)] = one
    return list(found.values())


def filled(value: object, addresses: Mapping[str, str]) -> object:
    """A document whose texts have names such as {x_a_4} (the address of pod a of x) replaced by the addresses."""
    if isinstance(value, str):
        return value.format_map(addresses) if "{" in value else value
    if isinstance(value, Mapping):
        return {key: filled(each, addresses) for key, each in value.items()}
    return [filled(each, addresses) for each in value] if isinstance(value, list | tuple) else value
