"""`slash24-node` among 10 to 5,000 nodes that exist in a registry only, compared with `ip -batch` and `bridge -batch`.

    build/venv/bin/python -m bench.cluster [--nodes N ...] [--registry file|etcd] [--bin DIR] [--publish DIR]

The daemon runs as on a node, with mode "vxlan". Times end when the kernel announces the route or entry. Everything
happens in namespaces of the benchmark's own. Every time is written to build/cluster.json; `--publish docs` writes
the table to docs/scale.md.
"""

import argparse
import fcntl
import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from tabulate import tabulate

from bench import lab, peers, report, served
from bench.monitor import Monitor, News
from bench.registries import CLUSTER, Etcd, Folder, record, subnet_of
from linux.netlink.socket import Netlink

NODES = (10, 100, 1000, 5000)
ROUNDS, CHANGES, STEADY_SECONDS = 200, 500, 70
RESTART_SECONDS = 2.0  # longer than the first synchronisation of 5,000 nodes
HEARTBEATS_A_SECOND = 17  # 5,000 nodes that report their state every 5 minutes
LOG, CONFIG, CONFLIST, READY = Path("/run/node.log"), Path("/run/slash24.toml"), Path("/run/net.d/n.conflist"), 120
LOCAL, GATEWAY, DEVICE = "192.0.2.1", "192.0.2.2", "slash24.1"

KEPT = Path("/run/slash24/slash24.daemon")
PAGE, PLACE = "scale.md", "figures: written by bench.cluster"
JSON = lab.ROOT / "build" / "cluster.json"

Registry = Folder | Etcd
Times = list[float]


