"""Throughput between pods of two nodes: `kubenet` and `vxlan` compared with the same topology built with `ip`.

    build/venv/bin/python -m bench.throughput [--rounds N] [--seconds S] [--json FILE]

Two nodes on one link, namespaces joined by a veth pair, with a pod each; iperf3 (TCP, one stream) from pod to pod. "By
hand" is a bridge, a veth pair, routes and, for vxlan, a device with its entries: what the kernel can do without
nftables rules or connection tracking. "flannel's rules" adds flanneld's iptables chains. Each contestant has its own
two nodes; they alternate, and so does which goes first.

Ratios are relative to "by hand"; 1 is equal. On a machine with other load, throughput varies by half and more; the CPU
time per byte, of both iperf3 processes and the kernel's work in them, varies less.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tabulate import tabulate

from bench import lab
from tests.netns.cni import CNI
from tests.netns.node import Node, Pod

WARM_UP = 1
BY_HAND, FLANNEL, TRACKED = "by hand", "flannel's rules", "slash24, tracked"
CONTESTANTS = {"kubenet": ("slash24", BY_HAND), "vxlan": ("slash24", TRACKED, FLANNEL, BY_HAND)}
VERSIONS = {"IPv4": 4, "IPv6": 6}
OVERHEAD = 50  # of a tunnel over IPv4


@dataclass(frozen=True)
class Side:
    """A pod and its addresses by IP version."""

    pod: Pod
    addresses: dict[int, str]


def join(nodes: Sequence[Node]) -> None:
    """One link between two nodes, called eth0 on both."""
    one, two = nodes
    one.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(two.pid)])
    for number, node in enumerate(nodes, 1):
        shell(
            node,
            f"""
            ip link set eth0 up
            ip addr add 192.0.2.{number}/24 dev eth0
            ip addr add 2001:db8:1::{number}/64 dev eth0 nodad
            ip route add default via 192.0.2.254
        """,
        )


@dataclass(frozen=True)
class Run:
    """The result of an iperf3 run: Gbit/s as counted by the server, and CPU seconds per GB."""

    gigabits: float
    processor: float


def ours(node: Node, number: int, kind: str, folder: Path, **keys: object) -> Side:
    """A pod created by the plugin: subnets 10.244.N.0/24 and fd00:244:0:N::/64."""
    records = [
        {
            "name": f"n{n}",
            "addresses": [f"192.0.2.{n}", f"2001:db8:1::{n}"],
            "podCIDRs": [f"10.244.{n}.0/24", f"fd00:244:0:{n}::/64"],
        }
        for n in (1, 2)
    ]
    conf = {"cniVersion": "1.1.0", "name": "bench", "type": kind, "bridge": "cbr0", "peers": records}
    conf |= {"podCIDRs": records[number - 1]["podCIDRs"], "clusterCIDRs": ["10.244.0.0/16", "fd00:244::/48"], **keys}
    pod = node.pod("ours")
    result = CNI(node, folder).add(conf, pod)
    addresses = [ip["address"].partition("/")[0] for ip in result["ips"]]
    return Side(pod, {6 if ":" in address else 4: address for address in addresses})


def by_hand(node: Node, number: int, kind: str) -> Side:
    """A pod created by hand: subnets 10.245.N.0/24 and fd00:245:0:N::/64."""
    pod, other = node.pod("byhand"), 3 - number
    mtu = 1500 - (OVERHEAD if kind == "vxlan" else 0)
    shell(
        node,
        f"""
        echo 1 >/proc/sys/net/ipv4/ip_forward
        echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
        ip link add hand0 mtu {mtu} type bridge
        ip link set hand0 up
        ip addr add 10.245.{number}.1/24 dev hand0
        ip addr add fd00:245:0:{number}::1/64 dev hand0 nodad
        ip link add handpod mtu {mtu} type veth peer name eth0 mtu {mtu} netns byhand
        ip link set handpod master hand0 up
    """,
    )
    shell(
        pod,
        f"""
        ip link set lo up
        ip link set eth0 up
        ip addr add 10.245.{number}.2/24 dev eth0
        ip addr add fd00:245:0:{number}::2/64 dev eth0 nodad
        ip route add default via 10.245.{number}.1
        ip -6 route add default via fd00:245:0:{number}::1
    """,
    )
    if kind == "vxlan":
        tunnel_by_hand(node, number, other)
    else:
        shell(
            node,
            f"""
            ip route add 10.245.{other}.0/24 via 192.0.2.{other}
            ip -6 route add fd00:245:0:{other}::/64 via 2001:db8:1::{other}
        """,
        )
    return Side(pod, {4: f"10.245.{number}.2", 6: f"fd00:245:0:{number}::2"})


def tunnel_by_hand(node: Node, number: int, other: int) -> None:
    """A vxlan device and the entries of its peer."""
    mac, theirs = (f"02:24:0a:f5:0{n}:00" for n in (number, other))
    v4, v6 = f"10.245.{other}.0", f"fd00:245:0:{other}::"
    tunnel = f"type vxlan id 1 dev eth0 local 192.0.2.{number} dstport 4789 nolearning"
    shell(
        node,
        f"""
        ip link add hand.vx address {mac} mtu {1500 - OVERHEAD} {tunnel}
        ip link set hand.vx up
        ip addr add 10.245.{number}.0/32 dev hand.vx
        ip addr add fd00:245:0:{number}::/128 dev hand.vx nodad
        ip neigh add {v4} lladdr {theirs} dev hand.vx nud permanent
        ip neigh add {v6} lladdr {theirs} dev hand.vx nud permanent
        bridge fdb add {theirs} dev hand.vx self permanent dst 192.0.2.{other}
        ip route add {v4}/24 via {v4} dev hand.vx onlink
        ip -6 route add {v6}/64 via {v6} dev hand.vx onlink
    """,
    )


def with_flannels_rules(node: Node, number: int) -> Side:
    """A tunnel by hand, with flanneld's chains for masquerade and forwarding."""
    side = by_hand(node, number, "vxlan")
    for tool, network, own, never in (
        ("iptables", "10.245.0.0/16", f"10.245.{number}.0/24", "224.0.0.0/4"),
        ("ip6tables", "fd00:245::/48", f"fd00:245:0:{number}::/64", "ff00::/8"),
    ):
        shell(
            node,
            f"""
            {tool} -t nat -N FLANNEL-POSTRTG
            {tool} -t nat -A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
            {tool} -t nat -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -j RETURN
            {tool} -t nat -A FLANNEL-POSTRTG -s {own} -d {network} -j RETURN
            {tool} -t nat -A FLANNEL-POSTRTG -s {network} -d {own} -j RETURN
            {tool} -t nat -A FLANNEL-POSTRTG ! -s {network} -d {own} -j RETURN
            {tool} -t nat -A FLANNEL-POSTRTG -s {network} ! -d {never} -j MASQUERADE --random-fully
            {tool} -t nat -A FLANNEL-POSTRTG ! -s {network} -d {network} -j MASQUERADE --random-fully
            {tool} -N FLANNEL-FWD
            {tool} -A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
            {tool} -A FLANNEL-FWD -s {network} -j ACCEPT
            {tool} -A FLANNEL-FWD -d {network} -j ACCEPT
        """,
        )
    return side


