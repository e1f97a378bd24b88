"""Nodes and pods for tests: network namespaces with private folders, which vanish when the holding process ends."""

import ctypes
import json
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from tests.netns.way import Calls

CLONE_NEWNET, CLONE_NEWNS = 0x40000000, 0x00020000

# What a plugin writes to disk (leases, caches, names of namespaces, locks) goes to these two tmpfs; /sys is mounted
# again because a sysfs shows the links of the namespace that mounted it.
_HOLD = """
set -e
mount -t sysfs sysfs /sys
mount -t tmpfs node /run
mount -t tmpfs node /var/lib
mkdir -p /run/netns /var/lib/cni
ip link set lo up
echo ready
exec cat
"""

NODE_V4, OUTSIDE_V4 = "192.0.2.1", "192.0.2.2"
NODE_V6, OUTSIDE_V6 = "2001:db8:1::1", "2001:db8:1::2"


def wait_until(predicate: Callable[[], object], *, timeout: float = 15.0) -> bool:
    """Whether `predicate` becomes true within `timeout` seconds; polls every 50 ms."""
    deadline = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


class Host:
    """A network namespace that a test can inspect: the node itself, a pod, or a host outside."""

    def __init__(self, holder: int, netns: str) -> None:
        """`holder`: process whose mount namespace is used; `netns`: path of the network namespace as seen from here."""
        self._enter = ["nsenter", f"--mount=/proc/{holder}/ns/mnt", f"--net={netns}", "--"]
        self._netns = netns

    def start(self, argv: Sequence[str | Path], **options: object) -> subprocess.Popen:
        """Start a program here; `options` as for subprocess.Popen."""
        return subprocess.Popen([*self._enter, *map(str, argv)], **options)

    def run(
        self, argv: Sequence[str | Path], *, stdin: str = "", env: Mapping[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess:
        """Run a program here and wait for it; if it fails, AssertionError with its stderr, unless `check` is False."""
        done = subprocess.run([*self._enter, *map(str, argv)], input=stdin, env=env, text=True, capture_output=True)
        assert not check or done.returncode == 0, f"{argv} exited {done.returncode}: {done.stdout}{done.stderr}"
        return done

    def ip(self, *words: str) -> list[dict]:
        """The output of `ip -j -d WORDS`."""
        return json.loads(self.run(["ip", "-j", "-d", *words]).stdout or "[]")

    def links(self) -> dict[str, dict]:
        """The links here by name, as `ip` describes them."""
        return {link["ifname"]: link for link in self.ip("link")}

    def addresses(self, link: str) -> set[str]:
        """The addresses of a link in CIDR notation, without link-local ones."""
        return {
            f"{info['local']}/{info['prefixlen']}"
            for entry in self.ip("addr", "show", "dev", link)
            for info in entry["addr_info"]
            if info["scope"] != "link"
        }

    def routes(self) -> dict[str, dict]:
        """The unicast routes of the main table by destination, including "default" and "default6"."""
        found = {("default6" if r["dst"] == "default" else r["dst"]): r for r in self.ip("-6", "route")}
        return found | {r["dst"]: r for r in self.ip("-4", "route")}

    def sysctl(self, name: str) -> str:
        """The value of a /proc/sys/net entry as this namespace sees it."""
        return self.run(["cat", f"/proc/sys/net/{name}"]).stdout.strip()

    def reaches(self, address: str, *, timeout: float = 3.0) -> bool:
        """Whether an ICMP echo to `address` is answered; retried for `timeout` seconds."""
        return wait_until(
            lambda: self.run(["ping", "-n", "-c1", "-W1", address], check=False).returncode == 0, timeout=timeout
        )

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Put the calling thread into this network namespace; a socket created inside stays in it."""
        setns = ctypes.CDLL(None, use_errno=True).setns
        back, there = os.open("/proc/thread-self/ns/net", os.O_RDONLY), os.open(self._netns, os.O_RDONLY)
        try:
            assert setns(there, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            yield
        finally:
            assert setns(back, CLONE_NEWNET) == 0, "the test process is stuck in a foreign network namespace"
            os.close(back)
            os.close(there)

    def socket(self, address: str, kind: str) -> socket.socket:
        """A TCP or UDP ("tcp", "udp") socket in this namespace, in the family of `address`, with a timeout of 2 s."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.inside():
            made = socket.socket(family, {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}[kind])
        made.settimeout(2)
        return made

    def advertise(self, link: str, prefix: str = "2001:db8:77::") -> None:
        """Send a router advertisement (RFC 4861, 4.2) on a link: default route and a /64 prefix. It may get lost."""
        header = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
        option = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 86400, 14400, 0) + socket.inet_pton(socket.AF_INET6, prefix)
        with self.inside(), socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sender:
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            with suppress(OSError):  # fails while the link has no address yet
                sender.sendto(header + option, ("ff02::1", 0, 0, socket.if_nametoindex(link)))


class Pod(Host):
    """A named network namespace of a node."""

    def __init__(self, node: "Node", name: str) -> None:
        super().__init__(node.pid, f"/proc/{node.pid}/root/run/netns/{name}")
        self.node, self.name, self.path = node, name, f"/run/netns/{name}"

    def vanish(self) -> None:
        """Delete the namespace, as a runtime does after the pod has ended."""
        self.node.run(["ip", "netns", "del", self.name])


class Node(Host):
    """A network and mount namespace with private /run and /var/lib, and its pods."""

    def __init__(self) -> None:
        argv = ["unshare", "--net", "--mount", "--propagation", "private", "--", "sh", "-c", _HOLD]
        # The holder ends when its stdin closes, so it cannot outlive even a killed test run.
        self._holder = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self._holder.pid
        assert self._holder.stdout.readline() == "ready\n", "no node: is this root, with mount and network namespaces?"
        super().__init__(self.pid, f"/proc/{self.pid}/ns/net")
        self._calls = Calls(super().start)

    def start(self, argv: Sequence[str | Path], **options: object) -> subprocess.Popen:
        """As Host.start; calls of our plugins are cold or go to an agent, as `--way` selects."""
        return super().start(argv, **{**options, "env": self._calls.environ(argv, options.get("env"), ends=False)})

    def run(
        self, argv: Sequence[str | Path], *, stdin: str = "", env: Mapping[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess:
        """As Host.run; calls of our plugins are cold or go to an agent, as `--way` selects."""
        return super().run(argv, stdin=stdin, env=self._calls.environ(argv, env, ends=True), check=check)

    def path(self, absolute: str) -> Path:
        """The path of a node's file as the test sees it."""
        return Path(f"/proc/{self.pid}/root{absolute}")

    def pod(self, name: str) -> Pod:
        """A new, empty network namespace /run/netns/NAME, with its loopback down, as a runtime creates it."""
        self.run(["ip", "netns", "add", name])
        return Pod(self, name)

    def outside(self) -> Pod:
        """A host behind the node's link wan0, with 192.0.2.2 and 2001:db8:1::2 and the node as its default gateway."""
        host = self.pod("outside")
        self.run(["ip", "link", "add", "wan0", "type", "veth", "peer", "name", "eth0", "netns", "outside"])
        for side, link, addresses in ((self, "wan0", (NODE_V4, NODE_V6)), (host, "eth0", (OUTSIDE_V4, OUTSIDE_V6))):
            # Duplicate address detection would delay the first IPv6 packets by a second or two.
            side.run(["sh", "-c", f"echo 0 >/proc/sys/net/ipv6/conf/{link}/accept_dad"])
            side.run(["ip", "link", "set", link, "up"])
            side.run(["ip", "addr", "add", f"{addresses[0]}/24", "dev", link])
            side.run(["ip", "addr", "add", f"{addresses[1]}/64", "dev", link])
        host.run(["ip", "route", "add", "default", "via", NODE_V4])
        host.run(["ip", "route", "add", "default", "via", NODE_V6])
        return host

    def ruleset(self) -> str:
        """Every nftables rule of the node, including those of iptables."""
        return self.run(["nft", "list", "ruleset"]).stdout

    def close(self) -> None:
        """End the holder, and with it the namespaces and all in them. AssertionError if the node's agent misbehaved."""
        try:
            self._calls.close()
        finally:
            self._holder.stdin.close()
            self._holder.wait(timeout=10)
            self._holder.stdout.close()


def ask(client: Host, server: Host, address: str, port: int, kind: str, *, to: tuple[str, int] | None = None) -> str:
    """Send a word from `client` to `server` at `address` and `port` and back; return the client address the server saw.

    `to` is the client's destination if it is another (a forwarded port). Raises OSError if nothing gets through.
    """
    with server.socket(address, kind) as listener, client.socket((to or (address, port))[0], kind) as caller:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        if kind == "udp":
            caller.connect(to or (address, port))
            word, seen = _receive(listener, lambda: caller.send(b"word"))
            listener.sendto(word.upper(), seen)
        else:
            listener.listen()
            caller.connect(to or (address, port))
            caller.send(b"word")
            with listener.accept()[0] as connection:
                connection.settimeout(2)
                seen = connection.getpeername()
                connection.send(connection.recv(16).upper())
        assert caller.recv(16) == b"WORD"
    return seen[0]


def _receive(listener: socket.socket, send: Callable[[], object]) -> tuple[bytes, tuple]:
    """The datagram that `send` sends, and its source; sent repeatedly for 3 s, until IPv6 neighbours are resolved."""
    listener.settimeout(0.3)
    for _ in range(9):
        send()
        with suppress(TimeoutError):
            return listener.recvfrom(16)
    send()
    return listener.recvfrom(16)


_SHARED = ("/var/lib/cni", "/run/cni", "/run/netns", "/etc/cni")
"""Folders of a machine that plugins and runtimes write to."""


@cache
def leave_machine() -> None:
    """Move this process (this thread, and all that it starts) to new network and mount namespaces, once and for good.

    Changes that others make on the machine are not visible there, and the shared folders are empty.
    """
    unshare = ctypes.CDLL(None, use_errno=True).unshare
    assert unshare(CLONE_NEWNET | CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
    empty = [["mount", "-t", "tmpfs", "tests", folder] for folder in _SHARED if os.path.isdir(folder)]
    for argv in (["mount", "--make-rprivate", "/"], *empty, ["ip", "link", "set", "lo", "up"]):
        subprocess.run(argv, check=True)


def machine_state() -> dict[str, str]:
    """The state of the machine that the tests must leave unchanged, as text."""
    commands = {
        "links": "ip -o link | sed 's/ state [A-Z]*//'",
        "namespaces": "ip netns list",
        "nftables": "nft list ruleset",
        "iptables": "iptables-save; ip6tables-save",
        "mounts": "cut -d' ' -f4- /proc/self/mountinfo",
        "forwarding": "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding",
        "kernel": "cat /proc/sys/vm/overcommit_memory /proc/sys/kernel/panic /proc/sys/kernel/panic_on_oops",
        "files": f"ls -R {' '.join(_SHARED)} 2>&1",
        "holders": f"pgrep -P {os.getpid()} unshare; pgrep -P {os.getpid()} cat; true",
    }
    runs = {name: subprocess.run(["sh", "-c", line], capture_output=True, text=True) for name, line in commands.items()}
    return {name: run.stdout for name, run in runs.items()}
