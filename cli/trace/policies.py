"""Which network policies isolate a pod, as the kernel has them: for kernels that cannot show what a packet met."""

from collections.abc import Iterator

from linux.netlink.socket import Netlink, NetlinkError
from linux.nftables import listing
from rules.policy.names import EGRESS, HELD, INGRESS, TABLE
from spec.addresses import pack


def in_force(netlink: Netlink, source: str, destination: str) -> Iterator[str]:
    """A sentence for each end that policies restrict: what they are, and which rules there are."""
    version = 6 if ":" in source else 4
    for direction, each, address in (("egress", EGRESS, source), ("ingress", INGRESS, destination)):
        try:
            element = listing.find_element(netlink, TABLE, each[version].name, pack(address))
        except NetlinkError:
            continue
        if element and element.chain == HELD:
            yield f"{address} is held until slash24-node says which policies it has"
        elif element:
            comments = [rule.comment for rule in listing.list_rules(netlink, TABLE, element.chain) if rule.comment]
            what = "; ".join(comments) or "policies of the cluster"
            yield f"{direction} of {address}: {what} (chain {element.chain})"
