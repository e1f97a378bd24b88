"""A control group of its own for a node, in every hierarchy of the machine: version 1, 2, or both beside each other."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.netns.node import wait_until

_CPUSET = ("cpuset.cpus", "cpuset.mems")
"""What a new group of version 1 lacks, without which it takes no process."""

_SYSTEM = "sys/fs/cgroup/system"
"""Of version 2: the group of all programs that are not in pods."""


@dataclass(frozen=True)
class Hierarchy:
    """A hierarchy, and where it is mounted; `options` as for mount, "" for version 2."""

    top: Path
    options: str


def hierarchies() -> list[Hierarchy]:
    """The hierarchies with controllers: version 2 if it has the controller of memory, else those of version 1."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    found = []
    for fields in mounts:
        kind, options = fields[fields.index("-") + 1], fields[-1].split(",")
        if kind == "cgroup2" and "memory" in Path(fields[4], "cgroup.controllers").read_text().split():
            return [Hierarchy(Path(fields[4]), "")]
        if kind == "cgroup":
            found.append(Hierarchy(Path(fields[4]), _options(options)))
    return found


def _options(words: list[str]) -> str:
    """The options that select the same hierarchy again: its controllers, or its name."""
    names = [word for word in words if word.startswith("name=")]
    own = [word for word in words if word not in ("rw", "ro", "xattr", "clone_children") and "=" not in word]
    return ",".join(["none", *names] if names else own)


class ControlGroup:
    """The groups, made; `close` removes them with all that are in them."""

    def __init__(self, name: str) -> None:
        self.groups = {hierarchy: hierarchy.top / name for hierarchy in hierarchies()}
        for hierarchy, group in self.groups.items():
            if not hierarchy.options:
                _delegate(hierarchy.top)
            group.mkdir()
            for file in _CPUSET if "cpuset" in hierarchy.options.split(",") else ():
                (group / file).write_text((hierarchy.top / file).read_text())

    def mounts(self) -> str:
        """Commands of a shell that mount the hierarchies in /sys/fs/cgroup of the new root that is the current folder.

        They run in a namespace of control groups whose root the node's group is. In version 2, a group whose children
        have controllers has no processes of its own.
        """
        lines = []
        for hierarchy in self.groups:
            if not hierarchy.options:
                lines = ["mount -t cgroup2 node sys/fs/cgroup", f"mkdir {_SYSTEM}", f"echo 0 >{_SYSTEM}/cgroup.procs"]
                return "\n".join(lines)
            folder = f"sys/fs/cgroup/{hierarchy.top.name}"
            lines.append(f"mkdir {folder}\nmount -t cgroup -o {hierarchy.options} node {folder}\n")
        return "mount -t tmpfs -o mode=755 node sys/fs/cgroup\n" + "".join(lines)

    def joining(self) -> str:
        """Commands of a shell on the node that move it into the groups."""
        own = _SYSTEM if any(not hierarchy.options for hierarchy in self.groups) else "sys/fs/cgroup/*"
        return f"for each in /{own}/cgroup.procs; do echo $$ >$each; done"

    def close(self) -> None:
        """Remove the groups; their processes have ended."""
        for group in self.groups.values():
            assert wait_until(lambda group=group: _removed(group), timeout=30), f"{group} cannot be removed"


def _delegate(top: Path) -> None:
    """Give the groups of version 2 all controllers that there are."""
    wanted = (top / "cgroup.controllers").read_text().split()
    missing = set(wanted) - set((top / "cgroup.subtree_control").read_text().split())
    (top / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in sorted(missing)))


def _removed(group: Path) -> bool:
    subprocess.run(["find", group, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"], capture_output=True)
    return not os.path.exists(group)
