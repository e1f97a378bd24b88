"""Run on a node by tests of undo: one ADD for each kernel request it makes, with that request refused.

argv: folder of the suite's executables, path of a netns, "fresh" (the bridge is removed before each ADD), "used", or a
shell command that is run before each ADD.
stdin: the configuration. stdout: a JSON list with an entry per ADD: what was refused, its exit status, what it left.
"""

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable

from linux import sysctls
from linux.netlink.socket import Netlink, NetlinkError
from plugins.__main__ import load
from spec.plugin import Suite, serve


class Refusal:
    """Counts requests and refuses one of them."""

    def __init__(self) -> None:
        self.turn, self.count, self.refused = 0, 0, ""

    def start(self, turn: int) -> None:
        """Reset the count, and refuse request number `turn`."""
        self.turn, self.count, self.refused = turn, 0, ""

    def guard(self, function: Callable, what: Callable[[tuple], str]) -> Callable:
        """`function`, which fails when its turn comes."""

        def guarded(*args: object, **kwargs: object) -> object:
            self.count += 1
            if self.count == self.turn:
                self.refused = what(args)
                raise NetlinkError(errno.EIO, "refused by the test")
            return function(*args, **kwargs)

        return guarded


def state(netns: str) -> dict[str, str]:
    """Everything an ADD could leave: links, addresses, sysctls, rules, leases, original values saved by tuning."""
    settings = "grep -rs '' /proc/sys/net | grep -v -e nf_conntrack_count -e /neigh/.*_ms | sort"
    # An ADD keeps these, because others rely on them by then: forwarding, with the settings that the kernel changes
    # along with it, accept_ra of bridges, which must ignore router advertisements of pods, and send_redirects.
    kept = "grep -v -e /ip_forward: -e /forwarding: -e /accept_redirects: -e /accept_ra: -e /send_redirects:"
    leases = "cd /run/leases/net 2>/dev/null && grep -H . [0-9f]*:* [0-9]*.*.*.*"
    return {
        "node": links([]),
        "pod": links(["nsenter", f"--net={netns}"]),
        "settings": run(["nsenter", f"--net={netns}", "sh", "-c", settings]),
        "settings of the node": run(["sh", "-c", f"{settings} | {kept}"]),
        "originals": run(["sh", "-c", "cat /run/cni/tuning/* 2>&1"]),
        "rules": run(["nft", "list", "ruleset"]),
        "leases": run(["sh", "-c", leases]),
        "files of pods": run(["sh", "-c", "cat /run/slash24/pods/* 2>&1"]),
    }


def changed(before: str, after: str) -> list[str]:
    """The lines that are only in `before`, and those that are only in `after`."""
    lines, others = before.splitlines(), after.splitlines()
    return ["\n".join(sorted(set(one) - set(other))) for one, other in ((lines, others), (others, lines))]


def links(enter: list[str]) -> str:
    """Links and addresses, without what the kernel changes by itself (timers, carrier, link-local addresses)."""
    kept = ("ifname", "address", "mtu", "master", "ifalias", "promiscuity", "allmulti", "txqlen", "linkinfo")
    found = json.loads(run([*enter, "ip", "-j", "-d", "addr"]))
    story = []
    for link in found:
        lasting = {key: link.get(key) for key in kept} | {"up": "UP" in link["flags"]}
        lasting["linkinfo"] = (lasting["linkinfo"] or {}).get("info_kind")
        lasting["addresses"] = [one["local"] for one in link["addr_info"] if one["scope"] != "link"]
        story.append(lasting)
    return json.dumps(story)


def run(argv: list[str]) -> str:
    """The stdout of a program."""
    return subprocess.run(argv, capture_output=True, text=True).stdout


def call(verb: str, conf: str, home: str, netns: str) -> int:
    """Make one call in this process; return the exit status."""
    environ = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": "pod",
        "CNI_NETNS": netns,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": home,
    }
    suite = Suite(home=home, load=load)
    out, err = io.BytesIO(), io.StringIO()
    plugin = load(json.loads(conf)["type"])
    return serve(plugin, environ=environ, stdin=io.BytesIO(conf.encode()), stdout=out, stderr=err, suite=suite)


def refuse_each(refusal: Refusal, forget: Callable[[], object], conf: str, home: str, netns: str) -> list[dict]:
    """Run ADDs with request 1, 2, 3, ... refused, until one makes fewer requests; call `forget` before each."""
    story, turn = [], 0
    while turn == 0 or refusal.refused:
        turn += 1
        forget()
        before = state(netns)
        refusal.start(turn)
        status = call("ADD", conf, home, netns)
        refused = refusal.refused
        refusal.turn = 0
        after = state(netns)
        left = {name: changed(before[name], after[name]) for name in before if before[name] != after[name] and status}
        story.append({"refused": refused, "status": status, "left": left})
        assert call("DEL", conf, home, netns) == 0
        refusal.refused = refused
    return story


def main() -> None:
    """Refuse request 1, 2, 3, ... until an ADD makes fewer requests."""
    home, netns, bridge = sys.argv[1:]
    conf = sys.stdin.read()
    refusal = Refusal()
    Netlink.send = refusal.guard(Netlink.send, lambda _: "a request of rtnetlink")
    Netlink.get = refusal.guard(Netlink.get, lambda _: "a look at one object")
    Netlink.dump = refusal.guard(Netlink.dump, lambda _: "a look at many objects")
    Netlink.transact = refusal.guard(Netlink.transact, lambda _: "a transaction of nftables")
    sysctls.write = refusal.guard(sysctls.write, lambda args: f"sysctl {args[0]}")
    os.replace = refusal.guard(os.replace, lambda args: f"replace {args[1]}")
    os.link = refusal.guard(os.link, lambda args: f"link {args[1]}")
    prepare = {"fresh": f"ip link del {json.loads(conf).get('bridge')}", "used": "true"}.get(bridge, bridge)

    def forget() -> None:
        run(["sh", "-c", prepare])

    json.dump(refuse_each(refusal, forget, conf, home, netns), sys.stdout)


if __name__ == "__main__":
    main()
