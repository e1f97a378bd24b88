"""For tests of policy/programming.py: values of `Compiled` made by hand or at random, and nftables as it lists them."""

import hashlib
import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import replace

from linux.netlink.socket import NETLINK_NETFILTER, Netlink
from linux.nftables import messages
from linux.ownership import owner_tag
from policy.compiled import (
    ADDRESSES4,
    ADDRESSES6,
    ALLOW,
    DROP,
    EGRESS,
    INGRESS,
    JUMP,
    NAMED4,
    NAMED6,
    NETWORKS4,
    NETWORKS6,
    RETURN,
    SERVICES,
    TO_NODE,
    AddressSet,
    Chain,
    ChainRule,
    Compiled,
    Delta,
    Enforced,
    SetChange,
)
from policy.programming import Programmer
from policy.settings import NodePorts, Settings
from rules import policy
from spec.addresses import pack
from spec.attachment import Attachment
from tests.netns.nft_tools import nft, on
from tests.netns.node import Node

TABLE = "inet slash24_policy"
A4, A6, B4 = "10.1.2.5", "fd00:1::5", "10.1.2.6"
SETTINGS = Settings(
    metadata_deny=True,
    node_access=(NodePorts(6, 53, 53), NodePorts(17, 30000, 32767), NodePorts(132)),
    log_group=24,
)

GROUP, MAC = 0x24000001, "02:24:00:00:00:01"
CHANGING = (ADDRESSES4, ADDRESSES6, NAMED4, NAMED6)
_SIZES = {4: 4, 6: 16}


class Clock:
    """A clock that a test advances."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def attachment(number: int) -> Attachment:
    """The attachment of a pod."""
    return Attachment("net1", f"c{number}", "eth0")


def enforced(number: int, **chains: str) -> Enforced:
    """What is in force for an address of a pod."""
    return Enforced(owner_tag(attachment(number)), f"veth{number}", f"ns/pod{number}", **chains)


def hold(node: Node, number: int, *ips: str) -> None:
    """Attach a pod as an ADD does: it is held."""
    on(node, policy.hold, attachment(number), ips, f"veth{number}", GROUP, MAC)


def release(node: Node, number: int, *ips: str) -> None:
    """Detach a pod as a DEL does."""
    on(node, policy.release, attachment(number), ips, f"veth{number}")


def local_of(compiled: Compiled) -> dict[str, str]:
    """The owners of a node whose pods are all known."""
    return {address: one.owner for address, one in compiled.pods.items()}


def programmer(settings: Settings | None = None, clock: Clock | None = None) -> Programmer:
    """A programmer with a clock that stands still, or another."""
    return Programmer(settings or Settings(), clock=clock or Clock())


def addresses(*texts: str) -> frozenset[bytes]:
    """Elements of a set of addresses."""
    return frozenset(map(pack, texts))


def networks(*texts: str) -> frozenset[bytes]:
    """Elements of a set of networks, from "first-last"."""
    return frozenset(pack(first) + pack(last) for first, _, last in (text.partition("-") for text in texts))


def service(protocol: int, port: int) -> bytes:
    """An element of SERVICES."""
    return bytes([protocol]) + port.to_bytes(2, "big")


def delta_between(old: Compiled, new: Compiled) -> Delta:
    """What makes one the other."""
    common = old.sets.keys() & new.sets.keys()
    changed = {name: (old.sets[name].elements, new.sets[name].elements) for name in common}
    return Delta(
        new_sets={name: one for name, one in new.sets.items() if name not in old.sets},
        new_chains={name: one for name, one in new.chains.items() if name not in old.chains},
        sets={
            name: SetChange(new.sets[name].kind, before - after, after - before)
            for name, (before, after) in changed.items()
            if before != after
        },
        pods={
            address: new.pods.get(address)
            for address in old.pods.keys() | new.pods.keys()
            if old.pods.get(address) != new.pods.get(address)
        },
        exempt_gone=old.metadata_exempt - new.metadata_exempt,
        exempt_new=new.metadata_exempt - old.metadata_exempt,
        unused_chains=frozenset(old.chains.keys() - new.chains.keys()),
        unused_sets=frozenset(old.sets.keys() - new.sets.keys()),
    )


def example() -> Compiled:
    """Two pods: one whose web server is open to some, one that may be looked up by name only."""
    return Compiled(
        pods={
            A4: enforced(1, ingress="in4_web", egress="out4_names", to_node="node4"),
            A6: enforced(1, ingress="in6_web"),
            B4: enforced(2, egress="out4_names"),
        },
        chains={
            "in4_web": Chain(
                INGRESS,
                (
                    ChainRule(JUMP, target="admin", comment="cluster-wide"),
                    ChainRule(ALLOW, 4, "peers4_shop", "web", comment="policy web in shop, ingress[0]"),
                    ChainRule(
                        ALLOW, 4, "nets4_office", protocol=6, first=8000, last=8080, comment="policy office in shop"
                    ),
                    ChainRule(DROP, comment="nothing else"),
                ),
            ),
            "in6_web": Chain(INGRESS, (ChainRule(ALLOW, 6, "peers6_shop", "web"), ChainRule(DROP))),
            "out4_names": Chain(EGRESS, (ChainRule(ALLOW, 4, "", "named4_http"), ChainRule(DROP))),
            "node4": Chain(TO_NODE, (ChainRule(DROP, protocol=6, first=22, last=22), ChainRule(ALLOW))),
            "admin": Chain(INGRESS, (ChainRule(DROP, protocol=17, first=53, last=53),)),
        },
        sets={
            "peers4_shop": AddressSet(ADDRESSES4, addresses("10.1.2.7", "10.1.3.9"), "pods of app=shop"),
            "peers6_shop": AddressSet(ADDRESSES6, addresses("fd00:1::7")),
            "nets4_office": AddressSet(NETWORKS4, networks("203.0.113.0-203.0.113.127", "198.51.100.0-198.51.100.255")),
            "web": AddressSet(SERVICES, frozenset({service(6, 80), service(17, 443)}), "tcp/80, udp/443"),
            "named4_http": AddressSet(
                NAMED4, frozenset({addresses("10.1.2.7").__iter__().__next__() + service(6, 8080)})
            ),
        },
        metadata_exempt=frozenset({B4}),
    )


# -- reading back -----------------------------------------------------------------------------------------------------


def generation(node: Node) -> int:
    """The generation of the node's ruleset."""

    def read() -> int:
        with Netlink(NETLINK_NETFILTER) as netlink:
            return messages.generation(netlink)

    return on(node, read)


