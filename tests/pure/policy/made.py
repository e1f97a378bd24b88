"""Documents for the tests of policies."""

from policy.documents import KINDS


def document(kind: str, **parts: object) -> dict:
    """A document of a kind, named "x" in "ns"."""
    return {"apiVersion": KINDS[kind], "kind": kind, "metadata": {"name": "x", "namespace": "ns"}, **parts}


def network_policy(**spec: object) -> dict:
    """A NetworkPolicy."""
    return document("NetworkPolicy", spec=spec)