def shell(node: Node | Pod, lines: str) -> None:
    """Run each line, stopping at the first that fails."""
    node.run(["sh", "-ec", lines])


def transfer(client: Side, server: Side, version: int, seconds: int) -> Run:
    """One iperf3 run from pod to pod."""
    address = server.addresses[version]
    assert client.pod.reaches(address, timeout=5), f"{address} is not reached"
    serving = server.pod.start(["iperf3", "--server", "--one-off", "--forceflush"], stdout=subprocess.PIPE)
    while b"Server listening" not in serving.stdout.readline():
        pass
    argv = ["iperf3", "--client", address, "--time", str(seconds), "--json"]
    calling = client.pod.start(argv, stdout=subprocess.PIPE)
    received = json.loads(calling.stdout.read())["end"]["sum_received"]
    serving.stdout.read()
    spent = processor_seconds(calling) + processor_seconds(serving)
    return Run(received["bits_per_second"] / 1e9, spent / received["bytes"] * 1e9)


def processor_seconds(process: subprocess.Popen) -> float:
    """Wait for a process; returns its CPU time."""
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, "iperf3 failed"
    return usage.ru_utime + usage.ru_stime


@contextmanager
def cluster() -> Iterator[list[Node]]:
    """Two nodes on one link."""
    nodes = [Node(), Node()]
    try:
        join(nodes)
        yield nodes
    finally:
        for node in nodes:
            node.close()


