"""Policies in a large cluster, on one node: slash24 against kube-router, at the same API server and with the same pods.

    build/venv/bin/python -m bench.policy_cluster [--pods N] [--policies N] [--changes N] [--starts N] [--bin DIR]
                                                  [--json FILE] [--publish DIR]

A real API server has that many Pods (5 kB each, in 100 namespaces) and NetworkPolicies; 100 of the pods are real, on
one node. The two take turns: each is started `starts` times, and sees `changes` policies come and go.

* Creation: a policy that denies connections to a pod. One pod sends another a datagram from another port every
  millisecond; the time is that from the API's answer to the last datagram that arrives. Deletion: to the first.
* Start: until the rules of all pods are complete, on a node that has none yet.
* Memory: resident, when nothing happens any more.

kube-router (v2.1.0, compiled from its module) runs with its firewall alone and with bridged packets passed to iptables,
as it wants. kube-network-policies needs nftables' `queue`, which the kernel here lacks.
"""

import argparse
import json
import random
import re
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import median

from tabulate import tabulate

from bench import lab, report
from bench.kubernetes import Caller
from bench.policy_node import PolicyNode, kube_router, wait_until
from tests.kubernetes.apiserver import STRATEGIC, ApiServer

NAMESPACES, LOCAL = 100, 100
SILENCE = 0.3  # seconds without a datagram: the policy is in force
INTERVAL = 0.001
PROBED = 9
FLAGS = ("--disable-admission-plugins", "ServiceAccount", "--max-requests-inflight", "2000")
PAGE, PLACE = "policy-cost.md", "cluster: written by bench.policy_cluster"
SLASH24, PEER = "slash24", "kube-router"


# -- the cluster ----------------------------------------------------------------------------------------------------


def namespace_of(number: int) -> str:
    """Of a pod or policy."""
    return f"team-{number % NAMESPACES:02}"


def labels_of(number: int) -> dict[str, str]:
    """Of a pod: its application, its role, its version."""
    return {
        "app": f"app-{number // NAMESPACES % 10}",
        "role": ("web", "api", "db")[number % 3],
        "version": str(number % 7),
    }


def pod(number: int) -> dict:
    """A Pod as a Deployment makes it, of some 5 kB."""
    variables = [{"name": f"SETTING_{each:02}", "value": f"value-of-setting-{each:02}" * 3} for each in range(30)]
    notes = {f"notes.example/{each:02}": f"note {each} " * 8 for each in range(12)}
    container = {"name": "main", "image": "images.example/app:v1", "env": variables}
    container["ports"] = [{"name": "http", "containerPort": 8080}, {"name": "metrics", "containerPort": 9090}]
    node = "n1" if number < LOCAL else f"node-{number % 200 + 2}"
    meta = {"name": f"pod-{number}", "labels": labels_of(number), "annotations": notes}
    return {"metadata": meta, "spec": {"nodeName": node, "containers": [container]}}


