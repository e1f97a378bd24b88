"""Logs denied packets: a line for each that the rules send to the daemon's nflog group, with names and the reason.

The rules send at most ten packets a second, so a flood of denied packets is no flood of lines.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from socket import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP
from threading import Event, Thread

from agent.log import NOTICE, WARNING, Log
from linux.nflog import LoggedPacket, Nflog
from policy.compiled import EGRESS, INGRESS, Compiled
from policy.connections import judge_of, own_addresses
from policy.settings import Settings
from policy.verdicts import METADATA, Judge, Packet, Verdict
from spec.addresses import unpack

_PROTOCOLS = {
    IPPROTO_TCP: "tcp",
    IPPROTO_UDP: "udp",
    IPPROTO_SCTP: "sctp",
    IPPROTO_ICMP: "icmp",
    IPPROTO_ICMPV6: "icmpv6",
}
_ROUND_SECONDS, _AGAIN_SECONDS, _LOST_SECONDS = 1.0, 10.0, 60.0


class Denials:
    """A thread that logs what is denied, in the network namespace of the thread that calls `start`."""

    def __init__(
        self, group: int, compiled: Callable[[], Compiled], settings: Settings, name_of: Callable[[str], str], log: Log
    ) -> None:
        """`compiled`: what is in force. `name_of`: "namespace/name" of the pod with an address, "" if none is known."""
        self._group, self._compiled, self._settings, self._name_of, self._log = group, compiled, settings, name_of, log
        self._stops = Event()
        self._thread = Thread(target=self._run, name="denials", daemon=True)
        self._judged: tuple[Compiled, Judge] | None = None
        self._problem, self._lost, self._lost_at = "", 0, float("-inf")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; it takes a second at most."""
        self._stops.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        """Whatever fails is tried again, and said once."""
        while not self._stops.is_set():
            try:
                with Nflog(self._group) as nflog:
                    self._follow(nflog)
            except Exception as error:  # noqa: BLE001 (nothing that a packet or a policy has may end the thread)
                why = f"{type(error).__name__}: {error}"
                problem = f"denied packets cannot be logged (nflog group {self._group}): {why}"
                if problem != self._problem:
                    self._log(WARNING, {"event": "denials-failed", "msg": problem})
                self._problem = problem
                self._stops.wait(_AGAIN_SECONDS)

    def _follow(self, nflog: Nflog) -> None:
        self._lost = 0
        while not self._stops.is_set():
            for packet in nflog.receive(seconds=_ROUND_SECONDS):
                compiled = self._compiled()
                judge, is_to_node = self._judge(compiled), _is_own_node(packet.destination)
                self._log(NOTICE, fields_of(packet, compiled, judge, self._name_of, is_to_node=is_to_node))
            self._problem = ""
            self._report_lost(nflog.lost)

    def _report_lost(self, lost: int) -> None:
        """At most once a minute."""
        now = time.monotonic()
        if lost > self._lost and now > self._lost_at + _LOST_SECONDS:
            self._log(WARNING, {"event": "denials-lost", "msg": "denied packets came faster than they can be logged"})
            self._lost, self._lost_at = lost, now

    def _judge(self, compiled: Compiled) -> Judge:
        if not self._judged or self._judged[0] is not compiled:
            judge = judge_of(compiled, self._settings, _is_own_node)
            self._judged = compiled, judge
        return self._judged[1]


def _is_own_node(address: bytes) -> bool:
    return own_addresses()(address)


class _End:
    """One end of a packet, with the name of its pod if that is known."""

    def __init__(self, address: str, compiled: Compiled, name_of: Callable[[str], str]) -> None:
        one = compiled.pods.get(address)
        self.address, self.pod = address, (one.pod if one else "") or name_of(address)

    def __str__(self) -> str:
        return self.pod or self.address

    def fields(self, key: str) -> Mapping[str, object]:
        return {key: self.address, **({f"{key}Pod": self.pod} if self.pod else {})}


def fields_of(
    packet: LoggedPacket, compiled: Compiled, judge: Judge, name_of: Callable[[str], str], *, is_to_node: bool = False
) -> Mapping[str, object]:
    """The line about a denied packet: its direction, ends, protocol, port, the policies, and a sentence that says why.

    `compiled` and `judge` may be newer than what denied it. `is_to_node`: it was sent to this node itself.
    """
    source, destination = (_End(unpack(end), compiled, name_of) for end in (packet.source, packet.destination))
    is_ingress = packet.prefix.startswith(INGRESS)
    direction, subject = (INGRESS, destination) if is_ingress else (EGRESS, source)
    protocol = _PROTOCOLS.get(packet.protocol, str(packet.protocol))
    what = f"{protocol} {packet.port}" if packet.port else protocol
    one = compiled.pods.get(subject.address)
    policies = [name for kind, name in (one.policies if one else ()) if kind == direction]
    is_special = is_to_node or (not is_ingress and packet.destination in METADATA)
    verdict = judge.decide(Packet(packet.source, packet.destination, packet.protocol, packet.port))
    attempt = f"{what} {f'from {source}' if is_ingress else f'to {destination}'}"
    return {
        "event": "denied",
        "direction": direction,
        **source.fields("source"),
        **destination.fields("destination"),
        "protocol": protocol,
        **({"port": packet.port} if packet.port else {}),
        **({"policies": ",".join(policies)} if policies else {}),
        "msg": _sentence(str(subject), attempt, verdict, () if is_special else policies),
    }


def _sentence(pod: str, attempt: str, verdict: Verdict, policies: Sequence[str]) -> str:
    """Why a pod is denied something.

    `policies`: those that can be the reason. A name with a slash is that of a NetworkPolicy; the others are
    cluster-wide, and their rules say what they deny.
    """
    if verdict.is_allowed:
        return f"{pod} was denied {attempt}, by policies that have changed since"
    isolating = [name for name in policies if "/" in name]
    if not isolating or len(isolating) < len(policies):
        return f"{pod} is denied {attempt} ({verdict.why})"
    kind = "NetworkPolicy" if len(isolating) == 1 else "NetworkPolicies"
    names = " and ".join(f'"{name}"' for name in isolating)
    return f"{pod} is isolated by {kind} {names}; none of its policies allows {attempt}"
