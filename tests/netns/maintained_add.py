"""Run on a node by tests: one ADD while the daemon keeps the node's part, and what the call reads and requests.

argv: the container ID, the folder of the plugins. stdin: a JSON object: `conf`, the configuration of the ADD; `daemon`:
the main plugin's keys as the daemon has them; `peers`, how many. stdout: a JSON object with the call's exit status and
answer, the files of peers that it opened, its requests to the kernel, and what it changed of the node.
"""

import io
import json
import sys
from collections import Counter
from collections.abc import Callable

from linux.netlink.socket import Netlink
from nodes.network import Network
from nodes.registry import Grant
from plugins.__main__ import load
from plugins.node.maintained import maintaining
from plugins.node.records import Node
from plugins.pod import add, interface
from spec.config import Section
from spec.plugin import serve

OWN = ("10.244.0.0/24", "fd00:244::/64")
NODE_FILE, PEERS_FILE = "/run/slash24/node.json", "/run/slash24/peers.json"


class Count:
    """Counts the requests to the kernel, the same question once, and the files of peers that are opened."""

    def __init__(self) -> None:
        self.requests, self.opened, self.is_on = Counter(), [], False
        self._asked = set()
        sys.addaudithook(self._hook)
        for name in ("send", "get", "dump", "transact"):
            setattr(Netlink, name, self._counted(name, getattr(Netlink, name)))

    def _hook(self, event: str, arguments: tuple) -> None:
        if self.is_on and event == "open" and "peers" in str(arguments[0]):
            self.opened.append(str(arguments[0]))

    def _counted(self, name: str, original: Callable) -> Callable:
        def counted(netlink: Netlink, what: object, *args: object, **kwargs: object) -> object:
            if self.is_on and isinstance(what, list):
                self.requests[name] += len(what)
            elif self.is_on and (netlink.namespace, what, args) not in self._asked:  # not a question asked again
                self._asked.add((netlink.namespace, what, args))
                self.requests[name] += 1
            return original(netlink, what, *args, **kwargs)

        return counted

    def without_waiting(self, module: object) -> None:
        """Do not count what a module asks again and again while it waits: how often depends on the machine."""
        original = module.wait_until

        def uncounted(*args: object, **kwargs: object) -> bool:
            was_on, self.is_on = self.is_on, False
            try:
                return original(*args, **kwargs)
            finally:
                self.is_on = was_on

        module.wait_until = uncounted


def peer(number: int) -> Node:
    """The record of a peer, on the node's link."""
    high, low = divmod(number, 256)
    return Node(f"n{number}", (f"192.0.{2 + high}.{low}",), (f"10.{244 + high}.{low}.0/24",), place=f"peers[{number}]")


def main() -> None:
    """Synchronise as the daemon does, then serve the ADD."""
    asked = json.load(sys.stdin)
    nodes = {f"n{number}": peer(number) for number in range(8, 8 + asked["peers"])}
    network = Network("net", asked["daemon"], node="n0")
    outcome = network.sync(Grant(OWN), nodes)
    assert outcome.is_complete, outcome
    with open(NODE_FILE, "w") as file:
        json.dump({"podCIDRs": OWN, "mtu": outcome.mtu}, file)
    with open(PEERS_FILE, "w") as file:
        records = [{"name": n.name, "addresses": n.addresses, "podCIDRs": n.subnets} for n in nodes.values()]
        json.dump({"peers": records}, file)
    container, folder = sys.argv[1:]
    environ = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": container, "CNI_NETNS": f"/run/netns/{container}"}
    environ |= {"CNI_IFNAME": "eth0", "CNI_PATH": folder}
    out, err, count = io.BytesIO(), io.StringIO(), Count()
    for module in (add, interface):
        count.without_waiting(module)
    with maintaining("net", Section(asked["daemon"])):
        count.is_on = True
        stdin = io.BytesIO(json.dumps(asked["conf"]).encode())
        status = serve(load(asked["conf"]["type"]), environ=environ, stdin=stdin, stdout=out, stderr=err)
        count.is_on = False
    again = network.sync(Grant(OWN), nodes)
    found = {"status": status, "answer": json.loads(out.getvalue()), "stderr": err.getvalue(), "opened": count.opened}
    print(json.dumps({**found, "requests": count.requests, "changed": again.written + again.removed}))


main()
