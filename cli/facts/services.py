"""The agent and the daemon of this node: whether they run, and what their pages say."""

import json
import os
import socket
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field

from cli.facts.paths import RUN
from plugins.daemon import PID_FILE, is_running

AGENT, DAEMON = "slash24-agent", "slash24-node"
SOCKET = os.path.join(RUN, "cni.sock")
AGENT_PAGES = (os.path.join(RUN, "http.sock"), "127.0.0.1:9324")
DAEMON_PAGES = (os.path.join(RUN, "node-http.sock"), "127.0.0.1:9325")
"""Where the units of systemd, and those of Kubernetes, have the pages served."""

_SECONDS = 2.0
_LARGEST = 8 << 20  # bytes of a page
_MOST, _LONGEST = 200, 1000  # sentences of a page, and characters of each
_SYSTEMD = "/run/systemd/system"
_PROPERTIES = "LoadState,ActiveState,MainPID"


@dataclass(frozen=True)
class Unit:
    """What systemd says of a unit: `state` is "active", "failed", ..., "" if it does not know the unit."""

    state: str = ""
    pid: int = 0


@dataclass(frozen=True)
class Service:
    """The agent or the daemon.

    `pid`: 0 if it is not known. `unit`: systemd's state of its unit, "" without one. `is_waiting`: it does not run, and
    systemd starts it with the next call. `where`: where its pages are, "" if none are found there. `pages`: their JSON
    by path. `is_ready`: None without pages. `problems`: sentences.
    """

    name: str
    is_running: bool = False
    pid: int = 0
    unit: str = ""
    is_waiting: bool = False
    where: str = ""
    is_ready: bool | None = None
    pages: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def read_agent(path: str = SOCKET, places: Iterable[str] = AGENT_PAGES) -> Service:
    """The agent. `path`: its socket. A socket in which systemd listens for it is left alone, or that would start it."""
    unit, listening = _units(f"{AGENT}.service", f"{AGENT}.socket")
    if listening.state == "active" and unit.state in ("inactive", "failed"):
        failed = (f"{AGENT}.service has failed; `systemctl status {AGENT}` tells why",)
        return Service(AGENT, unit=unit.state, is_waiting=True, problems=failed if unit.state == "failed" else ())
    problem, pid = _greeting(path)
    if problem == _NOBODY:
        return Service(AGENT, unit=unit.state, problems=_absent(AGENT, unit))
    return _with_pages(AGENT, unit, pid, ("/healthz", "/readyz", "/status"), places, [problem] if problem else [])


def read_daemon(pid_file: str = PID_FILE, places: Iterable[str] = DAEMON_PAGES) -> Service:
    """The daemon. `pid_file`: the file that it locks."""
    (unit,) = _units(f"{DAEMON}.service")
    if not is_running(pid_file):
        return Service(DAEMON, unit=unit.state, problems=_absent(DAEMON, unit))
    return _with_pages(DAEMON, unit, _number_in(pid_file), ("/healthz", "/readyz", "/status", "/policies"), places, [])


def fetch(where: str, page: str) -> tuple[int, bytes] | None:
    """Status and body of a page at `where`, a path or HOST:PORT; None if nothing of slash24 answers within seconds."""
    from http.client import HTTPConnection, HTTPException

    connection = HTTPConnection("localhost", timeout=_SECONDS)
    with suppress(OSError, HTTPException, ValueError), closing(connection):
        connection.sock = _connect(where)
        connection.request("GET", page)
        response = connection.getresponse()
        if (response.getheader("Server") or "").startswith("slash24"):
            body = response.read(_LARGEST + 1)
            return None if len(body) > _LARGEST else (response.status, body)
    return None


def _connect(where: str) -> socket.socket:
    if not where.startswith("/"):
        host, _, port = where.rpartition(":")
        return socket.create_connection((host, int(port)), timeout=_SECONDS)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.settimeout(_SECONDS)
        made.connect(where)
    except BaseException:
        made.close()
        raise
    return made


