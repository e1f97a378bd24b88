"""Notes in iptables of the host ports in use, for programs that choose free ones: nerdctl looks there.

It looks into the chain of the reference plugin, `CNI-HOSTPORT-DNAT` of the table `ip nat`, for `--dports` and `-d`. No
packet comes to the rules, unless the reference has ports too and leads them there; then they do nothing, having no
target. What they say follows from the table of host ports, which nothing but that decides on.
"""

from collections.abc import Callable, Iterable, Iterator

from linux.netlink.socket import Netlink
from linux.nftables import listing, messages
from linux.nftables.messages import Step
from rules import iptables

CHAIN = "CNI-HOSTPORT-DNAT"
_TABLE = iptables.NAT[4]
_Port = tuple[str, int, bytes, int]


def steps(ports: Iterable[_Port]) -> Iterator[Step]:
    """Steps that note ports: owner's tag, protocol, packed IPv4 address of the node or b"" for all, and port."""
    groups: dict[tuple[str, int, bytes], list[int]] = {}
    for tag, protocol, host, port in ports:
        groups.setdefault((tag, protocol, host), []).append(port)
    if groups:
        yield messages.add_chain(_TABLE, CHAIN)
    for (tag, protocol, host), numbers in groups.items():
        for at in range(0, len(numbers), iptables.MOST_PORTS):
            some = numbers[at : at + iptables.MOST_PORTS]
            yield messages.add_rule(
                _TABLE, CHAIN, iptables.to_ports(protocol, host, some, tag), None, protocol=protocol
            )


def removal(netlink: Netlink, doomed: Callable[[str], bool], *, owner: str = "") -> list[Step]:
    """Steps that delete the notes whose owner's tag is `doomed` (`owner` alone, if given). Raises NetlinkError."""
    rules = listing.list_rules(netlink, _TABLE, CHAIN, containing=owner.encode())
    ours = [rule for rule in rules if not listing.target_chain(rule) and doomed(iptables.comment_of(rule))]
    return [messages.delete_rule(_TABLE, CHAIN, rule.handle) for rule in ours]
