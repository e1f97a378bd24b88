"""Conditions on packets as people write them in a configuration, for nft or for iptables.

What neither names a set of its own nor needs an extension of x_tables can be said.
"""

from collections.abc import Sequence

from rules.conditions.expressions import Condition

SUPPORTED = (
    "matches of nft (ip, ip6, tcp, udp, sctp, th, meta, ct, fib, ether) or of iptables (-s, -d, -i, -o, -p, "
    "-m addrtype, comment, connmark, conntrack, iprange, mac, mark, multiport, owner, pkttype, state, tcp, udp, sctp)"
)
"""What can be said, for messages; docs/portmap.md has it in full."""

_MOST_RULES = 1024


def parse(words: Sequence[str], version: int) -> tuple[Condition, ...]:
    """The conditions in a list of words, all of which are to hold. Raises ValueError with the words not understood.

    The first word decides which program's language it is, as in the reference: iptables' begins with - or !.
    """
    if words and words[0].lstrip()[:1] in ("-", "!"):
        from rules.conditions.iptables import read
    else:
        from rules.conditions.nft import read
    found = tuple(read(words, version))
    count = 1
    for condition in found:
        count *= len(condition.alternatives())
    if count > _MOST_RULES:
        raise ValueError(f"sets that come to {count} rules, of which there may be {_MOST_RULES}")
    return found
