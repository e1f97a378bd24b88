"""A pod that begins to send before its ADD has answered: nothing passes that its policies forbid."""

import socket
import struct
import time
from collections.abc import Callable
from fcntl import ioctl
from threading import Thread

import pytest

from tests.netns import frames
from tests.netns.cni import CNI
from tests.netns.node import Node, Pod, wait_until
from tests.netns.policy_pods import ALLOW, BRIDGE_POLICY, DENY, add, addresses, conf, decide, deciding

MARK = b"one of the first packets"
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
ETH_P_ALL, PORT = 3, 4242
IPV4, IPV6 = b"\x08\x00", b"\x86\xdd"
BROADCAST, MULTICAST = "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:fb"


class Talker:
    """What is in a pod before its interface is: it sends as soon as it can, and hears whatever arrives."""

    def __init__(self, pod: Pod, packets: list[bytes], macs: list[str]) -> None:
        """`packets`: IP packets, each of which is sent to each of `macs` again and again."""
        with pod.inside():
            self._sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self._ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._ear.settimeout(0.1)
        kinds = {4: IPV4, 6: IPV6}
        own = bytes.fromhex("0200000000aa")
        self._frames = [
            bytes.fromhex(mac.replace(":", "")) + own + kinds[packet[0] >> 4] + packet
            for packet in packets
            for mac in macs
        ]
        self.sent, self.heard, self.failures = [], [], []
        self._ended = False
        self._threads = [Thread(target=self._guarded, args=(part,)) for part in (self._send, self._hear)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Stop, and raise what failed."""
        self._ended = True
        for thread in self._threads:
            thread.join(10)
        self._sender.close()
        self._ear.close()
        assert not self.failures, self.failures

    def _guarded(self, part: Callable[[], None]) -> None:
        try:
            part()
        except BaseException as error:  # noqa: BLE001 (`end` reports it)
            self.failures.append(error)

    def _send(self) -> None:
        while not self._ended:
            try:
                self._bring_up()
                for frame in self._frames:
                    self._sender.sendto(frame, ("eth0", 0))
                self.sent.append(time.monotonic())
            except OSError:  # no interface yet, or it is down
                time.sleep(0.0002)

    def _bring_up(self) -> None:
        """As a process with CAP_NET_ADMIN can, which does not wait for the plugin to do so."""
        flags = struct.unpack("16sH", ioctl(self._sender, SIOCGIFFLAGS, struct.pack("16sH14x", b"eth0", 0))[:18])[1]
        if not flags & IFF_UP:
            ioctl(self._sender, SIOCSIFFLAGS, struct.pack("16sH14x", b"eth0", flags | IFF_UP))

    def _hear(self) -> None:
        while not self._ended:
            try:
                frame, where = self._ear.recvfrom(2000)
            except OSError:
                continue
            # Not an ICMP error of the node, which quotes the packet that it could not deliver.
            is_udp = frame[23 if frame[12:14] == IPV4 else 20] == socket.IPPROTO_UDP
            if MARK in frame and is_udp and where[2] != socket.PACKET_OUTGOING:
                self.heard.append((time.monotonic(), frame))


def packet(source: str, to: str) -> bytes:
    """A UDP datagram with the mark."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    ends = [socket.inet_pton(family, one) for one in (source, to)]
    datagram = frames.udp(b"".join(ends), PORT, MARK)
    if family == socket.AF_INET:
        return frames.ipv4(*ends, datagram)
    return struct.pack(">IHBB", 6 << 28, len(datagram), socket.IPPROTO_UDP, 64) + b"".join(ends) + datagram


def following(address: str) -> str:
    """The address that host-local leases next."""
    head, separator, last = address.rpartition(":" if ":" in address else ".")
    return f"{head}{separator}{int(last) + 1}"


@pytest.fixture
def peer(cni: CNI, node: Node) -> tuple[Pod, list[str], str]:
    """A pod that is not isolated: with its addresses and its MAC."""
    pod = node.pod("peer")
    result = add(cni, conf("bridge"), pod)
    decide(node, addresses(result), ALLOW)
    for links in ("senders", "receivers"):
        node.run(["nft", "flush", "set", *BRIDGE_POLICY.split(), links])
    return pod, addresses(result), result["interfaces"][2]["mac"]


@pytest.mark.parametrize("chains", [DENY, ALLOW], ids=["denied", "allowed"])
def test_nothing_passes_before_the_pod_s_policies_are_in_force(
    cni: CNI, node: Node, peer: tuple[Pod, list[str], str], chains: dict
) -> None:
    """Between a pod and another, that both send from the moment they can, by every MAC that might get it through.

    What the policies allow passes from the decision on, what they deny never does.
    """
    other, its, mac = peer
    mine, pod = [following(ip) for ip in its], node.pod("pod")
    gateway = node.links()["br0"]["address"]
    macs = [mac, gateway, BROADCAST, MULTICAST]
    outward = Talker(pod, [packet(*ends) for ends in zip(mine, its, strict=True)], macs)
    inward = Talker(other, [packet(*ends) for ends in zip(its, mine, strict=True)], [gateway, BROADCAST])
    try:
        with deciding(node, "pod", chains, delay=0.7) as moments:
            result = add(cni, conf("bridge"), pod)
            answered = time.monotonic()
        assert addresses(result) == mine
        if chains is ALLOW:
            assert wait_until(lambda: is_heard(outward, inward), timeout=10)
        else:
            time.sleep(0.5)
    finally:
        outward.end()
        inward.end()
    assert sum(moment < answered for moment in outward.sent) > 100, "it sent too little to prove anything"
    early = [moment for talker in (outward, inward) for moment, _ in talker.heard if moment < moments[0]]
    assert early == []
    assert is_heard(outward, inward) == (chains is ALLOW)
    if chains is DENY:
        assert outward.heard == inward.heard == []


def is_heard(*talkers: Talker) -> bool:
    """Whether all of them have heard packets of both families."""
    return all({frame[12:14] for _, frame in one.heard} == {IPV4, IPV6} for one in talkers)
