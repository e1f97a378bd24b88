"""The text of a file of documents as values: YAML with any number of documents, or JSON.

Anybody may write such a file. So YAML has the types of JSON only, as its core schema writes them ("yes" is a string);
aliases count as often as they are used; and a key that is twice in a mapping is an error, as one of them would be
ignored.
"""

import json
import re
from collections.abc import Callable, Iterator

import yaml

from spec import jsontext

LARGEST = 4 << 20
"""Bytes of a file."""
SUFFIXES = (".yaml", ".yml", ".json")
_VALUES = 500_000  # in a file
_DEPTH = 100
_STR, _MAP, _SEQ, _MERGE = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "map", "seq", "merge"))
_RESOLVED = {f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool", "null", "timestamp", "merge", "value")}
_SCALARS: tuple[tuple[re.Pattern[str], Callable[[str], object]], ...] = (
    (re.compile(r"~|null|Null|NULL|"), lambda _: None),
    (re.compile(r"true|True|TRUE"), lambda _: True),
    (re.compile(r"false|False|FALSE"), lambda _: False),
    (re.compile(r"[-+]?(0|[1-9][0-9]{0,18})"), int),
    (re.compile(r"0x[0-9a-fA-F]{1,16}"), lambda text: int(text, 16)),
    (re.compile(r"[-+]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?"), float),
)


def is_document_file(name: str) -> bool:
    """Whether a name is that of a file of documents; hidden and temporary files are not."""
    return name.endswith(SUFFIXES) and name[0] not in ".#~"


def parse(name: str, data: bytes) -> list[tuple[int, object]]:
    """The documents of a file with that name, each with its number (from 1); empty ones are left out.

    Raises ValueError if any of them cannot be read.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}") from None
    if name.endswith(".json"):
        return [(1, _json(text))] if text.strip() else []
    return [(number, value) for number, value in _yaml(text) if value is not None]


def _json(text: str) -> object:
    jsontext.loads(text.encode())  # for its limits
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f'the key "{key[:80]}" is there twice')
        found[key] = value
    return found


def _yaml(text: str) -> Iterator[tuple[int, object]]:
    """The documents, each with its number. Raises ValueError."""
    number, reader = 1, _Reader()
    try:
        # libyaml's, if it is there: it is 25 times as fast.
        for node in yaml.compose_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            try:
                yield number, reader.value(node, 0)
            except ValueError as error:
                raise ValueError(f"document {number}, {error}") from None
            number += 1
    except (yaml.YAMLError, RecursionError, UnicodeError) as error:
        raise ValueError(f"document {number}{_place(error)}") from None


def _place(error: Exception) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    line = f", line {mark.line + 1}" if mark else ""
    return f"{line}: {problem or 'not YAML'}"


class _Reader:
    """Makes values of the nodes of a file, of at most _VALUES."""

    def __init__(self) -> None:
        self._left = _VALUES

    def value(self, node: yaml.Node, depth: int) -> object:
        """The value of a node. Raises ValueError."""
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"more than {_VALUES} values in the file, counting those of aliases")
        if depth > _DEPTH:
            raise _error(node, f"nested too deeply: more than {_DEPTH} levels of lists and mappings")
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if node.tag not in (_MAP, _SEQ):
            raise _error(node, f"the tag {node.tag[:80]} is not allowed")
        if isinstance(node, yaml.SequenceNode):
            return [self.value(each, depth + 1) for each in node.value]
        return self._mapping(node, depth)

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, object]:
        found: dict[str, object] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                raise _error(key_node, "merge keys (<<) are not allowed")
            key = self.value(key_node, depth + 1)
            if not isinstance(key, str):
                raise _error(key_node, "a key that is not a string; put it in quotes")
            if key in found:
                raise _error(key_node, f'the key "{key[:80]}" is there twice')
            found[key] = self.value(value_node, depth + 1)
        return found


def _scalar(node: yaml.ScalarNode) -> object:
    if node.tag == _STR or node.style in ("'", '"', "|", ">"):
        return node.value
    if node.tag not in _RESOLVED:
        raise _error(node, f"the tag {node.tag[:80]} is not allowed")
    for pattern, make in _SCALARS:
        if pattern.fullmatch(node.value):
            return make(node.value)
    return node.value


def _error(node: yaml.Node, text: str) -> ValueError:
    return ValueError(f"line {node.start_mark.line + 1}: {text}")
