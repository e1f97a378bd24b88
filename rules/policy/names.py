"""Names in the tables of network policies: what the rules, an ADD and the daemon call the same."""

from collections.abc import Iterator

from linux.nftables import messages
from linux.nftables.messages import (
    DEVGROUP,
    ETHER_ADDR,
    IFNAME,
    INET_PROTO,
    INET_SERVICE,
    IP_ADDR,
    VERDICT,
    Set,
    TableName,
)

TABLE = TableName(messages.INET, "slash24_policy")
BRIDGE_TABLE = TableName(messages.BRIDGE, "slash24_policy")

_VERSIONS = (4, 6)


def _of_addresses(name: str, data: tuple = (), **kwargs: object) -> dict[int, Set]:
    return {version: Set(f"{name}{version}", (IP_ADDR[version],), data, **kwargs) for version in _VERSIONS}


PODS = _of_addresses("pods")
"""By IP version: the addresses of all attached pods."""
EGRESS = _of_addresses("egress", (VERDICT,))
"""From a pod's address to the chain that says which connections it may open."""
INGRESS = _of_addresses("ingress", (VERDICT,))
"""From a pod's address to the chain that says who may open connections to it."""
TO_NODE = _of_addresses("to_node", (VERDICT,))
"""From a pod's address to the chain that says what it may send to its own node."""
ISOLATED = _of_addresses("isolated")
"""Addresses of pods with an element in EGRESS or INGRESS."""
SELF = {version: Set(f"self{version}", (IP_ADDR[version], IP_ADDR[version])) for version in _VERSIONS}
"""Twice the address of a pod."""
EXEMPT = _of_addresses("exempt")
"""Addresses of pods that may reach the metadata service in spite of metadataAccess."""
CUT = {
    version: Set(
        f"cut{version}",
        (IP_ADDR[version], IP_ADDR[version], INET_PROTO, INET_SERVICE, INET_SERVICE),
        timeouts=True,
    )
    for version in _VERSIONS
}
"""Connections that are no longer allowed, for a while: saddr, daddr, protocol, sport, dport."""
LEFT = _of_addresses("left")
"""Addresses of pods that are gone, until their connections are flushed."""
VACANT = _of_addresses("vacant", timeout=432000, size=65535, dynamic=True)
"""Addresses on BRIDGES that no pod has, to which connections were opened, for as long as these may be tracked (5 days).

A pod that gets such an address would answer them as if its policies had allowed them.
"""
BRIDGES = Set("bridges", (IFNAME,))
"""Links with the gateway addresses of pods: bridges, or a VLAN's link."""
DENIED_EGRESS = _of_addresses("denied_egress", timeout=3600, size=65535, dynamic=True)
DENIED_INGRESS = _of_addresses("denied_ingress", timeout=3600, size=65535, dynamic=True)
"""Counters of denied packets, by the address of the pod whose policies denied them."""

GATEWAYS = Set("gateways", (DEVGROUP,), (ETHER_ADDR,))
"""From the link group of a network's pods to the MAC by which the node receives what it should route."""
GROUPS = Set("groups", (DEVGROUP,))
"""The keys of GATEWAYS."""
ROUTERS = Set("routers", (DEVGROUP, ETHER_ADDR))
"""The keys and the values of GATEWAYS."""
RECEIVERS, SENDERS = Set("receivers", (IFNAME,)), Set("senders", (IFNAME,))
"""Host veths of pods that are isolated in ingress, in egress."""


def _twins(*each: dict[int, Set]) -> Iterator[Set]:
    return (one[version] for one in each for version in _VERSIONS)


BASE_SETS: dict[TableName, tuple[Set, ...]] = {
    TABLE: (
        *_twins(PODS, EGRESS, INGRESS, TO_NODE, ISOLATED, SELF),
        *_twins(EXEMPT, CUT, LEFT, VACANT, DENIED_EGRESS, DENIED_INGRESS),
        BRIDGES,
    ),
    BRIDGE_TABLE: (GATEWAYS, GROUPS, ROUTERS, RECEIVERS, SENDERS),
}
"""The sets and maps that each table always has."""

FORWARD, OUTPUT, INPUT, PREROUTING = "forward", "output", "input", "prerouting"
FORWARD_INGRESS, OUTPUT_INGRESS, INCOMING = "forward_ingress", "output_ingress", "incoming"
BY_ANOTHER_LINK = "by_another_link"
CONNECTION, TO_INGRESS, TO_BRIDGE = "connection", "to_ingress", "to_bridge"
UNOPENED, INVALID = "unopened", "invalid"
REFUSE, HELD, FROM_POD = "refuse", "held", "from_pod"
SWITCHED, NOT_IPV4 = "switched", "not_ipv4"
DENIED_EGRESS_CHAIN, DENIED_INGRESS_CHAIN = "denied_egress", "denied_ingress"
METADATA, NODE_ACCESS, LOG_EGRESS, LOG_INGRESS = "metadata", "node_access", "log_egress", "log_ingress"

CONFIGURED = (METADATA, NODE_ACCESS, LOG_EGRESS, LOG_INGRESS)
"""Chains that are empty until the daemon fills them as its configuration says."""
