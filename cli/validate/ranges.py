"""Networks that must not overlap: of pods, links, services, and other network files."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from cli.validate.findings import Finding, not_applicable, or_ok, problem
from cli.validate.node import Facts
from cli.validate.pods import PodNetwork, read_pod_network
from linux.rtnl.describe import likely_owner
from plugins.node import reachability
from spec.addresses import parse_address
from state.files import read_start

_SERVICES = re.compile(rb"--?(?:service-cluster-ip-range|service-cidr)[= \0]([0-9A-Fa-f:./,]+)")
_MANIFEST = "/etc/kubernetes/manifests/kube-apiserver.yaml"
_LARGEST = 1 << 16  # bytes of a command line
_MOST_PROCESSES = 20_000


@dataclass(frozen=True)
class Taken:
    """A network (CIDR) that something has: `by` is a phrase."""

    network: str
    by: str


def check(facts: Facts) -> Iterable[Finding]:
    """Nothing overlaps, and the node routes its pods' subnets to their bridge."""
    pods = facts.pods
    if pods.problem:
        return [
            problem(
                f'the configuration of "{pods.name}" cannot be used: {pods.problem}',
                "mend the key or file that it names",
            )
        ]
    if not pods.subnets:
        return [not_applicable("the network has no subnets that are known")]
    services = read_service_ranges()
    others = [read_pod_network(one) for one in facts.networks if not one.problem and one is not facts.network]
    findings = [*judge(pods, [*_of_links(facts), *services]), *judge_networks(pods, others)]
    if pods.node:
        for sentence in reachability.unreachable_subnets(facts.host, pods.node):
            findings.append(problem(sentence, "ip route get and ip rule show it; take the route or rule away"))
    told = f", services have {', '.join(one.network for one in services)}" if services else ""
    return or_ok(findings, f"pods of this node have {', '.join(pods.subnets)}, and nothing else has a part of it{told}")


def _of_links(facts: Facts) -> Iterator[Taken]:
    """The networks of the node's links, other than those of pods."""
    pods = facts.pods
    own = {pods.bridge, pods.tunnel.device if pods.tunnel else ""}
    for one in facts.addresses:
        link = facts.links.get(one.link)
        is_host = parse_address(one.cidr).prefix == parse_address(one.cidr).bits
        if not one.is_global or not link or link.name in own or link.name.startswith(f"{pods.bridge}.") or not link.up:
            continue
        owner = likely_owner(0, link.name)
        if not is_host or not _is_gateway_of(one.ip, pods):
            yield Taken(one.cidr, f'link "{link.name}"' + (f" ({owner})" if owner else ""))


def _is_gateway_of(address: str, pods: PodNetwork) -> bool:
    """Whether it is the first address of a subnet, or the next one, as plugins without a bridge give it to links."""
    given = parse_address(address)
    return any(given.number - parse_address(subnet).first in (0, 1) for subnet in pods.subnets)


def read_service_ranges() -> list[Taken]:
    """The ranges of services, as the command lines of API servers here, or kubeadm's manifest, have them."""
    texts = []
    with suppress(OSError):
        texts.append(read_start(_MANIFEST, _LARGEST))
    for name in [name for name in os.listdir("/proc") if name.isdecimal()][:_MOST_PROCESSES]:
        with suppress(OSError):
            texts.append(read_start(f"/proc/{name}/cmdline", _LARGEST))
    return list(dict.fromkeys(service for text in texts for service in service_ranges_in(text)))


def service_ranges_in(text: bytes) -> Iterator[Taken]:
    """The ranges in a command line or a manifest."""
    for found in _SERVICES.findall(text):
        for part in found.decode("ascii").split(","):
            with suppress(ValueError):
                yield Taken(parse_address(part).network.cidr, "services (--service-cluster-ip-range)")


def judge(pods: PodNetwork, taken: Iterable[Taken]) -> Iterator[Finding]:
    """What overlaps this node's subnets, or the networks of all pods."""
    for one in taken:
        network = parse_address(one.network)
        owners = [*((own, "pods of this node") for own in pods.subnets), *((own, "all pods") for own in pods.cluster)]
        for mine, what in owners:
            if parse_address(mine).overlaps(network):
                mend = f'give pods other networks in "{pods.name}", or {one.by.split(" (")[0]} another one'
                yield problem(f"{mine} of {what} overlaps {one.network} of {one.by}", mend)
                break


def judge_networks(pods: PodNetwork, others: Sequence[PodNetwork]) -> Iterator[Finding]:
    """With one subnet two networks give two pods one address; with one bridge their gateways are in the way."""
    for other in others:
        if other.name == pods.name:
            continue  # another version of the file
        shared = [(a, b) for a in pods.subnets for b in other.subnets if parse_address(a).overlaps(parse_address(b))]
        mend = f'give "{other.name}" networks and a bridge of its own, or take its file away'
        if shared:
            yield problem(
                f'{shared[0][0]} of "{pods.name}" overlaps {shared[0][1]} of the network "{other.name}"', mend
            )
        elif other.bridge and other.bridge == pods.bridge and other.is_routed and pods.is_routed:
            yield problem(
                f'"{pods.name}" and "{other.name}" have one bridge, "{pods.bridge}", and different subnets', mend
            )
