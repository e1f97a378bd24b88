"""A place to measure in: namespaces of the process's own, a pod, and calls of plugins timed from start to end."""

import ctypes
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OURS = ROOT / "dist" / "bin"
REFERENCE = ROOT / "build" / "reference" / "bin"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

# After a DEL the kernel takes the links apart for a while, under a lock that the next call would have to wait for.
SETTLE_SECONDS = 0.05

_CLONE_NEWNS, _CLONE_NEWNET = 0x00020000, 0x40000000


def enter() -> None:
    """Leave the machine: from here on this process has a network and mounts of its own, gone when it ends."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS | _CLONE_NEWNET):
        sys.exit(f"bench: needs root, for namespaces ({os.strerror(ctypes.get_errno())})")
    run("mount", "--make-rprivate", "/")
    run("mount", "-t", "sysfs", "sysfs", "/sys")
    for folder in ("/run", "/var/lib"):
        run("mount", "-t", "tmpfs", "bench", folder)
    run("ip", "link", "set", "lo", "up")


def run(*words: str) -> None:
    """Run a command that has to succeed."""
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def add_netns(names: Sequence[str]) -> None:
    """Make named network namespaces, all by one process."""
    batch = Path("/run/netns.batch")
    batch.write_text("".join(f"netns add {name}\n" for name in names))
    run("ip", "-batch", str(batch))


def silence(names: Sequence[str]) -> None:
    """Have no pod in these namespaces ask for IPv6 routers, each time of all others: as one that did so long ago."""
    libc = ctypes.CDLL(None)
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    for name in names:
        netns = os.open(f"/run/netns/{name}", os.O_RDONLY)
        libc.setns(netns, _CLONE_NEWNET)
        os.close(netns)
        Path("/proc/sys/net/ipv6/conf/default/router_solicitations").write_text("0")
    libc.setns(own, _CLONE_NEWNET)
    os.close(own)


def machine() -> str:
    """What was measured on, in a few words."""
    model = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    cpus = f"{os.cpu_count()} CPUs" + (f" ({model.group(1)})" if model else "")
    return f"Linux {platform.release()}, {cpus}, Python {platform.python_version()}"


@dataclass(frozen=True)
class Suite:
    """Plugins to be measured: the executables of `folder`, called with `environ` besides what a runtime sets.

    `agent_cpu` tells the milliseconds of CPU time so far of a process that works for them.
    """

    folder: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    agent_cpu: Callable[[], float] = float

    def environment(self, verb: str, pod: str) -> dict[str, str]:
        """What a runtime sets for a call for eth0 of the named netns."""
        env = {"CNI_COMMAND": verb, "CNI_CONTAINERID": pod, "CNI_NETNS": f"/run/netns/{pod}", "CNI_IFNAME": "eth0"}
        return env | {"CNI_PATH": str(self.folder), "PATH": PATH} | self.environ


@dataclass(frozen=True)
class Call:
    """One call of a plugin: `ms` from start to end, `cpu` ms of work on a processor, and what it printed."""

    ms: float
    cpu: float
    output: str


def call(suite: Suite, verb: str, conf: Mapping[str, object], pod: str, *, under: tuple[str, ...] = ()) -> Call:
    """Call the plugin `conf` names, as a runtime does, for eth0 of the named netns; exits if the plugin fails.

    `under`: a command to run the plugin under, such as strace.
    """
    argv = [*under, str(suite.folder / str(conf["type"]))]
    return timed(argv, suite.environment(verb, pod), json.dumps(conf).encode())


def timed(argv: Sequence[str], env: Mapping[str, str], given: bytes = b"") -> Call:
    """Run a program on the given stdin, when the kernel is at rest; exits if it fails."""
    stdin, stdout = (os.memfd_create(name) for name in ("stdin", "stdout"))
    os.pwrite(stdin, given, 0)
    time.sleep(SETTLE_SECONDS)
    started = time.perf_counter()
    child = os.posix_spawnp(
        argv[0], argv, env, file_actions=[(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)]
    )
    _, status, usage = os.wait4(child, 0)
    ms = (time.perf_counter() - started) * 1000
    output = os.pread(stdout, 1 << 20, 0).decode()
    os.close(stdin)
    os.close(stdout)
    if status:
        sys.exit(f"bench: {' '.join(argv)} ({env.get('CNI_COMMAND', '')}) failed: {output}")
    return Call(ms=ms, cpu=cpu_of(usage), output=output)


def cpu_of(usage: resource.struct_rusage) -> float:
    """Milliseconds of CPU time of a process that has ended, and of those that it waited for."""
    return (usage.ru_utime + usage.ru_stime) * 1000
