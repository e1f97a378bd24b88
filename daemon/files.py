"""The files that plugins read while this daemon is gone: this node's own record, and those of all nodes.

Both are written to a temporary file that replaces them, and keep whatever other keys somebody has put into them.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping

from nodes.records import to_value
from plugins.node.records import NODE_FILE, PEERS_FILE, Node, read_peers_file
from spec import jsontext
from spec.errors import CNIError
from state.files import make_folders, read_file, replace_file

VERSION = 1
_LARGEST = 4 << 20  # bytes, as plugins read at most
_PAUSE_TIMES, _LONGEST_PAUSE = 20, 1.0  # of the time that writing takes; seconds


class JsonFile:
    """A file whose content is one JSON object, of which some keys are ours."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._written = 0
        self._state: tuple[int, ...] | None = None
        self._others: dict[str, object] = {}

    def read(self) -> dict[str, object]:
        """What the file holds; {} if it cannot be read."""
        try:
            value = jsontext.loads(read_file(self.path, _LARGEST))
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def write(self, ours: Mapping[str, object], encode: Callable[[dict], bytes], absent: Iterable[str] = ()) -> bool:
        """Set our keys, delete the keys in `absent`; returns whether the file was written. Raises OSError."""
        is_as_left = self._state is not None and _state(self.path) == self._state
        if not is_as_left:  # somebody else has written it, or nobody has
            self._others = {key: value for key, value in self.read().items() if key not in ours and key not in absent}
        content = encode({**ours, **self._others})
        if is_as_left and hash(content) == self._written:
            return False
        make_folders(os.path.dirname(self.path), 0o755)
        replace_file(self.path, f"{self.path}.new", content)
        self._written, self._state = hash(content), _state(self.path)
        return True


def _state(path: str) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


class NodeFile:
    """/run/slash24/node.json: this node's subnets, the cluster's networks, the MTU of pods, and what is wrong."""

    _KEYS = ("mtu", "problem")

    def __init__(self, path: str = NODE_FILE) -> None:
        self._file = JsonFile(path)

    def read_subnets(self) -> tuple[str, ...]:
        """The subnets in the file, () if there are none."""
        found = self._file.read().get("podCIDRs")
        return tuple(one for one in found if isinstance(one, str)) if isinstance(found, list) else ()

    def says_it_works(self) -> bool:
        """Whether the network could be made when the file was written: there are subnets, an MTU, and no problem."""
        content = self._file.read()
        return bool(content.get("podCIDRs") and content.get("mtu")) and not content.get("problem")

    def write(self, subnets: Iterable[str], cluster: Iterable[str], *, mtu: int = 0, problem: str = "") -> bool:
        """Write it if it differs; `mtu` 0 and `problem` "" are left out. Raises OSError."""
        ours = {"version": VERSION, "podCIDRs": [] if problem else list(subnets), "clusterCIDRs": list(cluster)}
        ours |= {key: value for key, value in (("mtu", mtu), ("problem", problem)) if value}
        return self._file.write(ours, lambda value: json.dumps(value, indent=1).encode() + b"\n", self._KEYS)


class PeersFile:
    """/run/slash24/peers.json: the records of all nodes, a line each.

    It is for calls that find no daemon, which remove the routes that it does not want: so it has to be as new as
    possible. But thousands of records take some ten milliseconds, and change often at the start: the file is not
    written again until a multiple of the time has passed that the last writing took.
    """

    def __init__(self, path: str = PEERS_FILE, clock: Callable[[], float] = time.monotonic) -> None:
        self._file, self._clock = JsonFile(path), clock
        self._lines: dict[str, tuple[Node, bytes]] = {}
        self._nodes: Mapping[str, Node] | None = None
        self._due = clock()

    def read(self) -> dict[str, Node] | None:
        """The records in the file, by name; None if it cannot be read."""
        try:
            records = read_peers_file(self._file.path, required=True)
        except CNIError:
            return None
        return {node.name: node for node in records.nodes if node.name}

    def set(self, nodes: Mapping[str, Node]) -> None:
        """What the file is to hold, at the next `flush`."""
        self._nodes = nodes

    def seconds_left(self) -> float | None:
        """In how many seconds `flush` would write, None if there is nothing to write."""
        return None if self._nodes is None else max(self._due - self._clock(), 0.0)

    def flush(self, *, now: bool = False) -> bool:
        """Write what was set, if the last time is long enough ago or `now`; whether it did. Raises OSError."""
        if self._nodes is None or not (now or self._clock() >= self._due):
            return False
        start = self._clock()
        lines = [self._line(name, node) for name, node in self._nodes.items()]
        if len(self._lines) > len(self._nodes):
            self._lines = {name: self._lines[name] for name in self._nodes}
        is_written = self._file.write({"version": VERSION, "peers": lines}, _encode_lines)
        now = self._clock()
        self._due, self._nodes = now + min(_PAUSE_TIMES * (now - start), _LONGEST_PAUSE), None
        return is_written

    def _line(self, name: str, node: Node) -> bytes:
        """The record as JSON, encoded once."""
        known = self._lines.get(name)
        if known is None or known[0] is not node:
            known = self._lines[name] = (node, json.dumps(to_value(node), separators=(",", ":")).encode())
        return known[1]


def _encode_lines(value: dict) -> bytes:
    head = json.dumps({key: each for key, each in value.items() if key != "peers"})[:-1].encode()
    return head + b', "peers": [\n' + b",\n".join(value["peers"]) + b"\n]}\n"
