"""Documents, as Kubernetes has them, become the values of `policy/objects.py`."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from policy.cluster_objects import (
    Meta,
    NamespaceObject,
    NodeObject,
    PodObject,
    PolicyObject,
    explain,
    namespace_of,
    node_of,
    pod_of,
)
from policy.cluster_policies import read_cluster_policy
from policy.fields import Fields, is_namespace, is_subdomain, wrong
from policy.network_policies import read_network_policy
from policy.objects import ClusterNode, Namespace, Pod
from policy.sources.sink import ClusterObject

POD, NAMESPACE, NODE, NETWORK_POLICY, CLUSTER_POLICY = (
    "Pod",
    "Namespace",
    "Node",
    "NetworkPolicy",
    "ClusterNetworkPolicy",
)
KINDS = {
    POD: "v1",
    NAMESPACE: "v1",
    NODE: "v1",
    NETWORK_POLICY: "networking.k8s.io/v1",
    CLUSTER_POLICY: "policy.networking.k8s.io/v1alpha2",
}
"""Kinds of the documents that are read, with their versions.

Others are ignored, but those of other network policies are errors: whoever has written one expects it to be enforced.
"""

_NAMESPACED = (POD, NETWORK_POLICY)
_LIST, _POLICY = "List", "networkpolicy"
_TOLD = 3  # problems of one document that are told

Identity = tuple[str, str, str]
"""Kind, namespace ("" for cluster-wide ones) and name of an object."""


class WrongDocument(ValueError):
    """A document is wrong; the text says where, what is there, and what is allowed.

    `item`: what is in force in its place: a policy that allows no more than what was meant; None: nothing.
    """

    def __init__(self, text: str, item: ClusterObject | None = None) -> None:
        super().__init__(text)
        self.item = item


@dataclass(frozen=True, slots=True)
class Document:
    """What a document says: `item`, None if nothing; `problem`: what is wrong with it, "" if nothing is.

    `identity`: None if its kind, namespace or name cannot be told. One with an identity and neither an item nor a
    problem is a pod that has ended. `version`: its resourceVersion, "" if it has none.
    """

    identity: Identity | None
    item: ClusterObject | None = None
    problem: str = ""
    version: str = ""


def read_document(value: object) -> ClusterObject | None:
    """The object in a document, a mapping as decoders of JSON and YAML return it.

    None for documents of other kinds, and for pods that have ended. Raises WrongDocument.
    """
    found = _read(value)
    if found and found.problem:
        raise WrongDocument(found.problem, found.item)
    return found and found.item


def read_all(value: object) -> Iterator[Document]:
    """All that a document has, which may be a list of documents (`List`, `PodList` and so on). Never raises.

    Documents of kinds that are not read are left out.
    """
    kind, version, items = (value.get(key) if isinstance(value, Mapping) else None for key in _HEAD)
    if not isinstance(kind, str) or not kind.endswith(_LIST) or "items" not in value:
        found = _read(value)
        yield from (found,) if found else ()
        return
    if not isinstance(items, list | None):
        yield Document(None, problem=str(wrong("items", "a list", items)))
        return
    for each in items or ():
        # The entries of a list of one kind need not say which it is.
        default = {"kind": kind.removesuffix(_LIST), "apiVersion": version} if kind != _LIST else {}
        yield from read_all({**default, **each} if isinstance(each, Mapping) else each)


_HEAD = ("kind", "apiVersion", "items")


def identity_of(item: ClusterObject) -> Identity:
    """Kind, namespace and name of an object."""
    if isinstance(item, Pod):
        return POD, item.namespace, item.name
    if isinstance(item, Namespace):
        return NAMESPACE, "", item.name
    return (NODE, "", item.name) if isinstance(item, ClusterNode) else item.key


def decode(kind: str, text: bytes | msgspec.Raw) -> Document:
    """The object of one of KINDS that the API has sent as JSON. Never raises."""
    try:
        return _built(kind, _DECODERS[kind](text), None)
    except (ValueError, RecursionError) as error:
        return _explained(kind, error, text)


def _explained(kind: str, error: Exception, text: bytes | msgspec.Raw) -> Document:
    """The document of an object that msgspec cannot decode."""
    try:
        value = _decode_any(text)
    except (ValueError, RecursionError):
        return Document(None, problem=f"it is not JSON: {error}")
    head = value if isinstance(value, dict) else {}
    problem = str(explain(error, value)) if isinstance(error, msgspec.ValidationError) else str(error)
    return _unreadable(kind, head.get("metadata"), problem)


def _unreadable(kind: str, meta: object, problem: str) -> Document:
    meta = meta if isinstance(meta, Mapping) else {}
    version = meta.get("resourceVersion")
    try:
        found = Meta(*(_text(meta.get(key)) for key in ("name", "namespace")))
        identity = _identity(kind, found)
    except ValueError:
        identity = None
    return Document(identity, None, problem, version if isinstance(version, str) else "")


def _read(value: object) -> Document | None:
    """The document of a mapping; None if its kind is ignored."""
    try:
        kind = _kind_of(value)
    except ValueError as error:
        return Document(None, problem=str(error))
    if not kind:
        return None
    try:
        return _built(kind, msgspec.convert(value, _OBJECTS[kind]), value)
    except (ValueError, RecursionError) as error:
        problem = str(explain(error, value)) if isinstance(error, msgspec.ValidationError) else str(error)
        return _unreadable(kind, value.get("metadata"), problem)


def _kind_of(value: object) -> str:
    """One of KINDS, "" if the document is of another kind. Raises ValueError."""
    document = Fields(value, "the document")
    kind, version = value.get("kind"), value.get("apiVersion")
    if not isinstance(kind, str) or not kind:
        raise wrong("kind", "a kind, such as " + ", ".join(f'"{each}"' for each in KINDS), kind)
    if not isinstance(version, str) or not version:
        raise wrong("apiVersion", f'"{KINDS[kind]}"' if kind in KINDS else "a version", document.get("apiVersion"))
    if KINDS.get(kind) == version:
        return kind
    if kind.lower().endswith(_POLICY):
        allowed = " or ".join(f'"{each}" of "{KINDS[each]}"' for each in (NETWORK_POLICY, CLUSTER_POLICY))
        raise ValueError(f'"kind": expected {allowed}, got "{kind[:80]}" of "{version[:80]}"')
    return ""


def _built(kind: str, found: object, document: Mapping[str, object] | None) -> Document:
    """The object of what msgspec has read; `document`: all of it, if that is known. Raises ValueError."""
    meta = found.metadata
    identity = _identity(kind, meta)
    try:
        item, problems = _BUILDERS[kind](found, identity, document)
    except ValueError as error:
        item, problems = None, [str(error)]
    more = [f"and {len(problems) - _TOLD} more"] if len(problems) > _TOLD else []
    return Document(identity, item, "; ".join(problems[:_TOLD] + more), meta.resourceVersion or "")


def _identity(kind: str, meta: Meta) -> Identity:
    """Raises ValueError for names that Kubernetes does not allow."""
    name, namespace = meta.name or "", (meta.namespace or "default") if kind in _NAMESPACED else ""
    if not (is_namespace(name) if kind == NAMESPACE else is_subdomain(name)):
        raise wrong("metadata.name", "a name of lower-case letters, digits, hyphens and dots", meta.name)
    if namespace and not is_namespace(namespace):
        raise wrong("metadata.namespace", "the name of a namespace", namespace)
    return kind, namespace, name


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


Builder = Callable[[object, Identity, Mapping[str, object] | None], tuple[ClusterObject | None, list[str]]]
_BUILDERS: Mapping[str, Builder] = {
    POD: lambda found, which, _: (pod_of(found, which[1], which[2]), []),
    NAMESPACE: lambda found, which, _: (namespace_of(found, which[2]), []),
    NODE: lambda found, which, _: (node_of(found, which[2]), []),
    NETWORK_POLICY: lambda found, which, document: read_network_policy(
        which[1], which[2], document or {"spec": found.spec}
    ),
    CLUSTER_POLICY: lambda found, which, document: read_cluster_policy(which[2], document or {"spec": found.spec}),
}
_OBJECTS = {
    POD: PodObject,
    NAMESPACE: NamespaceObject,
    NODE: NodeObject,
    NETWORK_POLICY: PolicyObject,
    CLUSTER_POLICY: PolicyObject,
}
_DECODERS = {kind: msgspec.json.Decoder(each).decode for kind, each in _OBJECTS.items()}
_decode_any = msgspec.json.Decoder().decode