def listed(node: Node) -> dict[str, object]:
    """Both tables as `nft -j list` shows them, by family, kind and name, without handles, and in one order.

    Addresses of pods that are gone are left out: they stay until an ADD or the daemon has flushed their connections.
    """
    found: dict[str, object] = {}
    for family in ("inet", "bridge"):
        for item in json.loads(nft(node, "-j", "list", "table", family, "slash24_policy"))["nftables"]:
            for kind, value in item.items():
                _note(found, family, kind, value)
    return found


def _note(found: dict[str, object], family: str, kind: str, value: dict) -> None:
    if kind == "rule":
        found.setdefault(f"{family} rules of {value['chain']}", []).append(_without_handles(value))
    elif kind in ("set", "map", "chain") and value["name"] not in ("left4", "left6"):
        value = _without_handles(value)
        if "elem" in value:
            value["elem"] = sorted(map(json.dumps, value["elem"]))
        found[f"{family} {kind} {value['name']}"] = value


def _without_handles(value: dict) -> dict:
    return {key: one for key, one in value.items() if key not in ("handle", "index")}


def leads_to(node: Node, address: str, name: str = "ingress4") -> str:
    """The chain that an address leads to in a map, "" if it has no element."""
    found = nft(node, "list", "map", *TABLE.split(), name).replace(",", "\n").splitlines()
    return next((line.split("goto ")[1].split()[0] for line in found if f"{address} " in line and "goto" in line), "")


# -- at random --------------------------------------------------------------------------------------------------------


