"""Run on a node by test_tuning: one ADD that exits just before its n-th kernel request or file replacement.

argv: path of the netns, n. stdin: the configuration. Exit status 9: it was ended there; 0: it made fewer than n
requests, and succeeded.
"""

import io
import json
import os
import sys
from collections.abc import Callable

from linux import sysctls
from linux.netlink.socket import Netlink
from plugins.__main__ import load
from spec.plugin import serve


def deadly(function: Callable, turns: list[int]) -> Callable:
    """`function`, which exits the process instead when no turn is left."""

    def dying(*args: object, **kwargs: object) -> object:
        turns.pop()
        if not turns:
            os._exit(9)
        return function(*args, **kwargs)

    return dying


def main() -> int:
    """Serve the ADD."""
    netns, turn = sys.argv[1:]
    conf = sys.stdin.read()
    turns = [0] * int(turn)
    Netlink.send = deadly(Netlink.send, turns)
    sysctls.write = deadly(sysctls.write, turns)
    os.replace = deadly(os.replace, turns)
    environ = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "pod",
        "CNI_NETNS": netns,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/",
    }
    stdin = io.BytesIO(conf.encode())
    return serve(load(json.loads(conf)["type"]), environ=environ, stdin=stdin, stdout=io.BytesIO(), stderr=sys.stderr)


sys.exit(main())
