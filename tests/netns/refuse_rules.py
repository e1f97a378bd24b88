"""Run on a node by tests of chained plugins: one ADD for each kernel change it requests, with that change refused.

argv: the plugin's type, the container ID. stdin: the configuration. stdout: a JSON list with an entry per ADD: its exit
status, what it left if it failed. A change is an nftables transaction, an rtnetlink request or a sysctl.
"""

import errno
import io
import json
import subprocess
import sys
from collections.abc import Callable

from linux import sysctls
from linux.netlink.socket import Netlink, NetlinkError
from linux.nftables import messages
from plugins.__main__ import load
from spec.plugin import serve


class Turn:
    """Counts the changes of an ADD and refuses one of them."""

    def __init__(self) -> None:
        self.left = 0

    def guard(self, original: Callable) -> Callable:
        """`original`, except that one call is refused."""

        def guarded(*args: object, **kwargs: object) -> object:
            self.left -= 1
            if self.left == 0:
                raise NetlinkError(errno.EIO, "refused by the test")
            return original(*args, **kwargs)

        return guarded


def state() -> list[str]:
    """Everything that such an ADD can change."""
    lines = ["nft -s list ruleset", "grep -rs . /proc/sys/net/ipv4/conf --include route_localnet"]
    return [subprocess.run(line.split(), capture_output=True, text=True).stdout for line in lines]


def main() -> None:
    """Refuse change 1, 2, 3, ... until an ADD makes fewer changes."""
    kind, container_id = sys.argv[1:]
    conf = sys.stdin.read()
    environ = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": container_id, "CNI_NETNS": f"/run/netns/{container_id}"}
    environ |= {"CNI_IFNAME": "eth0", "CNI_PATH": "/nowhere"}
    turn = Turn()
    Netlink.send = turn.guard(Netlink.send)
    messages.commit = turn.guard(messages.commit)
    sysctls.write = turn.guard(sysctls.write)
    story, number = [], 0
    while not story or story[-1]["status"]:
        number += 1
        before, turn.left = state(), number
        out, err = io.BytesIO(), io.StringIO()
        status = serve(load(kind), environ=environ, stdin=io.BytesIO(conf.encode()), stdout=out, stderr=err)
        turn.left = 0
        after = state()
        left = [list(pair) for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
        story.append({"status": status, "left": left if status else [], "said": out.getvalue().decode()})
    json.dump(story, sys.stdout)


main()