def sides(name: str, kind: str, folder: Path, nodes: Sequence[Node]) -> list[Side]:
    """The two pods of a contestant."""
    numbered = list(enumerate(nodes, 1))
    if name == BY_HAND:
        return [by_hand(node, number, kind) for number, node in numbered]
    if name == FLANNEL:
        return [with_flannels_rules(node, number) for number, node in numbered]
    keys = {"notrack": False} if name == TRACKED else {}
    return [ours(node, number, kind, folder, **keys) for number, node in numbered]


def measure(kind: str, folder: Path, rounds: int, seconds: int) -> dict[str, dict[str, list[Run]]]:
    """The runs: IP version -> contestant -> list."""
    names = CONTESTANTS[kind]
    found: dict[str, dict[str, list[Run]]] = {version: {name: [] for name in names} for version in VERSIONS}
    with ExitStack() as stack:
        pairs = {name: sides(name, kind, folder, stack.enter_context(cluster())) for name in names}
        for turn in range(WARM_UP + rounds):
            first = turn % len(names)
            for version, number in VERSIONS.items():
                for name in names[first:] + names[:first]:
                    got = transfer(*pairs[name], number, seconds)
                    if turn >= WARM_UP:
                        found[version][name].append(got)
    return found


def summary(kind: str, found: dict[str, dict[str, list[Run]]]) -> list[dict[str, object]]:
    """A row per IP version and contestant. Ratios are of runs next to each other, which see the same load."""
    rows = []
    for version, runs in found.items():
        limit = runs[BY_HAND]
        for name, mine in runs.items():
            pairs = list(zip(mine, limit, strict=True))
            row = {"plugin": kind, "IP": version, "contestant": name, "Gbit/s": median(run.gigabits for run in mine)}
            row["ratio"] = median(run.gigabits / other.gigabits for run, other in pairs)
            row["CPU s/GB"] = median(run.processor for run in mine)
            row["ratio of bytes a CPU s"] = median(other.processor / run.processor for run, other in pairs)
            least = [min(run.processor for run in each) for each in (limit, mine)]
            rows.append(row | {"ratio of best bytes a CPU s": least[0] / least[1]})
    return rows


def main() -> None:
    """Measure both plugins and report."""
    parser = argparse.ArgumentParser(description="Throughput between pods of two nodes, in Gbit/s, against ip by hand.")
    parser.add_argument("--rounds", type=int, default=9, help="timed runs of each kind (default: 9)")
    parser.add_argument("--seconds", type=int, default=2, help="of each run (default: 2)")
    parser.add_argument("--json", metavar="FILE", help="write every single run there")
    parser.add_argument("--bin", type=Path, default=lab.OURS, help="the folder of our plugins (default: dist/bin)")
    options = parser.parse_args()
    if not shutil.which("iperf3"):
        sys.exit("bench: needs iperf3 (Debian package iperf3)")
    folder = options.bin.resolve()
    measured = {kind: measure(kind, folder, options.rounds, options.seconds) for kind in CONTESTANTS}
    rows = [row for kind, found in measured.items() for row in summary(kind, found)]
    print(tabulate(rows, headers="keys", floatfmt=".3f"))
    print(f"\n{options.rounds} runs of {options.seconds} s each, Gbit/s; {lab.machine()}")
    if options.json:
        report = {"machine": lab.machine(), "rounds": options.rounds, "seconds": options.seconds}
        Path(options.json).write_text(json.dumps(report | {"medians": rows, "runs": measured}, default=vars, indent=2))


if __name__ == "__main__":
    main()
