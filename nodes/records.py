"""A node's record as JSON, as registries hold it and the peers file lists it; `docs/nodes.md` describes its keys.

Its version grows only if a reader that does not know a new key would do something wrong.
"""

import json
from collections.abc import Mapping

from plugins.node.records import Node, parse_node
from spec import jsontext
from spec.config import Section
from spec.errors import CNIError

VERSION = 1
KEYS = ("version", "name", "addresses", "podCIDRs", "vtepMAC", "vni", "port", "zone", "cluster", "since")
_LONGEST = 16 << 10  # bytes of a record; one of a dual-stack node has 250


def to_value(node: Node) -> dict[str, object]:
    """The record as a JSON object, without the keys whose values are unknown."""
    lists = list(node.addresses), list(node.subnets)
    values = (VERSION, node.name, *lists, node.vtep_mac, node.vni, node.port, node.zone, node.cluster, node.since)
    return {key: value for key, value in zip(KEYS, values, strict=True) if value or isinstance(value, list)}


def to_text(node: Node) -> bytes:
    """The record as one line of JSON."""
    return json.dumps(to_value(node), separators=(",", ":")).encode() + b"\n"


def from_text(text: bytes) -> Node:
    """Read a record. Raises ValueError with a sentence about what is wrong with it."""
    if len(text) > _LONGEST:
        raise ValueError(f"it has {len(text)} bytes, expected at most {_LONGEST}")
    return from_value(jsontext.loads(text))


def from_value(value: object) -> Node:
    """As `from_text`, from decoded JSON."""
    if not isinstance(value, Mapping):
        raise ValueError("expected a JSON object")
    section = Section(value)
    try:
        version = section.integer("version", VERSION, low=1, high=1 << 31)
        if version > VERSION:
            raise ValueError(f"it has version {version}; this slash24 knows {VERSION}")
        return parse_node(section)
    except CNIError as error:
        raise ValueError(error.msg) from error
