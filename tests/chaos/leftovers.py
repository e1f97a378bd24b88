"""The state that a node should have for its living pods: each difference is a leftover or a loss."""

import ipaddress
import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.networks import FOREIGN_LEASES, NETWORKS, PEERS, Network
from tests.netns.node import Node
from tests.netns.way import namespaces_held

_LEASES = "/var/lib/cni/networks"
UPLINK = "wan0"
# Sysctls in which the kernel counts or generates values.
_READINGS = {"netfilter/nf_conntrack_count", "ipv4/tcp_fastopen_key", "ipv4/inet_peer_threshold", "ipv4/fib_sync_mem"}


@dataclass(frozen=True)
class Attached:
    """A living pod: its network, container id and the final result of its ADD."""

    network: Network
    container_id: str
    result: dict

    @property
    def owner(self) -> str:
        """The owner as written in the comments of nftables elements."""
        return f"v1:{self.network.name}:{self.container_id}:eth0"

    @property
    def addresses(self) -> list[str]:
        """The pod's addresses, without prefix lengths."""
        return [ip["address"].partition("/")[0] for ip in self.result["ips"]]

    def host_ends(self) -> list[str]:
        """The names of its links on the node: host veth and ifb."""
        names = [i["name"] for i in self.result["interfaces"] if not i.get("sandbox")]
        return [name for name in names if name.partition(".")[0] != self.network.bridge]


def problems(node: Node, living: Collection[Attached], agents: Iterable[int] = ()) -> list[str]:
    """The differences between the node's state and what it should be, one sentence each; `agents` are process ids."""
    found = [*_leases(node, living), *_foreign_leases(node, living), *_links(node, living)]
    found += [*_elements(node, living), *_chains(node, living), *_shaping(node, living), *_namespaces(node, living)]
    found += _peers(node, living)
    found += [f"a process of the foreign plugin: {pid}" for pid in _foreign_processes(node)]
    for pid in agents:
        found += [f"the agent {pid} holds {link}" for link in namespaces_held(pid)]
    return found


def _difference(what: str, there: Collection, wanted: Collection) -> list[str]:
    surplus, missing = Counter(there) - Counter(wanted), Counter(wanted) - Counter(there)
    return [f"{what} without a pod: {item}" for item in surplus] + [f"no {what} for a pod: {item}" for item in missing]


def _leases(node: Node, living: Collection[Attached]) -> list[str]:
    """Leases of host-local, and its index of their owners."""
    found = []
    for network in NETWORKS:
        if not network.has_our_leases:
            continue
        folder = node.path(f"{_LEASES}/{network.name}")
        theirs = [pod for pod in living if pod.network == network]
        leases = []
        for file in folder.glob("*"):
            with suppress(ValueError):
                leases.append((str(ipaddress.ip_address(file.name)), file.read_bytes().decode()))
        wanted = [(address, f"{pod.container_id}\r\neth0") for pod in theirs for address in pod.addresses]
        found += _difference(f"lease of {network.name}", leases, wanted)
        entries = [file.name for file in (folder / ".slash24").glob("*/*") if file.name.count(":") > 1]
        wanted = [f"{pod.container_id}:eth0:{index}" for pod in theirs for index in range(len(pod.addresses))]
        found += _difference(f"entry of {network.name}", entries, wanted)
    return found


def _foreign_leases(node: Node, living: Collection[Attached]) -> list[str]:
    folder = node.path(FOREIGN_LEASES)
    leases = [(file.name, os.readlink(file)) for file in folder.glob("*")] if folder.is_dir() else []
    wanted = [(pod.addresses[0], f"{pod.container_id}:eth0") for pod in living if pod.network.is_foreign]
    return _difference("foreign lease", leases, wanted)


def _links(node: Node, living: Collection[Attached]) -> list[str]:
    all_links = node.links()
    links = [name for name in all_links if name not in _of_the_node(all_links)]
    found = _difference("link", links, [name for pod in living for name in pod.host_ends()])
    wanted = sum(1 + pod.network.ifbs for pod in living)
    return [*found, *([] if len(links) == wanted else [f"{len(links)} links, for pods that have {wanted}"])]


def _of_the_node(links: Mapping[str, Mapping]) -> set[str]:
    """Links that do not belong to pods: the bridges, the uplink, the gateway of a VLAN and its port."""
    found = {network.bridge for network in NETWORKS} | {"lo", UPLINK, "slash24.1"}
    gateways = [name for name in links if name.partition(".")[0] in found and "." in name]
    return found.union(gateways, (links[name]["link"] for name in gateways if "link" in links[name]))


def _peers(node: Node, living: Collection[Attached]) -> list[str]:
    """Routes to the other nodes, which must be correct as long as the overlay has a living pod."""
    if not any(pod.network.is_overlay for pod in living):
        return []
    there = [one["dst"] for version in ("-4", "-6") for one in node.ip(version, "route", "show", "proto", "24")]
    return _difference("route to a peer", there, [subnet for peer in PEERS for subnet in peer["podCIDRs"]])


def _elements(node: Node, living: Collection[Attached]) -> list[str]:
    elements = re.findall(r'comment "(v1:[^"]*)"', node.ruleset())
    return _difference("element", elements, [pod.owner for pod in living for _ in range(pod.network.elements)])


def _chains(node: Node, living: Collection[Attached]) -> list[str]:
    """Chains of subnets that have no pod."""
    used = {str(ipaddress.ip_interface(ip["address"]).network) for pod in living for ip in pod.result["ips"]}
    chains = re.findall(r"chain (?:subnet|from)-(\S+)", node.ruleset())
    return [f"chain of {name}, where no pod is" for name in set(chains) if name.replace("_", ":") not in used]


def _shaping(node: Node, living: Collection[Attached]) -> list[str]:
    shaped = {name for pod in living if pod.network.ifbs for name in pod.host_ends()}
    qdiscs = json.loads(node.run(["tc", "-j", "qdisc"]).stdout)
    on = {one["dev"] for one in qdiscs if one["kind"] in ("tbf", "ingress", "clsact")}
    return _difference("shaping", on, shaped)


def _namespaces(node: Node, living: Collection[Attached]) -> list[str]:
    there = [file.name for file in node.path("/run/netns").glob("*") if file.name != "outside"]
    return _difference("namespace", there, [pod.container_id for pod in living])


def _foreign_processes(node: Node) -> list[int]:
    """Processes on the node that run the foreign plugin or wait for it."""
    mounts, found = os.readlink(f"/proc/{node.pid}/ns/mnt"), []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if os.readlink(f"/proc/{pid}/ns/mnt") == mounts:
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                found += [int(pid)] if name in ("foreign", "sleep") else []
    return found


def sysctls(node: Node) -> dict[str, str]:
    """The node's network sysctls by name, without those of links that are created and deleted with pods."""
    read = "cd /proc/sys/net && grep -rs '' ipv4 ipv6 core netfilter bridge"
    lines = node.run(["sh", "-c", read], check=False).stdout.splitlines()
    found = dict(line.split(":", 1) for line in lines)
    lasting = re.compile(rf".*/(conf|neigh)/(all|default|lo|{UPLINK})/.*|(?!.*/(conf|neigh)/).*")
    return {name: value for name, value in found.items() if lasting.fullmatch(name) and name not in _READINGS}
