"""Leasing subnets where the cluster allocates none: a ConfigMap has those of all nodes.

It has a line a node, of 80 bytes, so that the 1 MiB of a ConfigMap is enough for some 10,000: under the node's name,
the UID of its Node and its subnets. A change names the version of the ConfigMap that it was computed from, and the API
server refuses it if that is no longer the latest: so no two nodes get the same subnet. A subnet stays with its node
until the Node is gone, and beyond, until the cluster has no other left.
"""

import random
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import msgspec

from nodes.registries.kubernetes.access import MERGE, Refused, Session
from nodes.registries.kubernetes.following import list_all
from nodes.registries.kubernetes.objects import NodeObject, entries_of, entry_of
from nodes.registry import RegistryError, Wish
from nodes.subnets import choose
from spec.addresses import canonical_cidr

_TIMEOUT = 120.0  # seconds; 200 nodes that start at once took 10
_LONGEST_PAUSE = 2.0  # seconds
_NOT_FOUND, _CONFLICT = 404, 409


class _Meta(msgspec.Struct):
    """Of a ConfigMap."""

    resourceVersion: str = ""


class _ConfigMap(msgspec.Struct):
    """As far as it is read."""

    metadata: _Meta
    data: dict[str, str] | None = None


@dataclass(frozen=True)
class _Line:
    """A node's line: the UID of its Node, and its subnets (canonical CIDRs)."""

    uid: str
    subnets: tuple[str, ...]


class SubnetLeases:
    """The ConfigMap `name` in `namespace`."""

    def __init__(self, namespace: str, name: str) -> None:
        self._folder, self._name = f"/api/v1/namespaces/{namespace}/configmaps", name
        self._path = f"{self._folder}/{name}"

    def lease(self, session: Session, node: NodeObject, wish: Wish) -> tuple[str, ...]:
        """The subnets of this node: those that it has, else new ones. Raises RegistryError."""
        deadline, tries = time.monotonic() + _TIMEOUT, 0
        announced = _subnets_of(node)
        used: list[str] | None = None  # by Nodes, whoever has allocated it
        while True:
            version, lines = self._read(session)
            own = lines.pop(node.name, None)
            if own is None and used is None:
                used = [one for name, (_, subnets) in _nodes(session).items() if name != node.name for one in subnets]
            full = replace(wish, preferred=(*(own.subnets if own else announced), *wish.preferred))
            chosen, gone = _choose(session, node.name, lines, full, used or ())
            line = " ".join((node.uid, *chosen))
            if own == _Line(node.uid, chosen) or self._write(session, version, {node.name: line} | gone):
                return chosen
            tries += 1
            if time.monotonic() > deadline:
                raise RegistryError(f"PATCH {session.url}{self._path}: other nodes keep changing it")
            time.sleep(random.uniform(0, min(0.02 * 2**tries, _LONGEST_PAUSE)))

    def _read(self, session: Session) -> tuple[str, dict[str, _Line]]:
        """The version of the ConfigMap, "" if there is none, and the lines by the nodes' names."""
        try:
            body = session.get(self._path)
        except Refused as error:
            if error.code != _NOT_FOUND:
                raise
            return "", {}
        try:
            found = msgspec.json.decode(body, type=_ConfigMap)
        except ValueError as error:
            raise RegistryError(f"GET {session.url}{self._path}: not a ConfigMap: {error}") from error
        return found.metadata.resourceVersion, dict(_lines(found.data or {}))

    def _write(self, session: Session, version: str, lines: Mapping[str, str | None]) -> bool:
        """Write these lines; False if the ConfigMap has changed since that version."""
        try:
            if version:
                session.send("PATCH", self._path, {"metadata": {"resourceVersion": version}, "data": lines}, kind=MERGE)
            else:
                session.send("POST", self._folder, {"metadata": {"name": self._name}, "data": lines})
        except Refused as error:
            if error.code != _CONFLICT:
                raise
            return False
        return True


def _choose(
    session: Session, name: str, lines: Mapping[str, _Line], wish: Wish, used: Iterable[str]
) -> tuple[tuple[str, ...], dict[str, None]]:
    """The chosen subnets, and the lines to be deleted for them: of Nodes that are gone, if nothing else is left."""
    try:
        return choose(wish, [*used, *_all_of(lines.values())], name), {}
    except RegistryError:
        # The Nodes are listed after the lines were read, so that each line's Node was there before.
        nodes = _nodes(session)
        there = {other: line for other, line in lines.items() if other in nodes and nodes[other][0] == line.uid}
        if len(there) == len(lines):
            raise
    gone = dict.fromkeys(other for other in lines if other not in there)
    return choose(wish, [*used, *_all_of(there.values())], name), gone


def _nodes(session: Session) -> dict[str, tuple[str, tuple[str, ...]]]:
    """UID and subnets of all Nodes by name."""
    found = entries_of(list_all(session, "/api/v1/nodes", {}, []))
    return {node.name: (node.uid, entry.node.subnets if entry.node else ()) for node, entry in found}


def _subnets_of(node: NodeObject) -> tuple[str, ...]:
    record = entry_of(node).node
    return record.subnets if record else ()


def _all_of(lines: Iterable[_Line]) -> Iterator[str]:
    return (subnet for line in lines for subnet in line.subnets)


def _lines(data: Mapping[str, str]) -> Iterator[tuple[str, _Line]]:
    """The lines that can be read. Others reserve nothing; what their nodes use, their Nodes say."""
    for name, text in data.items():
        uid, *subnets = text.split() or [""]
        try:
            yield name, _Line(uid, tuple(map(canonical_cidr, subnets)))
        except ValueError:
            continue
