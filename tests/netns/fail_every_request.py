"""Run on a node by test_kubenet_undo: one ADD for each kernel request it makes, read or write, with that one refused.

argv: folder of the suite's executables, path of a netns, "fresh" (the node's state is removed before each ADD) or
"used". stdin: the configuration. stdout: a JSON list with an entry per ADD: what was refused, its exit status, what
it left.
"""

import json
import os
import sys

from linux import sysctls
from linux.netlink.socket import Netlink
from tests.netns.fail_every_step import Refusal, call, refuse_each, run


def forget_node(conf: dict) -> None:
    """Remove the state that belongs to the node rather than to a pod."""
    for words in (["link", "del", conf["bridge"]], ["link", "del", "slash24.1"]):
        run(["ip", *words])
    for version in ("-4", "-6"):
        run(["ip", version, "route", "flush", "proto", "24"])
    run(["nft", "flush", "ruleset"])


def main() -> None:
    """Refuse request 1, 2, 3, ... until an ADD makes fewer requests."""
    home, netns, how = sys.argv[1:]
    conf = sys.stdin.read()
    refusal = Refusal()
    for name in ("send", "get", "dump", "transact"):
        setattr(Netlink, name, refusal.guard(getattr(Netlink, name), lambda _, name=name: name))
    sysctls.write = refusal.guard(sysctls.write, lambda args: f"sysctl {args[0]}")
    os.replace = refusal.guard(os.replace, lambda args: f"replace {args[1]}")
    os.link = refusal.guard(os.link, lambda args: f"link {args[1]}")
    if how == "used":
        assert call("ADD", conf, home, netns) == 0
        assert call("DEL", conf, home, netns) == 0
    forget = (lambda: forget_node(json.loads(conf))) if how == "fresh" else (lambda: None)
    json.dump(refuse_each(refusal, forget, conf, home, netns), sys.stdout)


main()