@dataclass(frozen=True)
class Lab:
    """What all measurements share: the registry, the command of the daemon, the plugins, and the kernel's news.

    `rounds`: nodes that join, and calls; `seconds`: of the steady state.
    """

    registry: Registry
    command: Sequence[str]
    plugins: lab.Suite
    monitor: Monitor
    rounds: int
    seconds: int

    @property
    def starts(self) -> int:
        """How often the daemon is started for each measurement of its first synchronisation."""
        return max(1, self.rounds // 40)


# -- the daemon -----------------------------------------------------------------------------------------------------


@contextmanager
def daemon(at: Lab) -> Iterator[served.Agent]:
    """A daemon that has just been started; killed at the end of the body, so that it takes nothing away."""
    process = start(at)
    try:
        yield served.Agent(process.pid)
    finally:
        process.kill()
        process.wait()


def start(at: Lab) -> subprocess.Popen:
    """Start the daemon."""
    CONFLIST.parent.mkdir(parents=True, exist_ok=True)
    keys = {"mode": "vxlan", "cluster": [CLUSTER], "registry": at.registry.url, "node": "own", "allocate": [24]}
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
    CONFIG.write_text(f'{text}[conflist]\npath = "{CONFLIST}"\n')
    with LOG.open("ab") as log:
        return subprocess.Popen([*at.command, "--config", str(CONFIG)], stderr=log, cwd=lab.ROOT)


def wait_for_routes(count: int) -> None:
    """Wait until the kernel has the routes to that many nodes, and the daemon has nothing more to do."""
    end = time.monotonic() + READY
    while routes() < count or not CONFLIST.exists():
        if time.monotonic() > end:
            sys.exit(f"bench: {routes()} routes, not {count}: {LOG.read_text()[-3000:]}")
        time.sleep(0.1)
    time.sleep(1)


def routes() -> int:
    """The number of our routes in the kernel."""
    return subprocess.run(["ip", "route", "show", "proto", "24"], capture_output=True).stdout.count(b"\n")


def undo() -> None:
    """Remove what a daemon has made."""
    CONFLIST.unlink(missing_ok=True)
    subprocess.run(["ip", "link", "del", DEVICE], capture_output=True)
    subprocess.run(["ip", "link", "del", "cbr0"], capture_output=True)
    subprocess.run(["nft", "flush", "ruleset"], check=True)


# -- measurements ---------------------------------------------------------------------------------------------------


def first_sync(at: Lab, count: int) -> dict[str, Times]:
    """Milliseconds: of the daemon from its start to the last route; the kernel part as it reports it; the batches."""
    took: dict[str, Times] = {"start to last route": [], "kernel part": [], "batch": []}
    for _ in range(at.starts):
        undo()
        at.monitor.forget()
        began = time.perf_counter()
        with daemon(at):
            wait_for_routes(count)
            ends = [news.at for news in at.monitor.read() if news.what == "+route"]
            begins = [news.at for news in at.monitor.read() if news.what in ("+neighbour", "+forwarding")]
        took["start to last route"].append((max(ends) - began) * 1000)
        took["kernel part"].append((max(ends) - min(begins)) * 1000)
        took["batch"].append(batch(count))
    return took


def batch(count: int) -> float:
    """Milliseconds of `bridge -batch` and `ip -batch` for the same objects on the same, emptied device."""
    for words in ("ip route flush proto 24", f"ip neigh flush dev {DEVICE} nud permanent"):
        lab.run(*words.split())
    lab.run("ip", "link", "del", DEVICE)
    with Netlink() as netlink:
        peers.write_batches(peers.peers(count, peers.new_device(netlink)))
    began = time.perf_counter()
    lab.run("bridge", "-batch", peers.BRIDGE_BATCH)
    lab.run("ip", "-batch", peers.IP_BATCH)
    return (time.perf_counter() - began) * 1000


def joins(at: Lab, count: int) -> Times:
    """Milliseconds from the writing of a new node's record to its route, many times."""
    took = []
    for number in range(count, count + at.rounds):
        at.monitor.forget()
        network = packed(subnet_of(number))
        began = time.perf_counter()
        at.registry.put(number, record(number))
        news = at.monitor.wait_for(lambda news, to=network: news.what == "+route" and news.about == to)
        took.append((news.at - began) * 1000)
        time.sleep(random.uniform(0.02, 0.1))
    at.registry.drop(range(count, count + at.rounds))
    wait_for_fewer(count)
    return took


def wait_for_fewer(count: int) -> None:
    """Wait until no more than that many nodes have a route."""
    while routes() > count:
        time.sleep(0.1)


def changes(at: Lab, count: int) -> float:
    """Seconds from the last of CHANGES records, written within a second, to the last of their FDB entries."""
    numbers = random.sample(range(count), CHANGES)
    wanted = {socket.inet_aton(record(number, underlay="172.24")["addresses"][0]) for number in numbers}
    at.monitor.forget()
    began = time.perf_counter()
    for place, number in enumerate(numbers):
        at.registry.put(number, record(number, underlay="172.24"))
        time.sleep(max(0, began + place / CHANGES - time.perf_counter()))
    written = time.perf_counter()
    while wanted - {news.about for news in at.monitor.read() if news.what == "+forwarding"}:
        if time.perf_counter() > written + 30:
            sys.exit(f"bench: the changes do not arrive: {LOG.read_text()[-2000:]}")
        time.sleep(0.01)
    last = max(news.at for news in at.monitor.read() if news.what == "+forwarding" and news.about in wanted)
    at.registry.fill(count)
    time.sleep(2)
    return last - written


def steady(at: Lab, process: served.Agent, count: int) -> dict[str, float]:
    """The share of a core, in percent, over two periodical checks with heartbeats, and how much was written."""
    at.monitor.forget()
    cpu, began, beat = process.cpu(), time.perf_counter(), 0
    while time.perf_counter() < began + at.seconds:
        at.registry.put(beat % count, record(beat % count))
        beat += 1
        time.sleep(max(0, began + beat / HEARTBEATS_A_SECOND - time.perf_counter()))
    seconds = time.perf_counter() - began
    # The kernel itself forgets neighbours, those of pods.
    writes = [news for news in at.monitor.read() if news.what != "-neighbour"]
    return {"% of a core": (process.cpu() - cpu) / seconds / 10, "writes": float(len(writes))}


def repairs(at: Lab, count: int) -> dict[str, Times]:
    """Milliseconds from the deletion of a route, a neighbour or an FDB entry to its return."""
    took: dict[str, Times] = {}
    for turn in range(max(3, at.rounds // 3)):
        value = record(random.randrange(count))
        subnet, underlay = str(value["podCIDRs"][0]), str(value["addresses"][0])
        network = subnet.partition("/")[0]
        mac = "02:24:" + socket.inet_aton(network).hex(":")
        words, what, about = (
            (f"ip route del {subnet}", "route", network),
            (f"ip neigh del {network} dev {DEVICE}", "neighbour", network),
            (f"bridge fdb del {mac} dev {DEVICE} self", "forwarding", underlay),
        )[turn % 3]
        at.monitor.forget()
        lab.run(*words.split())
        gone, back = (at.monitor.wait_for(is_about(f"{sign}{what}", about), seconds=90) for sign in "-+")
        took.setdefault(what, []).append((back.at - gone.at) * 1000)
        time.sleep(random.uniform(0.05, 0.2))
    return took


def is_about(what: str, address: str) -> Callable[[News], bool]:
    """Whether a notification is this one."""
    about = socket.inet_aton(address)
    return lambda news: news.what == what and news.about == about


def calls(at: Lab) -> Times:
    """Milliseconds of ADDs by the agent."""
    conf, took = configuration(), []
    for _ in range(at.rounds):
        took.append(lab.call(at.plugins, "ADD", conf, "pod").ms)
        lab.call(at.plugins, "DEL", conf, "pod")
    return took


def configuration() -> dict[str, object]:
    """The main plugin's, as the runtime passes it on from the conflist that the daemon wrote."""
    conflist = json.loads(CONFLIST.read_text())
    return {"cniVersion": conflist["cniVersion"], "name": conflist["name"], **conflist["plugins"][0]}


def calls_after_a_restart(at: Lab) -> Times:
    """The same, while a daemon that was restarted reads all records and compares the network with them."""
    conf, took = configuration(), []
    for _ in range(at.starts):
        process = start(at)
        while process.poll() is None and not is_served():
            time.sleep(0.005)
        end = time.perf_counter() + RESTART_SECONDS
        while time.perf_counter() < end:
            took.append(lab.call(at.plugins, "ADD", conf, "pod").ms)
            lab.call(at.plugins, "DEL", conf, "pod")
        process.kill()
        process.wait()
    return took


def is_served() -> bool:
    """Whether a daemon keeps the network, so that calls do the pod's part alone."""
    with open(KEPT, "rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def packed(subnet: str) -> bytes:
    """The network address of a subnet."""
    return socket.inet_aton(subnet.partition("/")[0])


# -- the report -----------------------------------------------------------------------------------------------------


def centiles(times: Sequence[float]) -> dict[str, float]:
    """Median and 99th percentile; one time is both."""
    return {"median": median(times), "p99": quantiles(times, n=100, method="inclusive")[98] if times[1:] else times[0]}


def measure(at: Lab, count: int, *, is_whole: bool) -> dict[str, object]:
    """Everything with that many nodes; what takes minutes only if it `is_whole`."""
    at.registry.fill(count)
    found: dict[str, object] = {"first sync": first_sync(at, count)}
    undo()
    with daemon(at) as process:
        wait_for_routes(count)
        found["resident MB"] = process.resident()
        found["join"] = joins(at, count)
        found["repair"] = repairs(at, count)
        if count >= CHANGES:
            found["changes"] = changes(at, count)
        found["ADD, daemon idle"] = calls(at)
        if is_whole:
            found["steady"] = steady(at, process, count)
        found["resident MB at the end"] = process.resident()
    found["ADD, daemon gone"] = calls(at)
    found["ADD, restarted"] = calls_after_a_restart(at)
    return found


def table(measured: Mapping[int, Mapping[str, object]], style: str) -> str:
    """A row for each figure, a column for each number of nodes, in a style of tabulate."""
    rows = [[figure, *(text(value(found)) for found in measured.values())] for figure, value in FIGURES.items()]
    headers = ["", *(f"{count:,} nodes" for count in measured)]
    align = ("left", *["right"] * len(measured))
    return tabulate(rows, headers, tablefmt=style, disable_numparse=True, colalign=align)


def text(value: float | None) -> str:
    """Three digits, or nothing."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _of(name: str, part: str = "median") -> Callable[[Mapping], float | None]:
    return lambda found: centiles(found[name])[part] if name in found else None


FIGURES: dict[str, Callable[[Mapping], float | None]] = {
    "first sync: start of the daemon to last route, ms": lambda f: median(f["first sync"]["start to last route"]),
    "first sync: kernel part, ms": lambda f: median(f["first sync"]["kernel part"]),
    "the same by ip and bridge -batch, ms": lambda f: median(f["first sync"]["batch"]),
    "ratio": lambda f: median(f["first sync"]["kernel part"]) / median(f["first sync"]["batch"]),
    "a node joins, ms": _of("join"),
    "a node joins, ms, 99th percentile": _of("join", "p99"),
    "500 nodes change within a second: s after the last": lambda f: f.get("changes"),
    "a route deleted: repaired after ms": lambda f: median(f["repair"]["route"]),
    "a neighbour deleted: repaired after ms": lambda f: median(f["repair"]["neighbour"]),
    "an FDB entry deleted: repaired after ms": lambda f: median(f["repair"]["forwarding"]),
    "steady state, % of a core": lambda f: f["steady"]["% of a core"] if "steady" in f else None,
    "steady state, writes to the kernel": lambda f: f["steady"]["writes"] if "steady" in f else None,
    "memory, MB": lambda f: f["resident MB"],
    "memory at the end, MB": lambda f: f["resident MB at the end"],
    "ADD, daemon idle, ms": _of("ADD, daemon idle"),
    "ADD, daemon idle, ms, 99th percentile": _of("ADD, daemon idle", "p99"),
    "ADD, daemon just restarted, ms": _of("ADD, restarted"),
    "ADD, daemon just restarted, ms, 99th percentile": _of("ADD, restarted", "p99"),
    "ADD, daemon gone, ms": _of("ADD, daemon gone"),
    "ADD, daemon gone, ms, 99th percentile": _of("ADD, daemon gone", "p99"),
}


def prepare() -> None:
    """A node with an uplink and a pod's namespace."""
    lab.enter()
    lab.run("ip", "link", "add", "wan0", "type", "veth", "peer", "name", "wan1")
    for link in ("wan0", "wan1"):
        lab.run("ip", "link", "set", link, "up")
    lab.run("ip", "addr", "add", f"{LOCAL}/24", "dev", "wan0")
    lab.run("ip", "route", "add", "default", "via", GATEWAY)
    lab.add_netns(["pod"])


def main() -> None:
    """Measure, print, and publish if asked to."""
    parser = argparse.ArgumentParser(description="Times of slash24-node among many nodes, in milliseconds.")
    parser.add_argument("--nodes", type=int, nargs="+", default=NODES, help="numbers of nodes (10 100 1000 5000)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"nodes that join, and calls (default: {ROUNDS})")
    parser.add_argument("--seconds", type=int, default=STEADY_SECONDS, help="of the steady state (default: 70)")
    parser.add_argument("--registry", choices=["file", "etcd"], default="file", help="which registry (default: file)")
    parser.add_argument("--bin", type=Path, default=lab.OURS, help="the folder of our executables (default: dist/bin)")
    parser.add_argument("--publish", metavar="DIR", type=Path, help="put the table into scale.md there")
    options = parser.parse_args()
    folder, publish = options.bin.resolve(), options.publish.resolve() if options.publish else None
    if publish:
        report.around(publish, PLACE, PAGE)
    random.seed(24)
    prepare()
    registry = {"file": Folder, "etcd": Etcd}[options.registry](Path("/run/registry"))
    with served.agent([str(folder / "slash24-agent")]) as agent:
        suite, command = lab.Suite(folder, agent_cpu=agent.cpu), [str(folder / "slash24-node")]
        at = Lab(registry, command, suite, Monitor(), options.rounds, options.seconds)
        try:
            measured = {n: measure(at, n, is_whole=n == max(options.nodes)) for n in sorted(options.nodes)}
        finally:
            registry.close()
    note = f"Registry: {registry.name}. {lab.machine()}."
    print(f"{table(measured, 'simple')}\n\n{note}")
    document = {"machine": lab.machine(), "registry": registry.name, "measured": measured}
    JSON.write_text(json.dumps(document, indent=1) + "\n")
    if publish:
        report.fill(publish, PLACE, (table(measured, "github"), note), PAGE)


if __name__ == "__main__":
    main()
