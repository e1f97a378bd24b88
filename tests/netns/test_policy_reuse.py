"""The next pod with an address has none of the last one's policies, and none of its open connections."""

import json
import random
import socket
from contextlib import suppress

import pytest

from daemon.policies.setup import open_monitor
from linux.nftables.monitor import ELEMENTS, LOSS
from tests.conformance.support import DUAL, host_local
from tests.netns.cni import CNI, CNIFailure
from tests.netns.node import Node, Pod
from tests.netns.policy_pods import ALLOW, DENY, POLICY, add, addresses, conf, decide, elements, mentions, pod_files
from tests.netns.test_crash import killed

TINY = host_local({"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9", "rangeEnd": "10.1.2.9"})
ADDRESS, PORT = "10.1.2.9", 8080
CONF = conf("bridge", policyWait=0, ipam=TINY)


def open_connection(server: Pod, client: Pod) -> tuple[socket.socket, socket.socket]:
    """A TCP connection from a client to a pod, with a word in each direction: its ends at the client and the pod."""
    listener, caller = server.socket(ADDRESS, "tcp"), client.socket(ADDRESS, "tcp")
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ADDRESS, PORT))
        listener.listen()
        caller.connect((ADDRESS, PORT))
        accepted = listener.accept()[0]
    caller.send(b"there")
    accepted.settimeout(2)
    assert accepted.recv(16) == b"there"
    accepted.send(b"back")
    assert caller.recv(16) == b"back"
    return caller, accepted


def connections(node: Node) -> list[str]:
    """The tracked connections of the address."""
    lines = node.run(["cat", "/proc/net/nf_conntrack"]).stdout.splitlines()
    return [line for line in lines if f"={ADDRESS} " in line]


class Eavesdropper:
    """Hears what arrives in a pod, from before it has its interface."""

    def __init__(self, pod: Pod) -> None:
        with pod.inside():
            self._ear = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        self._ear.settimeout(1)

    def heard(self, source: str) -> list[bytes]:
        """The packets from an address, until none has arrived for a second."""
        found = []
        with suppress(TimeoutError):
            while True:
                packet = self._ear.recv(2000)
                if packet[12:16] == socket.inet_aton(source):
                    found.append(packet)
        return found

    def close(self) -> None:
        """Hear no more."""
        self._ear.close()


@pytest.fixture
def outside(node: Node) -> Pod:
    """A host behind the node's default route, which reaches pods."""
    return node.outside()


def test_connections_of_the_old_pod_do_not_reach_the_new_one(cni: CNI, node: Node, outside: Pod) -> None:
    """Neither while it is held, nor when its policies deny them: a client that does not know goes on sending."""
    old, new = node.pod("old"), node.pod("new")
    add(cni, CONF, old)
    decide(node, [ADDRESS], ALLOW)
    caller, accepted = open_connection(old, outside)
    ear = Eavesdropper(new)
    try:
        assert connections(node)
        cni.delete(CONF, old)
        assert addresses(add(cni, CONF, new)) == [ADDRESS]
        assert connections(node) == []
        with suppress(OSError):
            caller.send(b"is it still you?")
        assert ear.heard("192.0.2.2") == []
        decide(node, [ADDRESS], DENY)
        with suppress(OSError):
            caller.send(b"and now?")
        assert ear.heard("192.0.2.2") == []
    finally:
        ear.close()
        caller.close()
        accepted.close()


def test_a_pod_cannot_answer_what_was_sent_before_it_had_its_address(cni: CNI, node: Node, outside: Pod) -> None:
    """Its answer would complete a connection that no policy has seen; it is what it says itself that counts."""
    first = node.pod("first")
    cni.delete(CONF, first, add(cni, CONF, first))  # so that the node has bridge and tables
    pod = node.pod("pod")
    with outside.socket(ADDRESS, "udp") as caller:
        caller.bind(("192.0.2.2", PORT))
        caller.sendto(b"is there somebody?", (ADDRESS, PORT))
        assert connections(node)
        add(cni, CONF, pod)
        for chains in ({}, DENY):
            decide(node, [ADDRESS], chains)
            with pod.socket(ADDRESS, "udp") as server:
                server.bind((ADDRESS, PORT))
                server.sendto(b"yes", ("192.0.2.2", PORT))
            caller.settimeout(0.5)
            with pytest.raises(TimeoutError):
                caller.recv(16)


