"""Which containers the runtimes of this node know, by their own command-line tools, if these are installed."""

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from cli.facts.runtimes import Runtime, find_runtimes
from spec.jsontext import loads

_SECONDS = 10
_FOLDERS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LARGEST = 64 << 20  # bytes


@dataclass(frozen=True)
class Container:
    """A pod sandbox of the CRI, or a container of podman: its ID, as CNI calls it, and its name in words."""

    id: str
    name: str
    runtime: str


@dataclass(frozen=True)
class Known:
    """The containers that the runtimes know, by ID; and a sentence for each runtime that could not be asked."""

    containers: Mapping[str, Container]
    unasked: tuple[str, ...]


def ask_runtimes(runtimes: Iterable[Runtime] | None = None) -> Known:
    """Ask all that run. Never raises."""
    found: dict[str, Container] = {}
    unasked = []
    for runtime in find_runtimes() if runtimes is None else runtimes:
        if not (runtime.running and runtime.cni_version):
            continue
        tool, *words = _command(runtime)
        path = shutil.which(tool, path=os.pathsep.join(filter(None, (os.environ.get("PATH"), _FOLDERS))))
        try:
            if not path:
                raise OSError(f"{tool} is not installed")
            read = _of_cri if runtime.socket else _of_podman
            found |= {one.id: one for one in read(runtime.name, loads(_output([path, *words])))}
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            unasked.append(f"{runtime.name} was not asked for its containers: {error}")
    return Known(found, tuple(unasked))


def _command(runtime: Runtime) -> list[str]:
    if runtime.socket:
        endpoint = ["--timeout", f"{_SECONDS}s", "--runtime-endpoint", f"unix://{runtime.socket}"]
        return ["crictl", *endpoint, "pods", "--output", "json"]
    return ["podman", "ps", "--all", "--no-trunc", "--format", "json"]


def _output(argv: list[str]) -> bytes:
    done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=_SECONDS + 1)
    if done.returncode:
        first = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise OSError(f"{os.path.basename(argv[0])} failed: {first[:200] or f'exit status {done.returncode}'}")
    if len(done.stdout) > _LARGEST:
        raise OSError(f"{os.path.basename(argv[0])} printed more than {_LARGEST} bytes")
    return done.stdout


def _of_cri(runtime: str, document: object) -> Iterator[Container]:
    """The sandboxes of `crictl pods`, also those that are not ready: the runtime will delete them itself."""
    for one in _objects(document.get("items") if isinstance(document, dict) else None):
        about = one.get("metadata")
        namespace, name = (_text(about.get(key)) if isinstance(about, dict) else "" for key in ("namespace", "name"))
        if identity := _text(one.get("id")):
            state = _text(one.get("state")).removeprefix("SANDBOX_").lower()
            yield Container(identity, f"sandbox of {namespace}/{name}, {state or 'in an unknown state'}", runtime)


def _of_podman(runtime: str, document: object) -> Iterator[Container]:
    for one in _objects(document):
        names = one.get("Names")
        name = next((each for each in names if isinstance(each, str)), "") if isinstance(names, list) else ""
        if identity := _text(one.get("Id")):
            yield Container(identity, f"container {name}, {_text(one.get('State')) or 'in an unknown state'}", runtime)


def _objects(value: object) -> list[dict]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
