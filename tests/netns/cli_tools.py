"""Runs `slash24` on a node of a test."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

from tests.conftest import ROOT
from tests.netns.cni import PATH
from tests.netns.node import Node, Pod, wait_until

COMMAND = ROOT / "dist" / "bin" / "slash24"
ALONE = ("unshare", "--mount", "--pid", "--fork", "--mount-proc")
"""Before a command: the processes of other tests, and so their namespaces, are not to be seen."""


def slash24(node: Node, *words: str, prefix: Sequence[str] = ()) -> tuple[int, str]:
    """The exit status of a command line, and what it printed; stderr must be without a traceback."""
    done = node.run([*prefix, COMMAND, *words], env={"PATH": PATH, "LC_ALL": "C.UTF-8"}, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def document(node: Node, *words: str, prefix: Sequence[str] = ()) -> tuple[int, object]:
    """The exit status, and the document of `--json`."""
    status, text = slash24(node, *words, "--json", prefix=prefix)
    return status, json.loads(text)


@contextmanager
def outlived(pod: Pod) -> Iterator[Popen]:
    """A process in the pod's namespace, whose name and path are gone meanwhile."""
    with pod.start(["sleep", "600"]) as process:
        try:
            assert wait_until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")
            pod.vanish()
            yield process
        finally:
            process.kill()
