"""Shared by the conformance tests: configurations, a stand-in IPAM plugin, and a snapshot of what an ADD creates."""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface
from pathlib import Path

from tests.netns.cni import VERSIONS
from tests.netns.node import Host, Node, Pod

Refused = Callable[[], AbstractContextManager[None]]
"""`with refused(): ...` expects an error; of our own plugins the one that slash24.toml has for the test."""

WITH_CHECK = tuple(v for v in VERSIONS if v >= "0.4.0")
NETWORKS = "/var/lib/cni/networks"
V4, V6 = {"subnet": "10.1.2.0/24"}, {"subnet": "fd00:1::/64"}
GATEWAY_V4, GATEWAY_V6 = "10.1.2.1", "fd00:1::1"


def host_local(*subnets: Mapping, **keys: object) -> dict:
    """An `ipam` section with one range set per subnet; without subnets, one IPv4 subnet."""
    return {"type": "host-local", "ranges": [[subnet] for subnet in subnets or (V4,)], **keys}


def network(ipam: Mapping | None = None, *, version: str = "1.1.0", **keys: object) -> dict:
    """A bridge that is its pods' default gateway; `keys` are added to it, and keys with the value None are left out."""
    conf = {"cniVersion": version, "name": "net", "type": "bridge", "bridge": "br0", "isDefaultGateway": True}
    conf |= {"ipam": ipam or host_local(), **keys}
    return {key: value for key, value in conf.items() if value is not None}


def layer2(version: str = "1.1.0", **keys: object) -> dict:
    """A bridge without addresses: no IPAM plugin."""
    return {"cniVersion": version, "name": "net", "type": "bridge", "bridge": "br0", **keys}


DUAL = host_local(V4, V6)


def leases(node: Node, folder: str = f"{NETWORKS}/net") -> dict[str, str]:
    """The leases in a folder, as address -> owner; other files in it are ignored."""
    found = {}
    for file in node.path(folder).glob("*"):
        with suppress(ValueError):
            address = str(ip_address(file.name))
            found[address] = file.read_bytes().decode()
    return found


def addresses(result: Mapping) -> list[str]:
    """The addresses of a result of any version, without prefix lengths."""
    ips = [ip["address"] for ip in result.get("ips", [])] + [result[k]["ip"] for k in ("ip4", "ip6") if k in result]
    return [str(ip_interface(address).ip) for address in ips]


def container_interface(result: Mapping, pod: Pod, ifname: str = "eth0") -> dict:
    """The entry of the pod's interface in a result of version 0.3.0 or later."""
    (entry,) = [i for i in result["interfaces"] if i["name"] == ifname and i.get("sandbox") == pod.path]
    return entry


def host_veth(result: Mapping) -> str:
    """The name of the pod's host veth."""
    (name,) = [i["name"] for i in result["interfaces"] if not i.get("sandbox") and i["name"] != "br0"]
    return name


def on_bridge(node: Node) -> set[str]:
    """The ports of br0."""
    return {name for name, link in node.links().items() if link.get("master") == "br0"}


def mentions(node: Node, *words: str) -> list[str]:
    """The lines of the node's whole ruleset that contain one of the words."""
    return [line.strip() for line in node.ruleset().splitlines() if any(word in line for word in words)]


def traces(node: Node, *pods: Pod) -> dict[str, object]:
    """Everything that an ADD creates: links, addresses, leases, and rules that name a pod or its address."""
    hosts: tuple[Host, ...] = (node, *pods)
    found: dict[str, object] = {f"links of {getattr(h, 'name', 'node')}": sorted(h.links()) for h in hosts}
    found["leases"] = {str(f.name): leases(node, f"{NETWORKS}/{f.name}") for f in node.path(NETWORKS).glob("*")}
    found["leases"] = {name: held for name, held in found["leases"].items() if held}
    found["rules"] = mentions(node, *(pod.name for pod in pods), "10.1.2.", "fd00:1:")
    found["bridge"] = sorted(node.addresses("br0")) if "br0" in node.links() else None
    return found


@dataclass(frozen=True)
class StandIn:
    """An executable `stand-in` that a test writes: an IPAM plugin that records its calls and gives prepared replies."""

    folder: Path

    def answers(self, *, add: object = None, errors: Mapping[str, Mapping] | None = None) -> None:
        """Reply to ADD with the document `add`, to the verbs in `errors` with an error object; nothing to others."""
        lines = {"ADD": f"cat <<'END'\n{json.dumps(add)}\nEND"}
        lines |= {verb: f"echo '{json.dumps(error)}'; exit 1" for verb, error in (errors or {}).items()}
        cases = "\n".join(f"{verb})\n{line}\n;;" for verb, line in lines.items())
        record = "echo $CNI_COMMAND >>calls; cat >stdin.$CNI_COMMAND; env >env.$CNI_COMMAND"
        self.script(f"cd {self.folder}; {record}\ncase $CNI_COMMAND in\n{cases}\nesac")

    def script(self, lines: str, name: str = "stand-in") -> None:
        """Replace the stand-in with these lines of shell."""
        file = self.folder / name
        file.write_text(f"#!/bin/sh\n{lines}\n")
        file.chmod(0o755)

    def calls(self) -> list[str]:
        """The verbs of its calls, in order."""
        file = self.folder / "calls"
        return file.read_text().split() if file.exists() else []

    def stdin(self, verb: str) -> dict:
        """The configuration passed with that verb."""
        return json.loads((self.folder / f"stdin.{verb}").read_text())

    def environ(self, verb: str) -> dict[str, str]:
        """The CNI variables passed with that verb."""
        lines = (self.folder / f"env.{verb}").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if line.startswith("CNI_"))
