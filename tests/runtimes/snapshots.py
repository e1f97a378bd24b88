"""What an installation may change on a node."""

import os
from pathlib import Path

from tests.runtimes.machine import Machine

PLACES = ("/opt", "/usr/lib/cni", "/usr/libexec/cni", "/usr/local/bin", "/usr/local/share", "/etc/cni", "/etc/systemd")
PLACES += ("/var/lib/rancher", "/var/lib/cni", "/var/snap", "/srv", "/run")

State = dict[str, str | tuple[int, int, int]]


def state(machine: Machine, *more: str) -> State:
    """Every file below PLACES and `more`: what it links to, or mode, size and time of change; and the diversions."""
    found: State = {}
    for place in (*PLACES, *more):
        for at, folders, names in os.walk(machine.path(place)):
            for path in (Path(at, name) for name in (*folders, *names)):
                if path.is_symlink():
                    found[str(path)] = str(path.readlink())
                elif path.is_file():
                    status = path.stat()
                    found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    diversions = machine.run(["dpkg-divert", "--list"]).stdout
    return found | dict.fromkeys(diversions.splitlines(), "")
