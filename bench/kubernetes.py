"""The records of a cluster of Kubernetes in one process: memory, the work of heartbeats, and how soon a change is seen.

    build/venv/bin/python -m bench.kubernetes [--nodes N] [--seconds S] [--json FILE]

A real API server (`tests/kubernetes/apiserver.py`) has that many Nodes of 13 KB. Another process imports what the
daemon imports, lists and watches the Nodes, and keeps their records. Then Nodes are patched as kubelets do, every Node
every five minutes, and at last the addresses of some are changed.
"""

import argparse
import http.client
import json
import os
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

from tabulate import tabulate

from bench import lab
from tests.kubernetes.apiserver import STRATEGIC, ApiServer

HEARTBEAT = 300  # seconds between two of a kubelet
CHANGES = 100
_SLEEP = 0.1  # seconds between two changes
IMPORTS = ("daemon.config", "nodes.network", "prometheus_client.exposition", "agent.log", "agent.pages")


def node(number: int) -> dict[str, object]:
    """A Node of a kubelet with 58 images."""
    name, third, last = f"node-{number:05}.example", number >> 8, number & 255
    subnet = f"10.{third}.{last}.0/24"
    images = [
        {
            "names": [f"images.example/team-{image}/s@sha256:{image:064x}", f"images.example/service-{image}:v1"],
            "sizeBytes": 10_000_000 + image,
        }
        for image in range(58)
    ]
    labels = {f"node.example/label-{each}": f"value-{each}" for each in range(20)}
    conditions = [
        {"type": kind, "status": "False", "reason": f"KubeletHasNo{kind}", "message": f"kubelet has no {kind} problem"}
        for kind in ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")
    ]
    return {
        "metadata": {"name": name, "labels": {**labels, "topology.kubernetes.io/zone": f"zone-{number % 3}"}},
        "spec": {"podCIDR": subnet, "podCIDRs": [subnet, f"fd00:244:0:{number:x}::/64"]},
        "status": {
            "addresses": [{"type": "InternalIP", "address": f"172.16.{third}.{last}"}],
            "conditions": conditions,
            "images": images,
            "capacity": {"cpu": "64", "memory": "263856420Ki", "pods": "250"},
        },
    }


class Caller:
    """Requests over one connection, which is made again when the server has ended it."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        context = ssl.create_default_context(cafile=str(api.ca))
        self._connection = http.client.HTTPSConnection(api.address, api.port, context=context)

    def connect(self) -> None:
        """Connect now, in the network namespace of the calling thread."""
        self._connection.connect()

    def send(self, method: str, path: str, body: object, kind: str = "application/json") -> bytes:
        """The body of the answer."""
        headers = {"Authorization": f"Bearer {self._api.token}", "Content-Type": kind}
        self._connection.request(method, path, json.dumps(body), headers)
        answer = self._connection.getresponse()
        text = answer.read()
        assert answer.status < 300, text
        return text


def beat(caller: Caller, number: int) -> None:
    """What a kubelet writes every five minutes."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    body = {"status": {"conditions": [{"type": "Ready", "lastHeartbeatTime": now, "message": f"beat {time.time()}"}]}}
    caller.send("PATCH", f"/api/v1/nodes/node-{number:05}.example/status", body, STRATEGIC)


def watch(kubeconfig: str) -> None:
    """The process that is measured: a line on stdout for each call of its sink."""
    import importlib

    for name in IMPORTS:
        importlib.import_module(name)
    from nodes.registries.kubernetes.registry import KubernetesRegistry
    from spec.config import Section

    KubernetesRegistry("kubernetes", "node-00001.example", Section({"kubeconfig": kubeconfig})).watch(Printing())


class Printing:
    """A sink that keeps the records and prints when it was called, in monotonic nanoseconds."""

    def __init__(self) -> None:
        self.nodes: dict[str, object] = {}

    def replace(self, entries: Iterable) -> None:
        """As `Sink`."""
        self.nodes = {entry.key: entry for entry in entries}
        self._print("replace", len(self.nodes))

    def put(self, entry: object) -> None:
        """As `Sink`."""
        now = time.monotonic_ns()
        self.nodes[entry.key] = entry
        self._print("put", now, *entry.node.addresses)

    def remove(self, key: str) -> None:
        """As `Sink`."""
        del self.nodes[key]

    def lost(self, why: str) -> None:
        """As `Sink`."""
        self._print("lost", why)

    def alive(self) -> None:
        """As `Sink`."""
        self._print("alive")

    def _print(self, *words: object) -> None:
        print(*words, flush=True)


