"""The network of a node among many, as the daemon keeps it, compared with `ip -batch` and `bridge -batch`.

    build/venv/bin/python -m bench.nodes [--rounds N] [--json FILE]

Ours is all that `nodes.network.Network` does for `vxlan`, in this process: selection of the records, device, bridge,
routes, neighbours, FDB entries, nftables. Theirs are routes, neighbours and FDB entries alone, by two processes, from
prepared files. The two alternate, and so does which goes first, each on a new device.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

from tabulate import tabulate

from bench import lab
from bench.peers import BRIDGE_BATCH, DEVICE, IP_BATCH, LOCAL
from linux.netlink.socket import Netlink
from linux.rtnl.links import delete_link, find_link
from linux.rtnl.monitor import Monitor
from linux.rtnl.vxlan import vtep_mac
from nodes.network import Network, Outcome
from nodes.registry import Grant
from plugins.node.host_rules import delete
from plugins.node.records import Node

NODES = (10, 100, 1000, 5000)
WARM_UP = 1
JOINS, CHANGES, DRIFTS = 100, 500, 20
OWN = Grant(("10.255.255.0/24",), since=1)
PLUGIN = {"type": "vxlan", "clusterCIDRs": ["10.0.0.0/8"], "localAddress": LOCAL, "notrack": True}


def record(number: int) -> Node:
    """The record of a peer: subnet 10.0.0.0/24 or following, behind a router."""
    high, low = divmod(number, 256)
    return Node(f"n{number}", (f"172.16.{high}.{low}",), (f"10.{high}.{low}.0/24",), since=number + 2)


def write_batches(count: int) -> None:
    """The same as commands, in flannel's order as far as possible with two programs."""
    subnets = [record(number).subnets[0] for number in range(count)]
    peers = [(subnet, subnet.partition("/")[0], vtep_mac([subnet])) for subnet in subnets]
    neighbours = [f"neigh replace {via} lladdr {mac} dev {DEVICE} nud permanent\n" for _, via, mac in peers]
    routes = [f"route replace {subnet} via {via} dev {DEVICE} proto 24 onlink\n" for subnet, via, _ in peers]
    entries = [
        f"fdb replace {mac} dev {DEVICE} self permanent dst {record(number).addresses[0]}\n"
        for number, (_, _, mac) in enumerate(peers)
    ]
    Path(BRIDGE_BATCH).write_text("".join(entries))
    Path(IP_BATCH).write_text("".join(neighbours + routes))


def forget() -> None:
    """Remove all that was made."""
    delete("net")
    with Netlink() as host:
        for name in (DEVICE, "cbr0"):
            if link := find_link(host, name):
                delete_link(host, link.index)


def done(outcome: Outcome) -> Outcome:
    """The outcome; exits if it is not the one of a healthy node."""
    if not outcome.is_complete or outcome.problems or outcome.left_out:
        raise SystemExit(f"bench: {outcome}")
    return outcome


def timed(action: Callable[[], object]) -> float:
    """Milliseconds of one run."""
    gc.collect()
    started = time.perf_counter()
    action()
    return (time.perf_counter() - started) * 1000


class Case:
    """A node among some others."""

    def __init__(self, count: int) -> None:
        self.network = Network("net", PLUGIN, node="own")
        self.nodes = {f"n{number}": record(number) for number in range(count)}
        self._next = count

    def sync(self) -> Outcome:
        """Everything."""
        return done(self.network.sync(OWN, self.nodes))

    def update(self, changed: dict[str, Node]) -> float:
        """Milliseconds until changed records are in the kernel."""
        self.nodes |= changed
        return timed(lambda: done(self.network.update(OWN, self.nodes, changed)))

    def join(self) -> float:
        """One more node."""
        self._next += 1
        return self.update({f"n{self._next}": record(self._next)})

    def move(self) -> float:
        """Many nodes get other addresses."""
        some = list(self.nodes.values())[:CHANGES]
        moved = [Node(one.name, (f"172.20.{one.addresses[0][7:]}",), one.subnets, since=one.since) for one in some]
        return self.update({one.name: one for one in moved})

    def repair(self, harm: str) -> float:
        """From the announcement that something was deleted until it is there again."""
        with Monitor(PLUGIN["clusterCIDRs"]) as monitor, Netlink() as host:
            monitor.watch((), (), find_link(host, DEVICE).index)
            lab.run("sh", "-c", harm)
            return timed(lambda: done(self.network.repair(OWN, self.nodes, list(monitor.changes()))))


