"""Pods with network policies on a test's node, and a stand-in for the daemon that decides on them."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

from tests.conformance.support import DUAL
from tests.conformance.support import network as bridge_network
from tests.netns import cluster_tools
from tests.netns.cni import CNI
from tests.netns.node import Host, Node, Pod

POLICY, BRIDGE_POLICY = "inet slash24_policy", "bridge slash24_policy"
PODS, PID_FILE = "/run/slash24/pods", "/run/slash24/slash24-node.pid"
ARGS = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={name};K8S_POD_UID=uid-{name}"
DENY, ALLOW = {"egress": "denied_egress", "ingress": "denied_ingress"}, {"egress": "to_ingress", "ingress": "allowed"}
"""Chains for pods of the test, by direction."""


def conf(kind: str, **keys: object) -> dict:
    """A dual-stack network of a plugin, with policies."""
    keys = {"policyWait": 30, **keys}
    return bridge_network(**{"ipam": DUAL, **keys}) if kind == "bridge" else cluster_tools.network(kind, **keys)


def add(cni: CNI, conf: dict, pod: Pod) -> dict:
    """ADD, as a pod of Kubernetes."""
    return cni.add(conf, pod, args=ARGS.format(name=pod.name))


def addresses(result: dict) -> list[str]:
    """The addresses of an ADD's result, without prefix lengths."""
    return [ip["address"].partition("/")[0] for ip in result["ips"]]


def pod_files(node: Node) -> dict[str, dict]:
    """The files of pods, by name."""
    return {path.name: json.loads(path.read_text()) for path in node.path(PODS).glob("*")}


def elements(node: Node, name: str, table: str = POLICY) -> dict[str, str]:
    """The elements of a set or map of the policies: key to the chain of the verdict, or to the comment."""
    kind, text = "set", node.run(["nft", "-j", "list", "table", *table.split()], check=False).stdout
    found = {}
    for entry in json.loads(text)["nftables"] if text else ():
        for kind in ("set", "map"):
            if entry.get(kind, {}).get("name") == name:
                for element in entry[kind].get("elem", []):
                    key, value = element if kind == "map" else (element, "")
                    comment = ""
                    if isinstance(key, dict) and "elem" in key:
                        key, comment = key["elem"]["val"], key["elem"].get("comment", "")
                    target = value["goto"]["target"] if isinstance(value, dict) and "goto" in value else comment
                    found[json.dumps(key) if isinstance(key, dict) else str(key)] = target
    return found


def mentions(node: Node, owner: str) -> bool:
    """Whether a rule or element of the node has this owner's tag."""
    return f'"{owner}"' in node.ruleset()


def decide(node: Node, ips: list[str], chains: dict[str, str]) -> None:
    """Replace `held` by other chains for all addresses of a pod in one transaction, as the daemon does."""
    node.run(["nft", "add", "chain", *POLICY.split(), "allowed", "{ accept; }"])
    lines, owners = [], elements(node, "pods4") | elements(node, "pods6")
    for ip in ips:
        family = "6" if ":" in ip else "4"
        for direction, chain in chains.items():
            where = f"{POLICY} {direction}{family}"
            lines.append(f"delete element {where} {{ {ip} }}")
            lines.append(f'add element {where} {{ {ip} comment "{owners[ip]}" : goto {chain} }}')
    node.run(["nft", "-f", "-"], stdin="\n".join(lines))


@contextmanager
def daemon(node: Node) -> Iterator[None]:
    """As if a daemon ran: this process holds its lock."""
    path = node.path(PID_FILE)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def deciding(node: Node, name: str, chains: dict[str, str], *, delay: float = 0) -> Iterator[list[float]]:
    """A daemon that decides on the pod of that name `delay` seconds after it has learnt of it.

    Yields a list for the moment (monotonic) before it does.
    """
    ended, failures, moments = False, [], []

    def watch() -> None:
        while not ended:
            found = [one for one in pod_files(node).values() if one["name"] == name]
            if found:
                time.sleep(delay)
                moments.append(time.monotonic())
                decide(node, found[0]["ips"], chains)
                return
            time.sleep(0.002)

    def guarded() -> None:
        try:
            watch()
        except BaseException as error:  # noqa: BLE001 (it is raised where it belongs)
            failures.append(error)

    with daemon(node):
        thread = Thread(target=guarded)
        thread.start()
        try:
            yield moments
        finally:
            ended = True
            thread.join(20)
    if failures:
        raise failures[0]


def talks(client: Host, server: Host, address: str, *, kind: str = "tcp", port: int = 8080) -> bool:
    """Whether a client gets a word to a server, and an answer back."""
    with server.socket(address, kind) as listener, client.socket(address, kind) as caller:
        caller.settimeout(0.6)
        listener.settimeout(0.6)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        with suppress(OSError):
            if kind == "udp":
                caller.sendto(b"word", (address, port))
                word, seen = listener.recvfrom(16)
                listener.sendto(word, seen)
                return caller.recv(16) == b"word"
            listener.listen()
            caller.connect((address, port))
            with listener.accept()[0] as connection:
                connection.settimeout(1)
                connection.send(b"word")
                return caller.recv(16) == b"word"
    return False