def memory(pid: int, field: str) -> float:
    """VmRSS or VmHWM of a process in MB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition(f"{field}:")[2].split()[0]) / 1024


def processor(pid: int) -> float:
    """Seconds of the processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def watching(api: ApiServer) -> Iterator[tuple[subprocess.Popen, list[list[str]]]]:
    """The measured process, and the words of its lines so far."""
    argv = [sys.executable, "-m", "bench.kubernetes", "--watch", str(api.kubeconfig)]
    lines: list[list[str]] = []
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        thread = threading.Thread(target=read, args=(process, lines))
        thread.start()
        try:
            yield process, lines
        finally:
            process.kill()
            thread.join()


def read(process: subprocess.Popen, lines: list[list[str]]) -> None:
    """Append the words of each line."""
    for line in process.stdout:
        lines.append(line.split())


def wait(lines: list[list[str]], word: str, times: int = 1) -> None:
    """Until a line has begun with that word so often."""
    while sum(words[0] == word for words in lines) < times:
        time.sleep(0.005)


def measure(api: ApiServer, caller: Caller, count: int, seconds: float) -> dict[str, object]:
    """All figures of one process."""
    with watching(api) as (process, lines):
        started = time.monotonic()
        wait(lines, "alive")
        listed, cost = time.monotonic() - started, processor(process.pid)
        figures = {"start and list, s": listed, "its processor, s": cost}
        figures |= {"resident, MB": memory(process.pid, "VmRSS"), "at most, MB": memory(process.pid, "VmHWM")}
        before, began, number = processor(process.pid), time.monotonic(), 0
        while time.monotonic() - began < seconds:
            time.sleep(max(0.0, began + number * HEARTBEAT / count - time.monotonic()))
            beat(caller, number % count)
            number += 1
        lasted = time.monotonic() - began
        time.sleep(1)
        figures |= {"heartbeats a second": number / lasted}
        figures |= {"of a core, %": (processor(process.pid) - before) / lasted * 100}
        figures["puts by heartbeats"] = sum(words[0] == "put" for words in lines)
        delays = [change(caller, lines, number) for number in range(min(CHANGES, count))]
        figures |= {"change seen, ms": median(delays), "99th percentile, ms": quantiles(delays, n=100)[98]}
        figures["resident at the end, MB"] = memory(process.pid, "VmRSS")
    return figures


def change(caller: Caller, lines: list[list[str]], number: int) -> float:
    """Milliseconds from the request that changes a Node's address to the sink's call."""
    path, address = f"/api/v1/nodes/node-{number:05}.example/status", f"198.51.100.{number % 200}"
    patch = {"status": {"addresses": [{"type": "InternalIP", "address": address}]}}
    known = sum(words[0] == "put" for words in lines)
    sent = time.monotonic_ns()
    caller.send("PATCH", path, patch, STRATEGIC)
    wait(lines, "put", known + 1)
    seen = int([words for words in lines if words[0] == "put"][-1][1])
    time.sleep(_SLEEP)
    return (seen - sent) / 1e6


def main() -> None:
    """Make the Nodes, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=60, help="of heartbeats")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--watch", metavar="KUBECONFIG", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.watch:
        watch(options.watch)
        return
    with tempfile.TemporaryDirectory() as folder, ApiServer(Path(folder) / "api") as api:
        caller = Caller(api)
        sizes = [len(caller.send("POST", "/api/v1/nodes", node(number))) for number in range(options.nodes)]
        print(f"{options.nodes} Nodes of {median(sizes)} bytes; {lab.machine()}")
        figures = measure(api, caller, options.nodes, options.seconds)
    print(tabulate(figures.items(), floatfmt=".1f"))
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