def status(number: int, address: str = "") -> dict:
    """What its kubelet reports."""
    address = address or f"10.{245 + number // 60000}.{number // 250 % 240}.{number % 250 + 2}"
    host = "192.0.2.1" if number < LOCAL else f"198.51.100.{number % 200 + 2}"
    hosts = {"hostIP": host, "hostIPs": [{"ip": host}]}
    return {"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], **hosts}}


def policy(number: int) -> dict:
    """A policy of a team: by role, from other teams, from networks, by port and by name; for ingress, or both."""
    draw = random.Random(number)
    peers = [
        {"podSelector": {"matchLabels": {"role": draw.choice(("web", "api", "db"))}}},
        {
            "namespaceSelector": {"matchLabels": {"group": f"group-{draw.randrange(10)}"}},
            "podSelector": {"matchExpressions": [{"key": "version", "operator": "NotIn", "values": ["1", "2"]}]},
        },
        {"ipBlock": {"cidr": f"198.18.{draw.randrange(250)}.0/24", "except": [f"198.18.{draw.randrange(250)}.0/28"]}},
    ]
    peers = peers[:2] if draw.random() < 0.7 else [p for p in peers if "ipBlock" not in p]
    ports = draw.choice(([{"port": 8080}], [{"port": "http"}], [{"port": 1024, "endPort": 2048}], []))
    rule = {"from": peers, **({"ports": ports} if ports else {})}
    spec: dict = {"podSelector": {"matchLabels": {"app": f"app-{draw.randrange(10)}"}}, "ingress": [rule]}
    spec["policyTypes"] = ["Ingress"]
    return {"metadata": {"name": f"policy-{number}"}, "spec": spec}


class Cluster:
    """The API server, in the node's namespace, and what it holds."""

    def __init__(self, node: PolicyNode, folder: Path) -> None:
        self.api = ApiServer(folder, host=node.node, flags=FLAGS)
        with node.node.inside():
            self._caller = Caller(self.api)
            self._caller.connect()

    def close(self) -> None:
        """End it."""
        self.api.close()

    def fill(self, pods: int, policies: int) -> None:
        """Create everything but the addresses of this node's pods, which they get with their ADD."""
        nodes = {"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]}}
        self.send("POST", "/api/v1/nodes", {**nodes, "status": {"addresses": [ADDRESS]}})
        for number in range(NAMESPACES):
            labels = {"group": f"group-{number % 10}"}
            self.send("POST", "/api/v1/namespaces", {"metadata": {"name": namespace_of(number), "labels": labels}})
        for number in range(pods):
            self.send("POST", f"/api/v1/namespaces/{namespace_of(number)}/pods", pod(number))
            if number >= LOCAL:
                self.tell(number)
        for number in range(policies):
            self.send("POST", self.policies(number), policy(number))

    def tell(self, number: int, address: str = "") -> None:
        """Report a pod's address."""
        path = f"/api/v1/namespaces/{namespace_of(number)}/pods/pod-{number}/status"
        self.send("PATCH", path, status(number, address), STRATEGIC)

    def policies(self, number: int) -> str:
        """Where a namespace has its policies."""
        return f"/apis/networking.k8s.io/v1/namespaces/{namespace_of(number)}/networkpolicies"

    def send(self, method: str, path: str, body: object, kind: str = "application/json") -> float:
        """A request; returns the moment of the answer."""
        self._caller.send(method, path, body, kind)
        return time.monotonic()


ADDRESS = {"type": "InternalIP", "address": "192.0.2.1"}


# -- the contestants ------------------------------------------------------------------------------------------------


@contextmanager
def slash24(node: PolicyNode, cluster: Cluster) -> Iterator[tuple[int, float]]:
    """Our daemon on a node that has no rules; its process, and the seconds until all pods have theirs."""
    node.node.run(
        ["sh", "-c", "nft delete table inet slash24_policy; nft delete table bridge slash24_policy"], check=False
    )
    bridged(node, on=False)
    began = time.monotonic()
    start_daemon(node, cluster, {})
    try:
        done = wait_until(lambda: is_complete(node), f"all pods have policies: {node.log()[-3000:]}")
        yield node.daemon_pid, done - began
    finally:
        node.stop()


def start_daemon(node: PolicyNode, cluster: Cluster, policy: dict) -> None:
    """With the API as its registry."""
    node.start(policy, "kubernetes", kubeconfig=str(cluster.api.kubeconfig))


def is_complete(node: PolicyNode) -> bool:
    """Whether no pod waits for its policies."""
    page = node.page("policies") or {}
    pods = page.get("pods", ())
    return (
        bool(page.get("complete")) and len({pod["pod"] for pod in pods}) >= LOCAL and not any(p["held"] for p in pods)
    )


@contextmanager
def peer(node: PolicyNode, cluster: Cluster) -> Iterator[tuple[int, float]]:
    """kube-router, likewise."""
    bridged(node, on=True)
    argv = [kube_router(), "--kubeconfig", cluster.api.kubeconfig, "--hostname-override", "n1", "--run-firewall=true"]
    argv += ["--run-router=false", "--run-service-proxy=false", "--enable-ipv6=false", "--health-port", "0"]
    argv += ["--service-cluster-ip-range", "10.96.0.0/16", "--enable-ipv4=true"]
    began = time.monotonic()
    with node.node.path("/run/kube-router.log").open("wb") as log:
        process = node.node.start([str(word) for word in argv], stdout=log, stderr=log)
    try:
        done = wait_until(lambda: chains(node) >= LOCAL, "kube-router has a chain for every pod", 600, pause=0.05)
        yield process.pid, done - began
    finally:
        process.kill()
        process.wait()
        node.node.run(["sh", "-c", "iptables -F; iptables -X; ipset destroy"])


def chains(node: PolicyNode) -> int:
    """How many pods have a chain that the kernel's rules lead to."""
    rules = node.node.run(["iptables-save", "-t", "filter"]).stdout
    return len(set(re.findall(r"-A KUBE-ROUTER-FORWARD -d (\S+)/32 .*-j KUBE-POD-FW", rules)))


def bridged(node: PolicyNode, *, on: bool) -> None:
    """Whether frames that the bridge forwards pass iptables."""
    node.node.run(["sysctl", "-qw", f"net.bridge.bridge-nf-call-iptables={on:d}"])


# -- measurements ---------------------------------------------------------------------------------------------------


class Datagrams:
    """Datagrams from one pod to another, each from another port; when they arrived."""

    def __init__(self, node: PolicyNode, sender: str, receiver: str) -> None:
        self._sender, self._to = node.pods[sender], (node.addresses[receiver], PROBED)
        self._listener = node.pods[receiver].socket("0.0.0.0", "udp")
        self._listener.bind(("0.0.0.0", PROBED))
        self._listener.settimeout(0.1)
        self.last, self._is_over = 0.0, False
        self._threads = [threading.Thread(target=each) for each in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Send no more."""
        self._is_over = True
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _send(self) -> None:
        with self._sender.inside():
            while not self._is_over:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                    sender.sendto(b"x", self._to)
                time.sleep(INTERVAL)

    def _receive(self) -> None:
        while not self._is_over:
            try:
                self._listener.recv(16)
            except TimeoutError:
                continue
            self.last = time.monotonic()

    def wait_for_silence(self) -> float:
        """The moment of the last datagram."""
        wait_until(lambda: time.monotonic() - self.last > SILENCE, "a policy denies", 60, pause=0.005)
        return self.last

    def wait_for_one(self, after: float) -> float:
        """The moment of the first datagram, as exactly as they are sent."""
        wait_until(lambda: self.last > after, "a deleted policy denies no more", 60, pause=0.0005)
        return self.last


def changes(node: PolicyNode, cluster: Cluster, count: int) -> dict[str, list[float]]:
    """Milliseconds to enforcement of policies that come and go. The pods are of one namespace, without any other."""
    took: dict[str, list[float]] = {"creation": [], "deletion": []}
    for number in range(count):
        target = 2 + number % (LOCAL // 2 - 2)
        spec = {"podSelector": {"matchLabels": {"probed": f"p{target}"}}, "policyTypes": ["Ingress"], "ingress": []}
        with closing(Datagrams(node, "pod-0", f"pod-{target}")) as datagrams:
            wait_until(lambda: datagrams.last, "datagrams arrive", 30)
            path = cluster.policies(target)
            at = cluster.send("POST", path, {"metadata": {"name": "probe"}, "spec": spec})
            took["creation"].append(max(datagrams.wait_for_silence() - at, 0.0) * 1000)
            at = cluster.send("DELETE", f"{path}/probe", {})
            took["deletion"].append(max(datagrams.wait_for_one(at) - at, 0.0) * 1000)
    return took


def resident(pid: int) -> float:
    """Memory of a process in MB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^VmRSS:\s+(\d+)", text, re.MULTILINE).group(1)) / 1024


def prepare(node: PolicyNode, cluster: Cluster, pods: int, policies: int) -> None:
    """Fill the cluster, and attach the node's pods."""
    cluster.fill(pods, policies)
    start_daemon(node, cluster, {})
    node.wait_until_ready()
    wait_until(lambda: (node.page("policies") or {}).get("complete"), "everything is listed")
    for number in range(LOCAL):
        cluster.tell(number, node.attach(f"pod-{number}", namespace_of(number)))
        label = {"metadata": {"labels": {"probed": f"p{number}", "app": "probed" if number < LOCAL // 2 else "app-1"}}}
        cluster.send("PATCH", f"/api/v1/namespaces/{namespace_of(number)}/pods/pod-{number}", label, STRATEGIC)
    node.stop()
    start_daemon(node, cluster, {"enabled": False})
    wait_until(lambda: "slash24_policy" not in node.node.ruleset(), "policies are switched off")
    node.stop()


def measure(node: PolicyNode, cluster: Cluster, starts: int, count: int) -> dict[str, dict[str, list[float]]]:
    """Everything, by contestant and figure."""
    found: dict[str, dict[str, list[float]]] = {}
    for _ in range(starts):
        for name, contestant in ((SLASH24, slash24), (PEER, peer)):
            with contestant(node, cluster) as (pid, seconds):
                time.sleep(3)
                got = {"start": [seconds], "memory": [resident(pid)]}
                got |= changes(node, cluster, count)
                got["memory at the end"] = [resident(pid)]
            for figure, values in got.items():
                found.setdefault(name, {}).setdefault(figure, []).extend(values)
    return found


FIGURES = {
    "creation": "a policy's creation to enforcement, ms",
    "deletion": "a policy's deletion to its end, ms",
    "start": "start to complete rules, s",
    "memory": "memory, MB",
    "memory at the end": "memory after the changes, MB",
}


def table(found: dict[str, dict[str, list[float]]], style: str) -> str:
    """Medians, and the ratio to the peer."""
    rows = []
    for figure, what in FIGURES.items():
        ours, theirs = (median(found[name][figure]) for name in (SLASH24, PEER))
        rows.append((what, f"{ours:.1f}", f"{theirs:.1f}", f"{ours / theirs:.2g}"))
    return tabulate(rows, ("", SLASH24, PEER, "ratio"), tablefmt=style, disable_numparse=True)


def main() -> None:
    """Measure, print, and publish if asked to."""
    parser = argparse.ArgumentParser(description="Policies in a large cluster: slash24 against kube-router.")
    parser.add_argument("--pods", type=int, default=10_000, help="of the cluster (default: 10000)")
    parser.add_argument("--policies", type=int, default=1000, help="of the cluster (default: 1000)")
    parser.add_argument(
        "--changes", type=int, default=20, help="policies that come and go after each start (default: 20)"
    )
    parser.add_argument("--starts", type=int, default=3, help="of each contestant (default: 3)")
    parser.add_argument("--bin", type=Path, default=lab.OURS, help="the folder of our executables (default: dist/bin)")
    parser.add_argument("--json", metavar="FILE", help="write every single time there")
    parser.add_argument("--publish", metavar="DIR", type=Path, help=f"put the table into {PAGE} there")
    options = parser.parse_args()
    if options.pods < LOCAL:
        sys.exit(f"bench: at least {LOCAL} pods")
    kube_router()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        node = stack.enter_context(closing(PolicyNode(options.bin.resolve())))
        cluster = stack.enter_context(closing(Cluster(node, folder)))
        prepare(node, cluster, options.pods, options.policies)
        found = measure(node, cluster, options.starts, options.changes)
    note = f"{options.pods:,} pods, {options.policies:,} policies, {LOCAL} pods on the node. {lab.machine()}."
    print(f"{table(found, 'simple')}\n\n{note}")
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": lab.machine(), "times": found}, indent=1) + "\n")
    if options.publish:
        report.fill(options.publish.resolve(), PLACE, (table(found, "github"), note), PAGE)


if __name__ == "__main__":
    main()
