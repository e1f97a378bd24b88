"""Names of chains and sets, by their content, and comments that say what is in them."""

import hashlib

from policy.objects import EVERYTHING, EXISTS, IN, NOT_IN, NodePeer, PodPeer, Policy, Requirement, Selector

_FORM = "1"  # of the content below: with another one all names are others
_LONGEST = 120  # characters of a comment
_DIGITS = 24
_BARE = {ord(character): "?" for character in '"\\{}'}


def name_of(prefix: str, content: object) -> str:
    """A name that only this content has; `content`: tuples, strings, numbers and bytes, in a fixed order."""
    digest = hashlib.sha256(repr((_FORM, content)).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{prefix}-{digest[:_DIGITS]}"


def comment_of(text: str) -> str:
    """A text as a comment: without quotes and what is not printable, and cut where it is too long."""
    plain = text if text.isascii() and text.isprintable() else _ascii(text)
    plain = plain.translate(_BARE)
    return plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST - 3]}..."


def _ascii(text: str) -> str:
    return "".join(character if " " <= character <= "~" else "?" for character in text)


def policy_name(policy: Policy) -> str:
    """The policy for people: "namespace/name", or "name" of a cluster-wide one."""
    return f"{policy.namespace}/{policy.name}" if policy.namespace else policy.name


def describe(peer: PodPeer | NodePeer) -> str:
    """A peer for people: "pods app=web in namespace shop"."""
    if isinstance(peer, NodePeer):
        return _selected("nodes", peer.nodes)
    if peer.namespaces is None:
        return f"{_selected('pods', peer.pods)} in namespace {peer.namespace}"
    return f"{_selected('pods', peer.pods)} in {_selected('namespaces', peer.namespaces)}"


def _selected(kind: str, selector: Selector) -> str:
    if selector == EVERYTHING:
        return f"all {kind}"
    return f"{kind} {' & '.join(map(_condition, selector.requirements))}"


def _condition(one: Requirement) -> str:
    values = "|".join(one.values)
    if one.operator == IN:
        return f"{one.key}={values}"
    if one.operator == NOT_IN:
        return f"{one.key}!={values}"
    return one.key if one.operator == EXISTS else f"!{one.key}"
