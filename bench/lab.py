"""The environment for measurements: namespaces of its own, pods, and timed calls of plugins."""

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
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OURS = ROOT / "dist" / "bin"
REFERENCE = ROOT / "build" / "reference" / "bin"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

# After a DEL the kernel goes on destroying the links, under a lock that the next call would wait for.
SETTLE_SECONDS = 0.05

_CLONE_NEWNS, _CLONE_NEWNET = 0x00020000, 0x40000000


def enter() -> None:
    """Give this process its own network and mount namespaces, which vanish when it ends."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS | _CLONE_NEWNET):
        sys.exit(f"bench: needs root, for namespaces ({os.strerror(ctypes.get_errno())})")
    run("mount", "--make-rprivate", "/")
    run("mount", "-t", "sysfs", "sysfs", "/sys")
    for folder in ("/run", "/var/lib"):
        run("mount", "-t", "tmpfs", "bench", folder)
    run("ip", "link", "set", "lo", "up")


def run(*words: str) -> None:
    """Run a command; raises an exception if it fails."""
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def compiled(source: Path, program: Path) -> Path:
    """Compile a C program with the launcher's compiler, or with gcc; returns it."""
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", f"{platform.machine()}-linux-musl"]
    compiler = zig if find_spec("ziglang") else ["gcc"]  # its C library starts faster than glibc
    program.parent.mkdir(parents=True, exist_ok=True)
    options = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", "-static"]
    subprocess.run([*compiler, *options, "-o", str(program), str(source)], check=True)
    return program


def add_netns(names: Sequence[str]) -> None:
    """Create named network namespaces in one process."""
    batch = Path("/run/netns.batch")
    batch.write_text("".join(f"netns add {name}\n" for name in names))
    run("ip", "-batch", str(batch))


def silence(names: Sequence[str]) -> None:
    """Disable router solicitations in these namespaces, which would go to all other pods; old pods send none."""
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
    """The machine, in a few words."""
    model = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    cpus = f"{os.cpu_count()} CPUs" + (f" ({model.group(1)})" if model else "")
    return f"Linux {platform.release()}, {cpus}, Python {platform.python_version()}"


@dataclass(frozen=True)
class Suite:
    """Plugins to measure: the executables in `folder`, called with `environ` in addition to a runtime's variables.

    `agent_cpu` returns the CPU time of their agent so far, in milliseconds.
    """

    folder: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    agent_cpu: Callable[[], float] = float

    def environment(self, verb: str, pod: str) -> dict[str, str]:
        """The variables that a runtime sets for a call for eth0 of the named netns."""
        env = {"CNI_COMMAND": verb, "CNI_CONTAINERID": pod, "CNI_NETNS": f"/run/netns/{pod}", "CNI_IFNAME": "eth0"}
        return env | {"CNI_PATH": str(self.folder), "PATH": PATH} | self.environ


@dataclass(frozen=True)
class Call:
    """One call of a plugin: `ms` from start to end, `cpu` time in ms, and its output."""

    ms: float
    cpu: float
    output: str


def call(suite: Suite, verb: str, conf: Mapping[str, object], pod: str, *, under: tuple[str, ...] = ()) -> Call:
    """Call the plugin that `conf` names for eth0 of the named netns, as a runtime does; exits if it fails.

    `under`: a command to run the plugin under, such as strace.
    """
    argv = [*under, str(suite.folder / str(conf["type"]))]
    return timed(argv, suite.environment(verb, pod), json.dumps(conf).encode())


def timed(argv: Sequence[str], env: Mapping[str, str], given: bytes = b"") -> Call:
    """Run a program with the given stdin, after a pause for the kernel; exits if it fails."""
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
    """Milliseconds of CPU time of a process that has ended, and of its children."""
    return (usage.ru_utime + usage.ru_stime) * 1000
