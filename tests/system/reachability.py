"""Who reaches whom in a cluster: every node and a pod on each, on underlays that are strict."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.netns.node import Host, ask
from tests.system.underlay import Member, Underlay

PORT = 8000


def pass_own_addresses_alone(underlay: Underlay) -> None:
    """Drop packets whose source is not an address of the sending node, as clouds do."""
    rules = ["add table bridge cloud", "add chain bridge cloud from { type filter hook prerouting priority 0; }"]
    for member in underlay.members:
        own = [one.partition("/")[0] for one in member.node.addresses("eth0")]
        for ip, addresses in (
            ("ip", ["0.0.0.0", *(one for one in own if ":" not in one)]),
            ("ip6", ["::", "fe80::/10", *(one for one in own if ":" in one)]),
        ):
            allowed = f"{ip} saddr != {{ {', '.join(addresses)} }}"
            rules.append(f"add rule bridge cloud from iifname n{member.number} {allowed} counter drop")
    underlay.fabric.run(["nft", "-f", "-"], stdin="\n".join([*rules, ""]))


def check_sources_strictly(underlay: Underlay) -> None:
    """Set rp_filter=1 on every node, for existing and future links."""
    for member in underlay.members:
        for link in ("all", "default", "eth0"):
            member.node.run(["sysctl", "-qw", f"net.ipv4.conf.{link}.rp_filter=1"])


@dataclass(frozen=True)
class Party:
    """A pod or a node of the cluster: its name, host, node, and addresses of IPv4 and IPv6."""

    name: str
    host: Host
    member: Member
    addresses: tuple[str, str]
    is_pod: bool


def parties(members: Sequence[Member]) -> list[Party]:
    """The nodes, and a new pod on each."""
    found = [Party(f"node {m.number}", m.node, m, m.addresses, is_pod=False) for m in members]
    for member in members:
        pod = member.add("pod")
        addresses = (member.address(pod, 4), member.address(pod, 6))
        found.append(Party(f"pod {member.number}", pod, member, addresses, is_pod=True))
    return found


def unreached(sources: Sequence[Party], targets: Sequence[Party]) -> list[str]:
    """Each failure of a source to reach a target by ICMP, TCP or UDP, and each pod seen by an address not its own."""
    problems = []
    for source in sources:
        for target in targets:
            if source is target:
                continue
            for place, address in enumerate(target.addresses):
                # Addresses of new pods may still be tentative (duplicate address detection): ping waits for that.
                if not source.host.reaches(address, timeout=10):
                    problems.append(f"{source.name} to {target.name}: no echo from {address}")
                for kind in ("tcp", "udp"):
                    what = f"{source.name} to {target.name} by {kind} to {address}"
                    try:
                        seen = ask(source.host, target.host, address, PORT, kind)
                    except OSError as error:
                        problems.append(f"{what}: {error}")
                    else:
                        if source.is_pod and target.is_pod and seen != source.addresses[place]:
                            problems.append(f"{what}: seen as {seen}")
    return problems
