"""Conditions on packets (`conditionsV4`, `conditionsV6`) in the language of nft or of iptables.

Supported is what needs neither a named set nor an extension of x_tables.
"""

from collections.abc import Sequence

from rules.conditions.condition import Condition

SUPPORTED = (
    "matches of nft (ip, ip6, tcp, udp, sctp, th, meta, ct, fib, ether) or of iptables (-s, -d, -i, -o, -p, "
    "-m addrtype, comment, connmark, conntrack, iprange, mac, mark, multiport, owner, pkttype, state, tcp, udp, sctp)"
)
"""What is supported, for messages; docs/portmap.md has the full list."""

_MOST_RULES = 1024


def parse(words: Sequence[str], version: int) -> tuple[Condition, ...]:
    """The conditions in a list of words, all of which must hold. Raises ValueError with the words not understood.

    As in the reference plugin, the first word decides on the language: in iptables' it begins with - or !.
    """
    if words and words[0].lstrip()[:1] in ("-", "!"):
        from rules.conditions.iptables_syntax import read
    else:
        from rules.conditions.nft_syntax import read
    found = tuple(read(words, version))
    count = 1
    for condition in found:
        count *= len(condition.alternatives())
    if count > _MOST_RULES:
        raise ValueError(f"sets that need {count} rules (at most {_MOST_RULES})")
    return found
