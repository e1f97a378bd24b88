"""What must not be left on a node when everything has calmed down."""

import ipaddress
import json
import re
from collections.abc import Iterable, Iterator

from tests.chaos.policy_history import Life
from tests.chaos.policy_nodes import PolicyNodes
from tests.system.daemons import Served

_ENTRY = re.compile(r"^(tcp|udp) +\d+ +\d+ +(?:([A-Z_0-9]+) +)?src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+)")
_CLOSED = {"TIME_WAIT", "CLOSE", "LAST_ACK"}


def used(lines: Iterable[str]) -> set[str]:
    """Of PolicyNodes.rules, what is in use: a chain or set that the daemon has made stays for some seconds unused."""
    by_name: dict[str, list[str]] = {}
    for line in lines:
        by_name.setdefault(_place(json.loads(line)), []).append(line)
    found: set[str] = set()
    names = {name for name in by_name if "-" not in name}
    while names - found:
        found |= names
        text = " ".join(line for name in found for line in by_name.get(name, ()))
        names = set(re.findall(r'"target": "([^"]+)"', text)) | set(re.findall(r'"@([^"]+)"', text))
    return {line for name in found for line in by_name.get(name, ())}


def _place(value: dict) -> str:
    """The chain or set that a line of PolicyNodes.rules is about; "" for a table."""
    for kind in ("rule", "chain", "set", "map", "table"):
        if isinstance(value.get(kind), dict):
            return {"rule": value[kind].get("chain", ""), "table": ""}.get(kind, value[kind].get("name", ""))
    return next(iter(value))


def forbidden_connections(nodes: PolicyNodes, node: Served) -> Iterator[str]:
    """Tracked connections that the policies in force now forbid, or of pods that are gone."""
    owners = {ip: life for life, _, _ in nodes.pods.values() for ip in life.addresses.values()}
    subnets = [ipaddress.ip_network(subnet) for subnet in node.subnets]
    for version in (4, 6):
        done = node.node.run(["conntrack", "-L", "-f", f"ipv{version}"])
        for line in done.stdout.splitlines():
            entry = _ENTRY.match(line)
            if entry and entry[2] not in _CLOSED:
                protocol, _, source, target, _, port = entry.groups()
                one, other = owners.get(_canonical(source)), owners.get(_canonical(target))
                if one is None and _is_of_a_pod(source, subnets):
                    yield f"{node.name}: a connection of a pod that is gone: {line}"
                what = protocol.upper(), int(port), version
                if one and other and one is not other and not _is_allowed(nodes, node, (one, other), *what):
                    yield f"{node.name}: a forbidden connection: {line}"


def _is_allowed(
    nodes: PolicyNodes, node: Served, ends: tuple[Life, Life], protocol: str, port: int, version: int
) -> bool:
    return True in nodes.history.verdicts_on(node.name, *ends, protocol, port, version)


def _canonical(address: str) -> str:
    return str(ipaddress.ip_address(address))


def _is_of_a_pod(address: str, subnets: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    """Whether it is in one of the subnets, and not the subnet's own address or its gateway's."""
    ip = ipaddress.ip_address(address)
    return any(ip in subnet and ip not in (subnet[0], subnet[1]) for subnet in subnets)


def wrong_pod_files(nodes: PolicyNodes, node: Served) -> Iterator[str]:
    """Files of pods that are not there, and pods without one."""
    listed = [json.loads(path.read_text()) for path in node.node.path("/run/slash24/pods").glob("*")]
    there = {(one["name"], *sorted(one["ips"])) for one in listed}
    lives = [life for life, _, _ in nodes.pods.values() if life.node == node.name]
    wanted = {(life.number, *sorted(life.addresses.values())) for life in lives}
    yield from (f"{node.name}: a file without a pod: {one}" for one in there - wanted)
    yield from (f"{node.name}: a pod without a file: {one}" for one in wanted - there)