def _with_pages(
    name: str, unit: Unit, pid: int, wanted: Iterable[str], places: Iterable[str], problems: list[str]
) -> Service:
    """A service that runs, with what its pages say."""
    where, pages, is_ready = _read_pages(wanted, places)
    if "/readyz" in pages:
        problems += _sentences(pages["/readyz"].get("problems"))
    for page in ("/healthz", "/readyz"):
        said = pages.get(page, {}).get("problem" if page == "/healthz" else "message")
        if not is_ready and isinstance(said, str) and said:
            problems.insert(0, said[:_LONGEST])
    told = tuple(dict.fromkeys(problems))
    at = {"where": where, "is_ready": is_ready, "pages": pages}
    return Service(name, is_running=True, pid=pid or unit.pid, unit=unit.state, problems=told, **at)


def _read_pages(
    wanted: Iterable[str], places: Iterable[str]
) -> tuple[str, dict[str, Mapping[str, object]], bool | None]:
    """Where the pages are, those that are JSON objects, and whether the service is ready, as it says."""
    for where in places:
        pages, is_ready = {}, None
        for page in wanted:
            found = fetch(where, page)
            if found is None:
                break
            status, body = found
            if status in (200, 503):
                pages[page] = _object(body)
            if page == "/readyz":
                is_ready = status == 200
        if pages:
            return where, pages, is_ready
    return "", {}, None


def _object(body: bytes) -> dict[str, object]:
    with suppress(ValueError, RecursionError):
        value = json.loads(body)
        if isinstance(value, dict):
            return value
    return {}


def _sentences(value: object) -> list[str]:
    told = value[:_MOST] if isinstance(value, list) else []
    return [one[:_LONGEST] for one in told if isinstance(one, str)]


_NOBODY = "nobody listens"
_NO_LISTENER = (ConnectionRefusedError, FileNotFoundError, NotADirectoryError)


def _greeting(path: str) -> tuple[str, int]:
    """Why the socket gives no greeting of an agent, "" if it does, _NOBODY without one; the listener's process ID."""
    from agent.wire import MAGIC

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(_SECONDS)
        try:
            caller.connect(path)
            peer = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            pid = int.from_bytes(peer[:4], "little")
            is_agent = caller.recv(len(MAGIC), socket.MSG_WAITALL) == MAGIC
        except _NO_LISTENER:
            return _NOBODY, 0
        except OSError as error:
            return f"the agent's socket {path} does not answer: {error.strerror or error}", 0
    if not is_agent:
        return f"what listens at {path} is no agent of slash24", 0
    return "", 0 if pid == 1 else pid  # systemd's, which has bound it


def _units(*names: str) -> list[Unit]:
    """What systemd says of units, in their order; nothing where it does not run."""
    unknown = [Unit() for _ in names]
    if not os.path.isdir(_SYSTEMD):
        return unknown
    command = ("systemctl", "show", f"--property={_PROPERTIES}", *names)
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return unknown
    blocks = done.stdout[:_LARGEST].decode("utf-8", "replace").strip().split("\n\n")
    return [_unit(block) for block in blocks] if len(blocks) == len(names) else unknown


def _unit(block: str) -> Unit:
    said = dict(line.partition("=")[::2] for line in block.splitlines())
    if said.get("LoadState") != "loaded":
        return Unit()
    pid = said.get("MainPID", "")
    return Unit(said.get("ActiveState", ""), int(pid) if pid.isascii() and pid.isdecimal() else 0)


def _absent(name: str, unit: Unit) -> tuple[str, ...]:
    """A service that does not run need not: only if its unit wants it to."""
    if unit.state not in ("active", "activating", "failed"):
        return ()
    return (f"{name}.service is {unit.state}, but does not answer; `systemctl status {name}` tells more",)


def _number_in(path: str) -> int:
    with suppress(OSError, ValueError), open(path, "rb") as file:
        return int(file.read(20))
    return 0
