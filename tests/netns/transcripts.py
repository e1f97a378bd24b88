"""Transcripts in the documentation: blocks of the language `console`, run on a node as their readers have it.

    build/venv/bin/python -m tests.netns.transcripts     # write what the commands print now into the pages

A line that begins with "$ " is a command; what follows is what it prints. What differs from run to run (ages, times,
counters) is compared as if it were the same.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT
from tests.netns import agent_tools, daemon_tools
from tests.netns.cni import PATH
from tests.netns.daemon_tools import write_record
from tests.netns.node import Node, wait_until

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BIN, NET_D = "/opt/cni/bin", "/etc/cni/net.d"
CONFLIST = f"{NET_D}/10-slash24.conflist"
CONFIG = """\
mode = "vxlan"
cluster = ["10.244.0.0/16"]
registry = "file:///var/lib/slash24/nodes"
node = "n1"

[policy]
documents = "/etc/slash24/policies"
"""
PODS = ("web", "api", "db")
POLICY = """\
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: api}}}], ports: [{port: 5432}]}]
"""
_VARYING = (
    (r"\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b", "MAC"),  # first: "5d" in one is no age
    (r"\b\d+(\.\d+)? ?(ms|s|min|m|h|d|seconds?|minutes?|hours?|days?)\b( ago)?", "AGE"),
    (r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?(\.\d+)?Z?\b", "TIME"),
    (r"\b\d+(\.\d+)? ?([kKMG]i?)?B\b", "BYTES"),
    (r"\bpid \d+", "PID"),
    (r" +", " "),
)


@dataclass(frozen=True)
class Block:
    """A block of a page: its lines between the fences, and where they are."""

    page: Path
    first: int
    lines: tuple[str, ...]

    @property
    def commands(self) -> list[str]:
        """What is to be run, in this order."""
        return [line.removeprefix("$ ") for line in self.lines if line.startswith("$ ")]


def blocks() -> Iterator[Block]:
    """All blocks of all pages."""
    for page in DOCUMENTS:
        lines = page.read_text().splitlines()
        starts = [number + 1 for number, line in enumerate(lines) if line.strip() == "```console"]
        for first in starts:
            yield Block(page, first, tuple(lines[first : lines.index("```", first)]))


@contextmanager
def scene(bin_dir: Path) -> Iterator[Node]:
    """Node n1 of a cluster of three, with all of slash24: agent, daemon, a policy, three pods of a shop."""
    with ExitStack() as stack:
        node = Node()
        stack.callback(node.close)
        _furnish(node, bin_dir)
        for name, where in (("slash24-agent", agent_tools.PAGES), ("slash24-node", daemon_tools.PAGES)):
            argv = [f"{BIN}/{name}", "--listen", where]
            service = node.start(argv, env={"PATH": PATH}, stderr=subprocess.DEVNULL, cwd="/")
            stack.callback(service.wait)
            stack.callback(service.kill)
        assert wait_until(node.path(CONFLIST).exists)
        for name in PODS:
            node.pod(name)
            args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={name};K8S_POD_UID={name}-1"
            env = {"PATH": PATH, "CNI_PATH": BIN, "NETCONFPATH": NET_D, "CNI_ARGS": args}
            node.run([ROOT / "build/reference/bin/cnitool", "add", "slash24", f"/run/netns/{name}"], env=env)
        yield node


def _furnish(node: Node, bin_dir: Path) -> None:
    """An uplink, private /etc and /opt, the executables, two other nodes, and the documents of policies."""
    node.outside()
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    for folder in ("etc", "opt"):
        node.run(["mkdir", "-p", f"/run/over/{folder}", f"/run/scratch/{folder}"])
        options = f"lowerdir=/{folder},upperdir=/run/over/{folder},workdir=/run/scratch/{folder}"
        node.run(["mount", "-t", "overlay", "overlay", "-o", options, f"/{folder}"])
    node.run(["sh", "-c", f"rm -rf /etc/cni {BIN}; mkdir -p {NET_D} {BIN} /etc/slash24/policies /run/slash24"])
    node.run([bin_dir / "slash24-node", "--install", BIN])
    for number in (2, 3):
        write_record(node, number, podCIDRs=[f"10.244.{number}.0/24"], addresses=[f"192.0.2.{number}"])
    write_record(node, 1, podCIDRs=["10.244.1.0/24"], addresses=["192.0.2.1"], vtepMAC=None, vni=None, port=None)
    node.path("/etc/slash24/slash24.toml").write_text(CONFIG)
    node.path("/etc/slash24/policies/db.yaml").write_text(POLICY)
    for name in PODS:
        metadata = {"name": name, "namespace": "shop", "labels": {"app": name}, "uid": f"{name}-1"}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": []}}
        node.path(f"/etc/slash24/policies/{name}.json").write_text(json.dumps(pod))


def printed(node: Node, command: str) -> list[str]:
    """What a command prints on stdout and stderr, as lines without trailing blanks."""
    env = {"PATH": f"{BIN}:{PATH}", "LC_ALL": "C.UTF-8"}
    done = node.run(["sh", "-c", f"cd / && {command} 2>&1"], env=env, check=False)
    return [line.rstrip() for line in done.stdout.rstrip("\n").split("\n")]


def transcript(node: Node, block: Block) -> tuple[str, ...]:
    """The lines of a block as they would be now."""
    return tuple(line for command in block.commands for line in (f"$ {command}", *printed(node, command)))


def comparable(lines: tuple[str, ...]) -> list[str]:
    """Lines without what differs from run to run."""
    text = "\n".join(lines)
    for pattern, word in _VARYING:
        text = re.sub(pattern, word, text)
    return text.split("\n")


def main() -> None:
    """Write every block anew."""
    with scene(ROOT / "dist" / "bin") as node:
        for block in reversed([*blocks()]):  # from the end of each page, so that the numbers of lines stay right
            lines = block.page.read_text().splitlines()
            lines[block.first : block.first + len(block.lines)] = transcript(node, block)
            new = block.page.with_name(f".{block.page.name}.new")
            new.write_text("\n".join([*lines, ""]))
            os.replace(new, block.page)
            sys.stderr.write(f"{block.page.name}: {'; '.join(block.commands)}\n")


if __name__ == "__main__":
    main()
