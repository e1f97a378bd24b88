"""kube-proxy's rules for a few Services, reduced from what each of its modes writes.

Mode ipvs needs a kernel feature that may be missing, so only what it leaves on every node is here: the Services'
addresses on kube-ipvs0, which makes them local, and the chains that accept packets to them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.netns.node import Node

_IPTABLES = {4: "iptables", 6: "ip6tables"}
_LOCALHOST = {4: "127.0.0.0/8", 6: "::1/128"}
_FILTER = (
    "-A KUBE-FIREWALL ! -s {localhost} -d {localhost} -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
    "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
    "-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT",
    "-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
)
_NAT = (
    "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000",
    "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
    "-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000",
    "-A KUBE-POSTROUTING -j MASQUERADE --random-fully",
)


@dataclass(frozen=True)
class Service:
    """A Service's address and port, and its only endpoint."""

    address: str
    port: int
    endpoint: str
    target: int

    @property
    def version(self) -> int:
        """The IP version."""
        return 6 if ":" in self.address else 4

    @property
    def destination(self) -> str:
        """The endpoint, as DNAT rules write it."""
        return f"[{self.endpoint}]:{self.target}" if self.version == 6 else f"{self.endpoint}:{self.target}"


def by_iptables(node: Node, services: Sequence[Service], pods: Sequence[str]) -> None:
    """Mode iptables; for a family in `pods` (networks), connections from elsewhere are masqueraded."""
    for version in (4, 6):
        rules = []
        for number, service in enumerate(one for one in services if one.version == version):
            network = next((pod for pod in pods if (":" in pod) == (version == 6)), None)
            outer = f"-d {service.address} -p {{kind}} -m {{kind}} --dport {service.port}"
            chain, end = f"KUBE-SVC-{number}", f"KUBE-SEP-{number}"
            rules += [f":{chain} - [0:0]", f":{end} - [0:0]"]
            for kind in ("tcp", "udp"):
                rules.append(f"-A KUBE-SERVICES {outer.format(kind=kind)} -j {chain}")
                rules += [f"-A {chain} ! -s {network} {outer.format(kind=kind)} -j KUBE-MARK-MASQ"] if network else []
            rules += [f"-A {chain} -j {end}", f"-A {end} -s {service.endpoint} -j KUBE-MARK-MASQ"]
            rules += [f"-A {end} -p {kind} -j DNAT --to-destination {service.destination}" for kind in ("tcp", "udp")]
        _restore(node, version, rules)


def by_nftables(node: Node, services: Sequence[Service], pods: Sequence[str]) -> None:
    """The same in mode nftables."""
    for version, ip, kind in ((4, "ip", "ipv4_addr"), (6, "ip6", "ipv6_addr")):
        mine = [one for one in services if one.version == version]
        network = next((pod for pod in pods if (":" in pod) == (version == 6)), None)
        chains, elements = [], []
        for number, one in enumerate(mine):
            masked = f"{ip} daddr {one.address} {ip} saddr != {network} mark set mark or 0x4000\n" if network else ""
            dnat = f"meta l4proto {{ tcp, udp }} dnat to {one.destination}\n"
            chains.append(
                f"chain service-{number} {{\n{masked}{ip} saddr {one.endpoint} mark set mark or 0x4000\n{dnat}}}"
            )
            elements += [f"{one.address} . {proto} . {one.port} : goto service-{number}" for proto in ("tcp", "udp")]
        newline = "\n"
        text = f"""table {ip} kube-proxy {{
            {newline.join(chains)}
            map service-ips {{ type {kind} . inet_proto . inet_service : verdict
                elements = {{ {", ".join(elements)} }}
            }}
            chain services {{ {ip} daddr . meta l4proto . th dport vmap @service-ips
            }}
            chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services
            }}
            chain nat-output {{ type nat hook output priority -100; jump services
            }}
            chain nat-postrouting {{ type nat hook postrouting priority srcnat
                mark and 0x4000 == 0 return
                mark set mark xor 0x4000
                masquerade fully-random
            }}
            chain filter-forward {{ type filter hook forward priority filter
                ct state invalid drop
            }}
        }}"""
        node.run(["nft", "-f", "-"], stdin=text)


def by_ipvs(node: Node, services: Sequence[Service], pods: Sequence[str]) -> None:
    """Mode ipvs, without IPVS itself."""
    node.run(["ip", "link", "add", "kube-ipvs0", "type", "bridge"])
    for one in services:
        length = ["nodad"] if one.version == 6 else []
        node.run(["ip", "addr", "add", f"{one.address}/{128 if length else 32}", "dev", "kube-ipvs0", *length])
    for version in (4, 6):
        mine = [one for one in services if one.version == version]
        _restore(node, version, [f"-A KUBE-SERVICES -d {one.address} -j ACCEPT" for one in mine])


MODES = {"iptables": by_iptables, "nftables": by_nftables, "ipvs": by_ipvs}


def _restore(node: Node, version: int, services: Sequence[str]) -> None:
    tool, localhost = _IPTABLES[version], _LOCALHOST[version]
    chains = [f":KUBE-{chain} - [0:0]" for chain in ("SERVICES", "MARK-MASQ", "POSTROUTING")]
    lines = ["*nat", *chains, *(one for one in services if one[0] == ":"), *_NAT]
    lines += [*(one for one in services if one[0] != ":"), "COMMIT", "*filter"]
    lines += [":KUBE-FIREWALL - [0:0]", ":KUBE-FORWARD - [0:0]", *(one.format(localhost=localhost) for one in _FILTER)]
    node.run([f"{tool}-restore", "--noflush"], stdin="\n".join([*lines, "COMMIT", ""]))
    for table, hook, target in (
        ("nat", "PREROUTING", "SERVICES"),
        ("nat", "OUTPUT", "SERVICES"),
        ("nat", "POSTROUTING", "POSTROUTING"),
        ("filter", "INPUT", "FIREWALL"),
        ("filter", "OUTPUT", "FIREWALL"),
        ("filter", "FORWARD", "FORWARD"),
    ):
        node.run([tool, "-t", table, "-I", hook, "-j", f"KUBE-{target}"])