HARM = {
    "route": "ip route del 10.0.3.0/24",
    "neighbour": f"ip neigh del 10.0.3.0 dev {DEVICE}",
    "FDB entry": f"bridge fdb del {vtep_mac(['10.0.3.0/24'])} dev {DEVICE} dst 172.16.0.3",
}


def first_sync(count: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of the first synchronisation, and of the commands."""

    def ours() -> float:
        return timed(Case(count).sync)

    def theirs() -> float:
        Case(0).sync()
        return timed(lambda: [lab.run("bridge", "-batch", BRIDGE_BATCH), lab.run("ip", "-batch", IP_BATCH)])

    write_batches(count)
    found: dict[str, list[float]] = {"first": [], "batch": []}
    for turn in range(WARM_UP + rounds):
        for kind, action in sorted({"first": ours, "batch": theirs}.items(), reverse=bool(turn % 2)):
            forget()
            found[kind].append(action())
    return {kind: times[WARM_UP:] for kind, times in found.items()}


def afterwards(count: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of what happens from then on."""
    forget()
    case = Case(count)
    case.sync()
    found = {"unchanged": [timed(case.sync) for _ in range(rounds)], "join": [case.join() for _ in range(JOINS)]}
    found["changes"] = [case.move()]
    for what, harm in HARM.items():
        found[what] = [case.repair(harm) for _ in range(DRIFTS)]
    if case.sync().written:
        raise SystemExit("bench: something was missing")
    return found


def row(count: int, found: dict[str, list[float]]) -> dict[str, object]:
    """Medians in milliseconds, and the ratio of the first synchronisation to the commands."""
    middle = {kind: median(times) for kind, times in found.items()}
    return {
        "nodes": count,
        "first sync": middle["first"],
        "ip, bridge -batch": middle["batch"],
        "ratio": middle["first"] / middle["batch"],
        "unchanged": middle["unchanged"],
        "join": middle["join"],
        "join, 99 %": quantiles(found["join"], n=100)[-1],
        f"{CHANGES} changes": middle["changes"] if count >= CHANGES else None,
        **{what: middle[what] for what in HARM},
    }


def main() -> None:
    """Measure all sizes and report."""
    parser = argparse.ArgumentParser(description="Times a node's network among many nodes, in milliseconds.")
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds of each kind (default: 9)")
    parser.add_argument("--json", metavar="FILE", help="write every single time there")
    options = parser.parse_args()
    out = open(options.json, "w") if options.json else None  # noqa: SIM115  (before the file system changes under us)
    gc.disable()  # as in the frozen daemon
    lab.enter()
    lab.run("ip", "link", "add", "wan0", "type", "veth", "peer", "name", "wan1")
    for link in ("wan0", "wan1"):
        lab.run("ip", "link", "set", link, "up")
    lab.run("ip", "addr", "add", f"{LOCAL}/24", "dev", "wan0")
    lab.run("ip", "route", "add", "default", "via", "192.0.2.254")
    measured = {count: first_sync(count, options.rounds) | afterwards(count, options.rounds) for count in NODES}
    rows = [row(count, found) for count, found in measured.items()]
    print(tabulate(rows, headers="keys", floatfmt=".2f"))
    print(f"\nmedians of {options.rounds}, ms; {lab.machine()}")
    if out:
        with out:
            report = {"machine": lab.machine(), "rounds": options.rounds, "medians": rows, "milliseconds": measured}
            json.dump(report, out, indent=2)


if __name__ == "__main__":
    main()
