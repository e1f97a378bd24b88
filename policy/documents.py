"""Documents, as Kubernetes has them, become the values of `policy/objects.py`."""

from collections.abc import Iterator
from dataclasses import dataclass

from policy.sources.sink import ClusterObject

KINDS = ("Pod", "Namespace", "Node", "NetworkPolicy", "ClusterNetworkPolicy")
"""Kinds of the documents that are read. Others are ignored, but other kinds of network policies are errors."""

Identity = tuple[str, str, str]
"""Kind, namespace ("" for cluster-wide ones) and name of an object."""


class WrongDocument(ValueError):
    """A document is wrong; the text says where, what is there, and what is allowed.

    `item`: what is in force in its place: a policy that allows no more than what was meant; None: nothing.
    """

    def __init__(self, text: str, item: ClusterObject | None = None) -> None:
        super().__init__(text)
        self.item = item


@dataclass(frozen=True)
class Document:
    """What a document says: `item`, None if nothing; `problem`: what is wrong with it, "" if nothing is.

    `identity`: None if its kind, namespace or name cannot be told. One with an identity and neither an item nor a
    problem is a pod that has ended.
    """

    identity: Identity | None
    item: ClusterObject | None = None
    problem: str = ""


def read_document(value: object) -> ClusterObject | None:
    """The object in a document, a mapping as decoders of JSON and YAML return it.

    None for documents of other kinds, and for pods that have ended. Raises WrongDocument.
    """
    raise NotImplementedError


def read_all(value: object) -> Iterator[Document]:
    """All that a document has, which may be a list of documents (`List`, `PodList` and so on). Never raises."""
    raise NotImplementedError


def identity_of(item: ClusterObject) -> Identity:
    """Kind, namespace and name of an object."""
    raise NotImplementedError
