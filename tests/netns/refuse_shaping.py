"""Run on a node by test_bandwidth_failures: one ADD for each kernel change it requests, with that change refused.

argv: path of a netns. stdin: the configuration. stdout: a JSON list with an entry per ADD: its exit status, what it
changed.
"""

import errno
import io
import json
import subprocess
import sys
from itertools import zip_longest

from linux.netlink.socket import Netlink, NetlinkError
from plugins.__main__ import load
from spec.plugin import serve

_send = Netlink.send


class Turn:
    """Counts requests and refuses one of them."""

    def __init__(self, number: int) -> None:
        self.left = number

    def send(self, netlink: Netlink, requests: list[bytes], **asked: object) -> list[bytes]:
        """Replaces Netlink.send."""
        self.left -= 1
        if self.left == 0:
            raise NetlinkError(errno.EIO, "refused by the test")
        return _send(netlink, requests, **asked)


def state() -> list[str]:
    """Everything that ADD can change.

    Without the indexes of actions, which grow with each new action; and without the differences between a filter of the
    reference plugin and ours: a second action, which no packet ever reaches, and another handle for the same parent.
    """
    found = [run("tc -d qdisc")]
    for link in json.loads(run("ip -j -d link")):
        found.append(str([link["ifname"], link["mtu"], link["flags"], link.get("ifalias"), link.get("address")]))
        lines = run(f"tc filter show dev {link['ifname']} ingress").splitlines()
        kept = [x for x in lines if x.strip() and "\tindex" not in x and "action order 2" not in x]
        found += [x.replace("filter parent ffff: ", "filter ") for x in kept]
    return found


def run(line: str) -> str:
    """The stdout of a program."""
    return subprocess.run(line.split(), capture_output=True, text=True).stdout


def main() -> None:
    """Refuse change 1, 2, 3, ... until an ADD makes fewer changes."""
    conf = sys.stdin.read()
    environ = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "poda", "CNI_NETNS": sys.argv[1], "CNI_IFNAME": "eth0"}
    environ["CNI_PATH"] = "/nowhere"
    story, number = [], 0
    while not story or story[-1]["status"]:
        number += 1
        turn = Turn(number)
        Netlink.send = lambda netlink, requests, turn=turn, **asked: turn.send(netlink, requests, **asked)
        before = state()
        out, err = io.BytesIO(), io.StringIO()
        status = serve(load("bandwidth"), environ=environ, stdin=io.BytesIO(conf.encode()), stdout=out, stderr=err)
        after = state()
        left = [list(pair) for pair in zip_longest(before, after) if pair[0] != pair[1]]
        story.append({"status": status, "left": left if status else [], "said": out.getvalue().decode()})
    json.dump(story, sys.stdout)


main()
