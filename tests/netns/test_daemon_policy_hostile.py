"""The daemon's policies under those who want the worst: documents that never rest, that lie, and floods of packets."""

import itertools
import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from subprocess import PIPE
from threading import Event, Thread

import pytest

from tests.netns.agent_tools import Start as StartAgent
from tests.netns.agent_tools import ViaAgent, agents_started, calls_by_agent
from tests.netns.cni import CNI
from tests.netns.daemon_policy_tools import ENABLED, Documents, add, delete, is_held, pod_document, policy, talks
from tests.netns.daemon_tools import Daemon, Start, daemons_started
from tests.netns.node import Node, Pod, wait_until

__all__ = ["agents_started", "calls_by_agent", "daemons_started"]

pytestmark = pytest.mark.cold
FROM_CLIENTS = [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]
FROM_NETWORK = [{"from": [{"ipBlock": {"cidr": "198.51.100.0/24"}}]}]
LOGGED_A_SECOND, LOGGED_AT_ONCE = 10, 20

FLOOD = """
import socket, sys, time
one, end, sent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), time.monotonic() + 2, 0
while time.monotonic() < end:
    for port in range(1, 2000):
        one.sendto(b"x", (sys.argv[1], port))
        sent += 1
print(sent)
"""
"""Sends datagrams to many ports of an address, as fast as it can; prints how many."""


def begin(node: Node, daemon: Start, more: str = "", **apps: str) -> tuple[Daemon, Documents]:
    """A daemon with documents of Pods with the label "app", and of a policy for those that are "web"."""
    documents = Documents(node)
    documents.write("pods.yaml", *(pod_document(name, app=app) for name, app in apps.items()))
    documents.write("web.yaml", policy("web", ingress=FROM_CLIENTS, pods={"app": "web"}))
    one = daemon("vxlan", more=ENABLED + more).await_ready()
    documents.await_force(one)
    return one, documents


@contextmanager
def changing(documents: Documents) -> Iterator[None]:
    """Policies change fifty times a second meanwhile."""
    stops = Event()

    def change() -> None:
        for turn in itertools.count():
            rules = FROM_NETWORK if turn % 2 else FROM_CLIENTS
            documents.write(f"{turn % 5}.yaml", policy(f"p{turn % 5}", ingress=rules, pods={"app": "web"}))
            if stops.wait(0.02):
                return

    thread = Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        stops.set()
        thread.join()


def test_documents_that_never_rest_keep_no_pod_waiting(
    node: Node, warm: ViaAgent, start: StartAgent, daemon: Start
) -> None:
    """Each pod has its policies when its ADD returns, and the last of the documents is in force in the end."""
    names = [f"web{number}" for number in range(20)]
    one, documents = begin(node, daemon, other="other", **dict.fromkeys(names, "web"))
    start()
    other, _ = add(warm, "other")
    with changing(documents):
        for name in names:
            web, address = add(warm, name)
            assert not is_held(node, address)
        assert not talks(other, web, address)
    documents.await_force(one)
    assert one.metric("slash24_policy_failures_total") == 0


def test_a_document_cannot_lend_its_labels_to_an_attached_pod(node: Node, cni: CNI, daemon: Start) -> None:
    """Whatever addresses it says are its own; and to no other does it take away what it has."""
    one, documents = begin(node, daemon, web="web", client="client", other="other")
    (web, address), (client, its), (other, others) = (add(cni, name) for name in ("web", "client", "other"))
    for ghost in (
        pod_document("ghost", others, address, "10.244.8.1", "192.0.2.1", "0.0.0.0", "::", "ff02::1", app="client"),
        pod_document("ghost", its, address, app="nobody"),
    ):
        documents.write("ghost.yaml", ghost)
        documents.await_force(one)
        assert talks(client, web, address)
        assert not talks(other, web, address)


def test_a_flood_of_denied_packets_is_no_flood_of_lines(node: Node, cni: CNI, daemon: Start) -> None:
    """All are counted; meanwhile pods come, and documents change."""
    one, documents = begin(node, daemon, "log = true\n", web="web", client="client", other="other")
    begun = time.monotonic()
    (_, address), (other, _) = add(cni, "web"), add(cni, "other")
    flood = other.start([sys.executable, "-c", FLOOD, address], stdout=PIPE, text=True)
    _, late = add(cni, "client")
    assert not is_held(node, late)
    documents.write("client.yaml", policy("client", ingress=[], pods={"app": "client"}))
    documents.await_force(one)
    sent = int(flood.communicate(timeout=20)[0])
    labels = '{direction="ingress",namespace="default",pod="web",policy="default/web"}'
    assert one.metric(f"slash24_policy_denied_packets_total{labels}") == sent
    lines = one.log.count("event=denied ")
    assert 0 < lines <= LOGGED_A_SECOND * (time.monotonic() - begun) + LOGGED_AT_ONCE
    assert json.loads(one.page("readyz")[1])["problems"] == []


@pytest.mark.parametrize(
    "damage",
    [
        "flush ruleset",
        "delete table bridge slash24_source_validation",
        "flush set bridge slash24_source_validation bound",
    ],
)
def test_a_pod_cannot_borrow_an_address_after_damage(node: Node, cni: CNI, daemon: Start, damage: str) -> None:
    """Policies judge by the source: that it is the pod's own is kept, too, while pods come and go."""
    begin(node, daemon, web="web", client="client", other="other", gone="other")
    (web, address), (_, its), (other, _) = (add(cni, name) for name in ("web", "client", "other"))
    gone, _ = add(cni, "gone")
    before = bound(node)
    other.run(["ip", "addr", "add", f"{its}/32", "dev", "eth0"])
    assert not spoofs(other, web, its, address)
    node.run(["nft", *damage.split()])
    assert wait_until(lambda: bound(node) == before), bound(node)
    assert not spoofs(other, web, its, address)
    delete(cni, gone)
    node.run(["nft", *damage.split()])
    assert wait_until(lambda: bound(node) == [line for line in before if ":gone:" not in line]), bound(node)
    assert not talks(other, web, address)


def bound(node: Node) -> list[str]:
    """The elements of source validation, by their owners."""
    text = node.run(["nft", "list", "table", "bridge", "slash24_source_validation"], check=False).stdout
    return sorted(re.findall(r'"veth\w+"[^,{}]* comment "v1:[^"]+"', text))


def spoofs(liar: Pod, listener: Pod, source: str, address: str) -> bool:
    """Whether a datagram from an address that another pod has is received."""
    with listener.socket(address, "udp") as ear, liar.socket(source, "udp") as mouth:
        ear.bind((address, 8080))
        ear.settimeout(0.5)
        mouth.bind((source, 0))
        mouth.sendto(b"word", (address, 8080))
        with suppress(TimeoutError):
            return ear.recv(16) == b"word"
    return False
