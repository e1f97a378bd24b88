"""Nodes of the API as records. Pure; what the API answers is foreign input.

A Node has 13 KB and more, most of them about images. msgspec skips what is not declared here, and keeps most of the
rest as it is, to be decoded only if it has changed: that is seldom so, since nearly all changes are heartbeats.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import msgspec

from linux.rtnl.vxlan import vtep_mac
from nodes.records import from_text, to_text
from nodes.registry import Entry
from plugins.node.records import Node, parse_node
from spec.addresses import is_ipv6
from spec.config import Section
from spec.errors import CNIError

ADDRESSES = "slash24.dev/addresses"
"""The annotation by which an operator sets the addresses at which others reach a node, separated by commas."""

RECORD = "slash24.dev/record"
"""The annotation with the record that a node has announced, if the Node itself says something else."""

ZONE = "topology.kubernetes.io/zone"


_NOTHING = msgspec.Raw(b"null")


class Meta(msgspec.Struct):
    """The part of a Node's metadata that is read. Any value may be of any type."""

    name: object = None
    uid: object = None
    resourceVersion: object = None
    creationTimestamp: msgspec.Raw = _NOTHING
    labels: msgspec.Raw = _NOTHING
    annotations: msgspec.Raw = _NOTHING


class _Status(msgspec.Struct):
    """The part of a Node's status that is read."""

    addresses: msgspec.Raw = _NOTHING
    conditions: msgspec.Raw = _NOTHING


class NodeObject(msgspec.Struct):
    """A Node of the API, as far as it is read. Its parts are views of the text that it was read from."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: msgspec.Raw = _NOTHING
    status: _Status = msgspec.field(default_factory=_Status)

    @property
    def name(self) -> str:
        """Its name, "" if it has none."""
        return _string(self.metadata.name)

    @property
    def uid(self) -> str:
        """What tells it from an earlier Node of the same name."""
        return _string(self.metadata.uid)

    @property
    def digest(self) -> int:
        """A number that is the same as long as nothing has changed of which entries are made."""
        meta = self.metadata
        parts = (meta.creationTimestamp, meta.labels, meta.annotations, self.spec, self.status.addresses)
        return hash((self.name, self.uid, *map(bytes, parts)))

    def annotation(self, key: str) -> str:
        """The value of an annotation, "" if there is none."""
        return _text(_value(self.metadata.annotations), key)

    def detach(self) -> None:
        """Copy the parts, so that the text that it was read from can be freed."""
        meta, status = self.metadata, self.status
        meta.creationTimestamp, meta.labels = meta.creationTimestamp.copy(), meta.labels.copy()
        meta.annotations, self.spec = meta.annotations.copy(), self.spec.copy()
        status.addresses, status.conditions = status.addresses.copy(), status.conditions.copy()


def entry_of(node: NodeObject) -> Entry:
    """The record in a Node, under its name; one without a subnet has none yet."""
    try:
        return Entry(node.name, record_of(node))
    except ValueError as error:
        return Entry(node.name, None, str(error))


def record_of(node: NodeObject) -> Node:
    """The record that the node has announced, else what the Node says. Raises ValueError with a sentence."""
    plain = plain_record(node)
    announced = node.annotation(RECORD)
    if not announced:
        return plain
    try:
        record = from_text(announced.encode(errors="surrogatepass"))
    except ValueError as error:
        raise ValueError(f"the annotation {RECORD}: {error}") from error
    return replace(record, name=plain.name, since=plain.since, zone=plain.zone)


def plain_record(node: NodeObject) -> Node:
    """What the Node says, and its operator's annotation. Raises ValueError with a sentence."""
    chosen, spec = node.annotation(ADDRESSES), _value(node.spec)
    spec = spec if isinstance(spec, dict) else {"podCIDRs": spec}
    values = {
        "name": node.metadata.name,
        "addresses": _split(chosen) if chosen else _internal(_value(node.status.addresses)),
        "podCIDRs": spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else []),
        "zone": _text(_value(node.metadata.labels), ZONE),
        "since": _seconds(_value(node.metadata.creationTimestamp)),
    }
    try:
        return parse_node(Section(values))
    except CNIError as error:
        where = f"the annotation {ADDRESSES}: " if chosen and error.msg.startswith('"addresses') else ""
        raise ValueError(where + error.msg) from error


def announcement(wanted: Node, node: NodeObject) -> str:
    """The annotation RECORD from which others learn `wanted`; "" if the Node says the same without one."""
    try:
        plain = plain_record(node)
    except ValueError:
        plain = None
    if plain and _meaning(plain) == _meaning(wanted):
        return ""
    return to_text(replace(wanted, zone="", since=0)).decode().strip()


def _meaning(node: Node) -> tuple[object, ...]:
    """What others use of a record: of several addresses of a family, the first that they can.

    VNI and port are the same on all nodes of a cluster.
    """
    mac = node.vtep_mac or (vtep_mac(node.subnets) if node.subnets else "")
    return tuple(sorted(node.addresses, key=is_ipv6)), frozenset(node.subnets), mac


def _internal(addresses: object) -> list[object]:
    """The addresses of the type InternalIP, in their order."""
    entries = [entry for entry in addresses if isinstance(entry, Mapping)] if isinstance(addresses, list) else []
    found = [entry.get("address") for entry in entries if entry.get("type") == "InternalIP"]
    return list(dict.fromkeys(each for each in found if isinstance(each, str)))


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _text(values: object, key: str) -> str:
    return _string(values.get(key)) if isinstance(values, dict) else ""


def _seconds(text: object) -> int:
    """The time of an RFC 3339 text in seconds since 1970, 0 if it is none."""
    try:
        return max(0, int(datetime.fromisoformat(text).timestamp()))
    except (TypeError, ValueError, OverflowError):
        return 0


@dataclass(frozen=True)
class Condition:
    """A Node's condition NetworkUnavailable: `status` is "True", "False", "Unknown", or "" if there is none."""

    status: str = ""
    reason: str = ""
    message: str = ""


def network_condition(node: NodeObject) -> Condition:
    """The condition that says whether the node's network works."""
    conditions = _value(node.status.conditions)
    for each in conditions if isinstance(conditions, list) else ():
        if isinstance(each, dict) and each.get("type") == "NetworkUnavailable":
            return Condition(*(_string(each.get(key)) for key in ("status", "reason", "message")))
    return Condition()


def read_node(text: bytes | msgspec.Raw) -> tuple[NodeObject, str]:
    """A Node, and what is wrong with it as a whole ("": nothing); then it has at most its metadata."""
    try:
        return _decode(text), ""
    except (ValueError, RecursionError) as error:
        why = f"it is not a Node: {error}"
    try:
        return NodeObject(msgspec.json.decode(_decode_bare(text)["metadata"], type=Meta)), why
    except (ValueError, KeyError, RecursionError):
        return NodeObject(), why


def entries_of(texts: Iterable[bytes | msgspec.Raw]) -> Iterable[tuple[NodeObject, Entry]]:
    """Nodes with their entries; one that is wrong as a whole has an entry that says so."""
    for text in texts:
        node, why = read_node(text)
        yield node, Entry(node.name, None, why) if why else entry_of(node)


_decode = msgspec.json.Decoder(NodeObject).decode
_decode_bare = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_value = msgspec.json.Decoder().decode


def _value(text: msgspec.Raw) -> object:
    """A part of an object, None if it cannot be decoded: its strings may have surrogates, its lists any depth."""
    try:
        return _decode_value(text)
    except (ValueError, RecursionError):
        return None


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""
