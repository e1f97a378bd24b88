"""Sends the probe from inside the pod, and takes in what happens to it, for two seconds at most."""

import os
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from cli.exits import Failure
from cli.trace.marking import marked
from cli.trace.probe import ICMP, TCP, THERE, UDP, Probe, Reply, direction_of, new_mark, reply_in, segment, transport_of
from cli.trace.runs import runs_of
from linux.capture import Sight, Tap
from linux.netns import entered
from linux.nftables.trace import Step, Tracer

_SECONDS = 2.0
_AFTER_DROP = 0.3
"""Of waiting for the answer of a rule that rejects, or for nothing."""
_LONGEST = 2048
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER_BYTES = 4 << 20  # a raw socket gets all that the pod gets of the protocol
_KINDS = {TCP: socket.SOCK_STREAM, UDP: socket.SOCK_DGRAM}
_MOST = 500  # steps, sights


@dataclass
class Evidence:
    """What happened. `untraced`: why rules were not traced, sentences. `sights`: on the node's links, in order.

    `arrivals`: of the probe in the namespace of the target, if that is a pod of this node.
    """

    probe: Probe
    untraced: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    sights: list[Sight] = field(default_factory=list)
    arrivals: list[Sight] = field(default_factory=list)
    reply: Reply | None = None
    error: OSError | None = None


@contextmanager
def _reserved(protocol: str, source: str) -> Iterator[int]:
    """A source port that nothing else in the calling thread's namespace uses; of ICMP an identifier."""
    if protocol == ICMP:
        yield int.from_bytes(os.urandom(2), "big")
        return
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    with socket.socket(family, _KINDS[protocol]) as bound:
        bound.bind((source, 0))
        yield bound.getsockname()[1]


def send(pod: int, target: int | None, protocol: str, source: str, destination: str, port: int) -> Evidence:
    """Send a probe from the namespace `pod`, and watch it on this node and in the namespace `target`.

    Both are descriptors. Raises Failure, OSError.
    """
    with ExitStack() as stack:
        with entered(pod):
            try:
                source_port = stack.enter_context(_reserved(protocol, source))
            except OSError as error:
                raise Failure(f"the pod has not the address {source}: {error.strerror}") from error
            probe = Probe(protocol, source, destination, port, source_port, new_mark(protocol))
            wires = _wires(stack, probe)
        evidence = Evidence(probe)
        far = None
        if target is not None:
            with entered(target):
                far = stack.enter_context(Tap(probe.mark[-4:], probe.places))
        near, tracer = stack.enter_context(Tap(probe.mark[-4:], probe.places)), stack.enter_context(Tracer())
        evidence.untraced += stack.enter_context(marked(probe))
        try:
            wires[0].sendto(segment(probe), (destination, 0))
        except OSError as error:
            evidence.error = error
            return evidence
        _watch(evidence, near, far, tracer, wires)
        if tracer.lost:
            evidence.untraced.append("some rules are not shown: the kernel told of them faster than they could be read")
    return evidence


def _wires(stack: ExitStack, probe: Probe) -> list[socket.socket]:
    """Raw sockets: the one that sends and receives the probe's protocol, and one for ICMP errors."""
    family = socket.AF_INET6 if probe.version == 6 else socket.AF_INET
    icmp = socket.IPPROTO_ICMPV6 if probe.version == 6 else socket.IPPROTO_ICMP
    wires = []
    for number in dict.fromkeys((probe.number, icmp)):
        wire = stack.enter_context(socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, number))
        wire.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
        wire.bind((probe.source, 0))
        wires.append(wire)
    return wires


def _watch(evidence: Evidence, near: Tap, far: Tap | None, tracer: Tracer, wires: list[socket.socket]) -> None:
    poll = select.poll()
    for one in (near, tracer, *wires, *([far] if far else [])):
        poll.register(one, select.POLLIN)
    deadline = time.monotonic() + _SECONDS
    while (left := deadline - time.monotonic()) > 0:
        poll.poll(left * 1000)
        _take(evidence, near, far, tracer)
        evidence.reply = evidence.reply or _reply(evidence.probe, wires)
        if evidence.reply:
            deadline = min(deadline, time.monotonic() + 0.05)
        elif any(run.is_dropped for run in runs_of(evidence.probe, evidence.steps)):
            deadline = min(deadline, time.monotonic() + _AFTER_DROP)
    _take(evidence, near, far, tracer)


def _take(evidence: Evidence, near: Tap, far: Tap | None, tracer: Tracer) -> None:
    probe = evidence.probe
    steps, sights = tracer.read(), near.read()
    evidence.steps += steps[: _MOST - len(evidence.steps)]
    evidence.sights += sights[: _MOST - len(evidence.sights)]
    if far:
        evidence.arrivals += [
            one for one in far.read() if not one.is_outgoing and direction_of(probe, one.packet) == THERE
        ]


def _reply(probe: Probe, wires: list[socket.socket]) -> Reply | None:
    """The first answer that one of the sockets has received."""
    for wire in wires:
        for _ in range(_MOST):
            try:
                data, (sender, *_) = wire.recvfrom(_LONGEST)
            except OSError:  # nothing more, or what an ICMP error says, which the other socket has
                break
            body = transport_of(data) if probe.version == 4 else data
            if reply := reply_in(probe, wire.proto, body, sender.partition("%")[0]):
                return reply
    return None
