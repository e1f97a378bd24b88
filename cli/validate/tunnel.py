"""The tunnel's VNI and UDP port: does something else have them?"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from cli.validate.findings import Finding, not_applicable, or_ok, problem
from cli.validate.node import Facts
from linux.rtnl import vxlan
from state.files import read_start

_TABLES = ("/proc/thread-self/net/udp", "/proc/thread-self/net/udp6")
_LARGEST = 16 << 20  # bytes of a table
_MOST_PROCESSES = 20_000


@dataclass(frozen=True)
class Socket:
    """A UDP socket: its port and inode."""

    port: int
    inode: int


def check(facts: Facts) -> Iterable[Finding]:
    """Only this network's tunnel has them."""
    if not facts.vtep:
        return [not_applicable("there is no tunnel")]
    rival = vxlan.find_rival(facts.host, facts.vtep)
    port = facts.vtep.port
    inodes = {one.inode for path in _TABLES for one in sockets_in(_text(path)) if one.port == port}
    found = judge(rival.strerror if rival else "", port, holders(inodes) if inodes else [])
    return or_ok(found, f"VNI {facts.vtep.vni} and UDP port {port} are this network's")


def judge(rival: str, port: int, programs: Iterable[str]) -> Iterator[Finding]:
    """`rival`: a sentence about another device, or "". `programs`: names of those with a socket on the port."""
    other = 'set another "port" or "vni" on all nodes (/etc/slash24/slash24.toml, or the network file)'
    if rival:
        yield problem(rival, f"delete that device (ip link delete), or {other}")
    for program in programs:
        yield problem(f"UDP port {port} is taken by {program}", f"stop it, or {other}")


def sockets_in(text: str) -> Iterator[Socket]:
    """The sockets of a table of the kernel's: /proc/net/udp."""
    for line in text.splitlines()[1:]:
        words = line.split()
        with suppress(ValueError, IndexError):
            yield Socket(int(words[1].rpartition(":")[2], 16), int(words[9]))


def _text(path: str) -> str:
    with suppress(OSError), open(path, encoding="ascii") as file:
        return file.read(_LARGEST)
    return ""


def holders(inodes: Iterable[int]) -> list[str]:
    """The processes that have one of these sockets; those of the kernel, such as a vxlan device's, have none."""
    wanted, found = {f"socket:[{inode}]" for inode in inodes}, []
    for number in [name for name in os.listdir("/proc") if name.isdecimal()][:_MOST_PROCESSES]:
        with suppress(OSError):
            folder = f"/proc/{number}/fd"
            if any(os.readlink(os.path.join(folder, name)) in wanted for name in os.listdir(folder)):
                name = read_start(f"/proc/{number}/comm", 64).decode("utf-8", "replace").strip()
                found.append(f"{name} (process {number})")
    return found
