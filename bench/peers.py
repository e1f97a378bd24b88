"""Synchronising the peers of a node, for the first time and unchanged, compared with `ip -batch` and `bridge -batch`.

    build/venv/bin/python -m bench.peers [--rounds N] [--json FILE]

A peer is a neighbour, a forwarding entry and a route through the tunnel. Ours is timed in this process, from the list
of peers to the kernel's last reply, as within a running ADD. Theirs are two processes that `replace` the same objects
from prepared files. The two alternate, and so does which goes first, each on a new device. Ratios are ours to theirs.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from tabulate import tabulate

from bench import lab
from linux.netlink.socket import Netlink
from linux.rtnl.forwarding import PeerPath, sync
from linux.rtnl.vxlan import Vtep, delete_vtep, ensure_vtep, vtep_mac

PEERS = (10, 100, 1000, 5000)
WARM_UP = 1
DEVICE, LOCAL = "slash24.1", "192.0.2.1"
IP_BATCH, BRIDGE_BATCH = "/run/ip.batch", "/run/bridge.batch"
PHASES = ("first", "unchanged")


def peers(count: int, device: int) -> list[PeerPath]:
    """The routes to that many peers, 10.0.0.0/24 and following."""
    paths = []
    for number in range(count):
        high, low = divmod(number, 256)
        subnet = f"10.{high}.{low}.0/24"
        via, underlay = f"10.{high}.{low}.0", f"172.16.{high}.{low}"
        paths.append(PeerPath(subnet, via, device, mac=vtep_mac([subnet]), underlay=underlay))
    return paths


def write_batches(paths: Sequence[PeerPath]) -> None:
    """The same as commands, in flannel's order as far as possible with two programs."""
    neighbours = [f"neigh replace {path.via} lladdr {path.mac} dev {DEVICE} nud permanent\n" for path in paths]
    entries = [f"fdb replace {path.mac} dev {DEVICE} self permanent dst {path.underlay}\n" for path in paths]
    routes = [f"route replace {path.subnet} via {path.via} dev {DEVICE} proto 24 onlink\n" for path in paths]
    Path(BRIDGE_BATCH).write_text("".join(entries))
    Path(IP_BATCH).write_text("".join(neighbours + routes))


def new_device(netlink: Netlink) -> int:
    """Create the tunnel's device without entries; returns its index."""
    delete_vtep(netlink, DEVICE)
    parent = int(Path("/sys/class/net/wan0/ifindex").read_text())
    mac = vtep_mac(["10.255.255.0/24"])
    vtep = Vtep(DEVICE, vni=1, port=4789, parent=parent, local=LOCAL, mac=mac, mtu=1450, tx_checksum=True)
    return ensure_vtep(netlink, vtep, ["10.255.255.0/32"])[0].index


def ours(netlink: Netlink, paths: Sequence[PeerPath], device: int) -> None:
    """Synchronise in this process."""
    sync(netlink, paths, device=device)


def theirs(_netlink: Netlink, _paths: Sequence[PeerPath], _device: int) -> None:
    """Run the two batches."""
    lab.run("bridge", "-batch", BRIDGE_BATCH)
    lab.run("ip", "-batch", IP_BATCH)


def timed(action: Callable, netlink: Netlink, paths: Sequence[PeerPath], device: int) -> float:
    """Milliseconds of one run."""
    gc.collect()
    started = time.perf_counter()
    action(netlink, paths, device)
    return (time.perf_counter() - started) * 1000


def measure(netlink: Netlink, count: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """All times in milliseconds by contestant and phase."""
    actions = {"slash24": ours, "batch": theirs}
    found = {name: {phase: [] for phase in PHASES} for name in actions}
    for turn in range(WARM_UP + rounds):
        for name in sorted(actions, reverse=bool(turn % 2)):
            device = new_device(netlink)
            paths = peers(count, device)
            write_batches(paths)
            for phase in PHASES:
                took = timed(actions[name], netlink, paths, device)
                if turn >= WARM_UP:
                    found[name][phase].append(took)
            check(netlink, paths, device)
    return found


def check(netlink: Netlink, paths: Sequence[PeerPath], device: int) -> None:
    """Exit unless both have created the same, complete state."""
    changes = sync(netlink, paths, device=device)
    if changes.added or changes.removed:
        raise SystemExit(f"bench: not the same state: {changes}")


def summary(count: int, found: dict[str, dict[str, list[float]]]) -> list[dict[str, object]]:
    """A row per phase: medians in milliseconds, and the ratio of ours to theirs."""
    rows = []
    for phase in PHASES:
        mine, others = median(found["slash24"][phase]), median(found["batch"][phase])
        row = {"peers": count, "sync": phase, "slash24": mine, "ip and bridge -batch": others}
        rows.append(row | {"ratio": mine / others, "us a peer": 1000 * mine / count})
    return rows


def main() -> None:
    """Measure all sizes and report."""
    parser = argparse.ArgumentParser(description="Times the synchronisation of peers, in milliseconds.")
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds of each kind (default: 9)")
    parser.add_argument("--json", metavar="FILE", help="write every single time there")
    options = parser.parse_args()
    out = open(options.json, "w") if options.json else None  # noqa: SIM115  (before the file system changes under us)
    gc.disable()  # as in the frozen plugins
    lab.enter()
    lab.run("ip", "link", "add", "wan0", "type", "veth", "peer", "name", "wan1")
    for link in ("wan0", "wan1"):
        lab.run("ip", "link", "set", link, "up")
    lab.run("ip", "addr", "add", f"{LOCAL}/24", "dev", "wan0")
    with Netlink() as netlink:
        measured = {count: measure(netlink, count, options.rounds) for count in PEERS}
    rows = [row for count, found in measured.items() for row in summary(count, found)]
    print(tabulate(rows, headers="keys", floatfmt=".2f"))
    print(f"\nmedians of {options.rounds}, ms; {lab.machine()}")
    if out:
        with out:
            report = {"machine": lab.machine(), "rounds": options.rounds, "medians": rows, "milliseconds": measured}
            json.dump(report, out, indent=2)


if __name__ == "__main__":
    main()