def test_the_old_pod_s_policies_are_gone(cni: CNI, node: Node) -> None:
    """The new pod is held whatever was in force for the old one, even if no DEL removed that."""
    old, new = node.pod("old"), node.pod("new")
    add(cni, CONF, old)
    decide(node, [ADDRESS], ALLOW)
    cni.delete(CONF, old)
    assert elements(node, "egress4") == elements(node, "ingress4") == {}
    add(cni, CONF, new)
    assert elements(node, "egress4") == elements(node, "ingress4") == {ADDRESS: "held"}
    decide(node, [ADDRESS], ALLOW)
    node.run(["sh", "-c", "rm /var/lib/cni/networks/net/10*"])  # as if the lease had been lost
    add(cni, CONF, node.pod("third"))
    assert elements(node, "egress4") == elements(node, "ingress4") == {ADDRESS: "held"}
    assert elements(node, "pods4") == {ADDRESS: "v1:net:third:eth0"}


def test_a_late_del_takes_nothing_from_the_new_pod(cni: CNI, node: Node, outside: Pod) -> None:
    """A DEL of the old pod after the ADD of the next one with its address: that one stays as it is."""
    old, new = node.pod("old"), node.pod("new")
    result = add(cni, CONF, old)
    node.run(["sh", "-c", "rm /var/lib/cni/networks/net/10*"])
    add(cni, CONF, new)
    decide(node, [ADDRESS], ALLOW)
    caller, accepted = open_connection(new, outside)
    cni.delete(CONF, old, result)
    assert set(elements(node, "egress4")) == set(elements(node, "ingress4")) == {ADDRESS}
    assert elements(node, "pods4") == {ADDRESS: "v1:net:new:eth0"}
    assert elements(node, "left4") == {}
    caller.send(b"still there")
    assert accepted.recv(16) == b"still there"
    caller.close()
    accepted.close()


def test_addresses_of_deleted_pods_are_remembered_until_they_are_flushed(cni: CNI, node: Node) -> None:
    """DEL does not search all connections; the next ADD with the address does, and then it is forgotten."""
    pod = node.pod("pod")
    add(cni, CONF, pod)
    cni.delete(CONF, pod)
    assert list(elements(node, "left4")) == [ADDRESS]
    add(cni, CONF, pod)
    assert elements(node, "left4") == {}


def test_no_add_or_del_looks_like_damage(cni: CNI, node: Node) -> None:
    """The daemon would compare and cut at once; nor does one that is repeated, undone, or late, nor GC."""
    first = node.pod("first")
    cni.delete(CONF, first, add(cni, CONF, first))  # so that the node has bridge and tables
    with node.inside():
        monitor = open_monitor()
    with monitor:
        pods = [node.pod(f"pod{number}") for number in range(3)]
        dual = {**CONF, "ipam": DUAL}
        results = [add(cni, dual, pod) for pod in pods]
        cni.delete(dual, pods[0], results[0])
        cni.delete(dual, pods[0])
        cni.gc(dual, pods[1])
        add(cni, dual, pods[0])
        assert monitor.changes() == ELEMENTS
        decide(node, addresses(results[1]), ALLOW)
        monitor.changes()
        cni.delete(dual, pods[1])
        with pytest.raises(CNIFailure):
            cni.add({**dual, "bridge": "b/d"}, node.pod("bad"))
        cni.gc(dual)
        assert monitor.changes() == ELEMENTS
        add(cni, dual, pods[1])
        assert monitor.changes() == ELEMENTS
        node.run(["nft", "flush", "map", *POLICY.split(), "ingress4"])
        assert monitor.changes() == LOSS


def test_del_or_gc_after_a_killed_add_leaves_nothing(cni: CNI, node: Node) -> None:
    """After SIGKILL at any moment: no element, no file; the next ADD has the address."""
    conf = {**CONF, "ipam": DUAL}
    moments, lasts, caught = random.Random(24), 0.3, 0  # reproducible, as fractions of the call's duration
    for turn in range(30):
        pod = node.pod(f"pod{turn}")
        running = killed(cni, pod, "ADD", conf, moments.uniform(0, lasts))
        caught += running
        lasts *= 1.1 if running else 0.7
        # Returns after an agent has finished the killed ADD.
        cni.raw("bridge", cni.environ("CHECK", pod), json.dumps(conf))
        if turn % 2:
            cni.gc(conf)
        else:
            cni.delete(conf, pod)
        assert not mentions(node, f"v1:net:{pod.name}:eth0")
        assert pod_files(node) == {}
    assert caught > 2, f"only {caught} of 30 calls were still running when killed"
    cni.check(conf, pod, add(cni, conf, pod))
