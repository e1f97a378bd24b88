"""Run on a node by a test of undo: the other pod joins the bridge at every step of a pod's ADD, which fails.

`steps HOME NETNS OTHER BRIDGE`: stdin is the configuration; stdout a JSON list with an entry for each step at which
the other pod was added: "at", the exit status of both ADDs, the error of the other's CHECK afterwards. BRIDGE: "fresh",
or a shell command that creates the bridge before each attempt. `join HOME NETNS`: the other's ADD; it prints "blocked"
as soon as it waits for the bridge lock that an undo holds, then its result.
"""

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable

from linux import bridge_lock, sysctls
from linux.netlink.socket import Netlink, NetlinkError
from plugins.__main__ import load
from plugins.pod import host_bridge
from spec.plugin import Suite, serve
from tests.netns.fail_every_step import Refusal, run


def call(verb: str, conf: dict, home: str, netns: str, prev: dict | None = None) -> tuple[int, dict]:
    """Make one call for a pod in this process; return the exit status and what it printed."""
    environ = {"CNI_COMMAND": verb, "CNI_CONTAINERID": os.path.basename(netns), "CNI_NETNS": netns}
    environ |= {"CNI_IFNAME": "eth0", "CNI_PATH": home}
    stdin, out = json.dumps(conf | ({"prevResult": prev} if prev else {})).encode(), io.BytesIO()
    suite = Suite(home=home, load=load)
    plugin = load(conf["type"])
    status = serve(plugin, environ=environ, stdin=io.BytesIO(stdin), stdout=out, stderr=sys.stderr, suite=suite)
    return status, json.loads(out.getvalue() or "{}")


class Joining(Refusal):
    """Refuses one request, or the ADD's last step; the other pod joins just before it, or before an undo's request."""

    def __init__(self, join: Callable[[], object]) -> None:
        super().__init__()
        self.join, self.join_at, self.undo_at = join, 0, 0

    def guard(self, function: Callable, what: Callable[[tuple], str]) -> Callable:
        """`function`, just before which the other pod joins when its turn comes."""
        refusing = super().guard(function, what)

        def guarded(*args: object, **kwargs: object) -> object:
            if self.count + 1 == self.join_at:
                self.join_at = 0
                self.join()
            return refusing(*args, **kwargs)

        return guarded

    def fail_at_the_end(self, settled: Callable) -> Callable:
        """The ADD's last step; it fails, and resets the count, if the other is to join before a request of the undo."""

        def failing(*args: object) -> object:
            if not self.undo_at:
                return settled(*args)
            self.count, self.join_at, self.undo_at = 0, self.undo_at, 0
            self.refused = "the last step"
            raise NetlinkError(errno.EIO, "refused by the test")

        return failing


class Other:
    """The other pod's ADD, in a separate process."""

    def __init__(self, home: str, netns: str, conf: dict) -> None:
        # Runs in the node's network namespace, whichever namespace this thread is in when it starts the process.
        node = os.open("/proc/self/ns/net", os.O_RDONLY)
        self._argv = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{node}", sys.executable, "-m"]
        self._argv += ["tests.netns.join_every_step", "join", home, netns]
        self._conf = json.dumps(conf)
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start it; return when it is done or blocked."""
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(self._argv, stdin=pipe, stdout=pipe, text=True)
        self.process.stdin.write(self._conf)
        self.process.stdin.close()
        self.first = self.process.stdout.readline()

    def end(self) -> tuple[int, dict]:
        """Wait for it; return its exit status and result."""
        rest = self.process.stdout.read()
        return self.process.wait(), json.loads(rest if self.first == "blocked\n" else self.first + rest)


def steps(home: str, netns: str, other_netns: str, bridge: str) -> list[dict]:
    """Attempt an ADD for each step; return the entries."""
    conf = json.loads(sys.stdin.read())
    other = Other(home, other_netns, conf)
    joining = Joining(other.start)
    for name in ("send", "get", "dump", "transact"):
        setattr(Netlink, name, joining.guard(getattr(Netlink, name), lambda _, name=name: name))
    sysctls.write = joining.guard(sysctls.write, lambda args: f"sysctl {args[0]}")

    host_bridge.reread = joining.fail_at_the_end(host_bridge.reread)

    def attempt(refused: int, undo_at: int = 0) -> dict:
        run(["ip", "link", "del", conf["bridge"]])
        if bridge != "fresh":
            run(["sh", "-c", bridge])
        joining.start(refused)
        joining.join_at, joining.undo_at = refused, undo_at
        status, _ = call("ADD", conf, home, netns)
        entry = {"at": joining.refused, "status": status, "requests": joining.count}
        joining.turn = joining.join_at = 0
        if other.process:
            entry["other"], result = other.end()
            entry["check"] = call("CHECK", conf, home, other_netns, result)[1] if not entry["other"] else result
            assert call("DEL", conf, home, other_netns)[0] == 0
        assert call("DEL", conf, home, netns)[0] == 0
        other.process = None
        return entry

    story = [attempt(number) for number in range(1, attempt(0)["requests"] + 1)]
    undone = attempt(0, 1000)["requests"]
    return story + [attempt(0, number) for number in range(1, undone + 1)]


def join(home: str, netns: str) -> int:
    """Run the other pod's ADD."""
    conf = json.loads(sys.stdin.read())
    original, said = bridge_lock.flock, []

    def flock(descriptor: int, operation: int) -> None:
        try:
            original(descriptor, operation)
        except BlockingIOError:
            if not said:
                said.append(True)
                print("blocked", flush=True)
            raise

    bridge_lock.flock = flock
    status, answer = call("ADD", conf, home, netns)
    print(json.dumps(answer), flush=True)
    return status


if __name__ == "__main__":
    if sys.argv[1] == "join":
        sys.exit(join(*sys.argv[2:]))
    json.dump(steps(*sys.argv[2:]), sys.stdout)