def random_compiled(chance: random.Random, pods: Mapping[int, tuple[str, ...]]) -> Compiled:
    """Sets, chains and what is in force for these pods (their addresses by number)."""
    sets = dict(_random_set(chance) for _ in range(chance.randrange(1, 9)))
    chains: dict[str, Chain] = {}
    for direction in (INGRESS, EGRESS, TO_NODE):
        for version in (4, 6):
            for _ in range(chance.randrange(1, 4)):
                chain = _random_chain(chance, direction, version, sets, chains)
                chains[_named(f"{direction[0]}{version}", repr(chain))] = chain
    in_force = {}
    for number, ips in pods.items():
        for address in ips:
            version = 6 if ":" in address else 4
            picked = {
                direction: chance.choice(
                    [name for name in chains if name.startswith(f"{direction[0]}{version}")] + [""]
                )
                for direction in (INGRESS, EGRESS, TO_NODE)
            }
            in_force[address] = enforced(number, **picked)
    exempt = frozenset(address for address in in_force if chance.random() < 0.3)
    return Compiled(in_force, chains, _used(chains, sets), exempt)


def _named(prefix: str, content: str) -> str:
    return f"{prefix}_{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def _random_set(chance: random.Random) -> tuple[str, AddressSet]:
    kind = chance.choice([*CHANGING, NETWORKS4, NETWORKS6, SERVICES])
    version = 6 if kind.endswith("6") else 4
    elements = frozenset(_random_element(chance, kind, version) for _ in range(chance.randrange(6)))
    if kind in CHANGING:
        return f"{kind}_{chance.randrange(3)}", AddressSet(kind, elements, "what changes")
    return _named(kind, repr(sorted(elements))), AddressSet(kind, elements, "what does not")


def _random_element(chance: random.Random, kind: str, version: int) -> bytes:
    port = service(chance.choice((6, 17, 132)), chance.randrange(1, 5))
    if kind == SERVICES:
        return port
    size = _SIZES[version]
    first = chance.randrange(8) << 8 * size - 6
    address = first.to_bytes(size, "big")
    if kind in (NETWORKS4, NETWORKS6):
        return address + (first + chance.randrange(1 << 8 * size - 6)).to_bytes(size, "big")
    return address + (port if kind in (NAMED4, NAMED6) else b"")


def _random_chain(
    chance: random.Random, direction: str, version: int, sets: Mapping[str, AddressSet], chains: Iterable[str]
) -> Chain:
    targets = [name for name in chains if name.startswith(f"{direction[0]}{version}")]
    rules = [_random_rule(chance, version, sets, targets) for _ in range(chance.randrange(5))]
    return Chain(direction, (*rules, ChainRule(chance.choice((ALLOW, DROP)))))


def _random_rule(chance: random.Random, version: int, sets: Mapping[str, AddressSet], targets: list[str]) -> ChainRule:
    mine = {name: one.kind for name, one in sets.items() if one.kind == SERVICES or one.kind.endswith(str(version))}
    peers = chance.choice([name for name, kind in mine.items() if kind[:-1] in ("addresses", "networks")] + [""])
    ports = chance.choice([name for name, kind in mine.items() if kind == SERVICES or kind.startswith("named")] + [""])
    rule = ChainRule(
        chance.choice((ALLOW, DROP, RETURN)),
        version if peers or (ports and mine[ports] != SERVICES) else 0,
        peers,
        ports,
        comment=f"policy{chance.randrange(9)} in ns",
    )
    if not ports and chance.random() < 0.5:
        first = chance.randrange(1, 60000)
        last = chance.choice((first, first + chance.randrange(1, 5000)))
        rule = replace(rule, protocol=chance.choice((6, 17, 132)), first=first, last=last)
    if targets and chance.random() < 0.2:
        rule = replace(rule, verdict=JUMP, target=chance.choice(targets))
    return rule


def _used(chains: Mapping[str, Chain], sets: Mapping[str, AddressSet]) -> dict[str, AddressSet]:
    names = {name for chain in chains.values() for rule in chain.rules for name in (rule.peers, rule.ports)}
    return {name: one for name, one in sets.items() if name in names}
