"""Policies of a daemon whose documents are in a folder: documents, pods with names, and what reaches whom."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE, Popen

from daemon.policies.inbox import digest_of, key_of, text_of
from policy.documents import read_document
from tests.netns.cni import CNI
from tests.netns.daemon_tools import Daemon, conf_of
from tests.netns.node import Node, Pod, ask, wait_until
from tests.netns.policy_pods import elements

FOLDER = "/run/policies"
ENABLED = f'[policy]\ndocuments = "{FOLDER}"\n'
PORT = 8080

SENDER = """
import socket, sys, time
sent, end = 0, time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    for address in sys.argv[2:]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.sendto(b"x", (address, 8080))
    sent += 1
    time.sleep(0.003)
print(sent)
"""
"""Sends datagrams to each of the addresses, for some seconds, each from a port of its own; prints how many to each."""

RECEIVER = """
import select, socket, sys
listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listener.bind(("", 8080))
print("ready", flush=True)
count = 0
while listener in select.select([listener, sys.stdin], (), ())[0]:
    count += listener.recv(16) == b"x"
print(count)
"""
"""Counts datagrams until its input ends."""


class Documents:
    """The folder of documents of a node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._folder = node.path(FOLDER)
        self._folder.mkdir(exist_ok=True)

    def write(self, name: str, *documents: dict) -> None:
        """Write a file, as a whole."""
        new = self._folder / f".{name}.new"
        new.write_text("\n---\n".join(map(json.dumps, documents)))
        new.rename(self._folder / name)

    def delete(self, name: str) -> None:
        """Delete a file."""
        (self._folder / name).unlink()

    def await_force(self, daemon: Daemon) -> None:
        """Wait until what is in the files is in force, and nothing else."""
        values = [
            read_document(json.loads(text))
            for path in sorted(self._folder.iterdir())
            for text in path.read_text().split("\n---\n")
        ]
        wanted = {text_of(key_of(value)): digest_of(value) for value in values}
        assert wait_until(lambda: in_force(daemon) == wanted), (wanted, in_force(daemon), daemon.log)


def in_force(daemon: Daemon) -> dict[str, str] | None:
    """The documents that are in force, with their digests; None before the first."""
    with suppress(OSError):
        page = json.loads(daemon.page("policies/documents")[1])
        return page["documents"] if page["complete"] else None
    return None


def policy(name: str, *, ingress: list | None = None, egress: list | None = None, pods: dict | None = None) -> dict:
    """A NetworkPolicy of the namespace "default", for the pods with these labels."""
    rules = {key: value for key, value in (("ingress", ingress), ("egress", egress)) if value is not None}
    spec = {"podSelector": {"matchLabels": pods or {}}, "policyTypes": [key.capitalize() for key in rules], **rules}
    meta = {"namespace": "default", "name": name}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": spec}


def pod_document(name: str, *ips: str, **labels: str) -> dict:
    """A Pod of the namespace "default"."""
    meta = {"namespace": "default", "name": name, "labels": labels}
    status = {"podIPs": [{"ip": ip} for ip in ips]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "status": status}


def add(cni: CNI, name: str) -> tuple[Pod, str]:
    """A pod of the namespace "default", added through the conflist; and its IPv4 address."""
    pod = cni.node.pod(name)
    result = cni.add(conf_of(cni.node), pod, args=f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name}")
    return pod, result["ips"][0]["address"].partition("/")[0]


def delete(cni: CNI, pod: Pod) -> None:
    """Delete a pod."""
    cni.delete(conf_of(cni.node), pod)


def talks(client: Pod, server: Pod, address: str, kind: str = "tcp") -> bool:
    """Whether a connection from `client` to `server` can be opened."""
    with suppress(OSError):
        return bool(ask(client, server, address, PORT, kind))
    return False


def has_address(node: Node, address: str) -> bool:
    """Whether an address is that of a pod, or of one that was deleted and whose connections may be open."""
    lists = (node.run(["nft", "list", "set", "inet", "slash24_policy", name]).stdout for name in ("pods4", "left4"))
    return any(f"{address} " in text for text in lists)


def rules(node: Node) -> str:
    """The tables of policies, as nft prints them; "" if there are none."""
    lists = (node.run(["nft", "list", "table", family, "slash24_policy"], check=False) for family in ("inet", "bridge"))
    return "".join(done.stdout for done in lists)


def is_held(node: Node, address: str) -> bool:
    """Whether the kernel holds the pod with this IPv4 address."""
    return elements(node, "ingress4").get(address) == "held"


def held(daemon: Daemon) -> dict[str, bool]:
    """Whether each pod is held, by name; the page may say it a moment later than the kernel does."""
    return {pod["pod"]: pod["held"] for pod in json.loads(daemon.page("policies")[1])["pods"]}


class Receiver:
    """Counts the datagrams that a pod gets."""

    def __init__(self, pod: Pod) -> None:
        self._process: Popen = pod.start([sys.executable, "-c", RECEIVER], stdin=PIPE, stdout=PIPE, text=True)
        assert self._process.stdout.readline() == "ready\n"

    def count(self) -> int:
        """End it; how many it has got."""
        return int(self._process.communicate(timeout=10)[0])


def send(pod: Pod, seconds: float, *addresses: str) -> Popen:
    """Have a pod send datagrams to each of the addresses for so long; prints how many to each."""
    return pod.start([sys.executable, "-c", SENDER, str(seconds), *addresses], stdout=PIPE, text=True)


def pod_files(node: Node) -> list[Path]:
    """The files of pods."""
    folder = node.path("/run/slash24/pods")
    return sorted(folder.iterdir()) if folder.exists() else []
