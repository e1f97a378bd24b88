"""Conditions on packets as people write them in a configuration, for nft or for iptables, in nftables' expressions.

What neither names a set of its own nor needs an extension of x_tables can be said. One of several values (a set)
becomes a rule for each; none of several stays one rule.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from operator import or_

from linux.nft_expressions import differs, equals, in_range, masked
from linux.packet_fields import Field, Value

SUPPORTED = (
    "matches of nft (ip, ip6, tcp, udp, sctp, th, meta, ct, fib, ether) or of iptables (-s, -d, -i, -o, -p, "
    "-m addrtype, comment, connmark, conntrack, iprange, mac, mark, multiport, owner, pkttype, state, tcp, udp, sctp)"
)
"""What can be said, for messages; docs/portmap.md has it in full."""

_MOST_RULES = 1024


@dataclass(frozen=True)
class Condition:
    """One thing that must hold: a field has one of the values, or (`negated`) none of them.

    `mask`: only these bits of it count. `any_bit`: the values are bits, of which one is enough.
    """

    field: Field
    values: tuple[Value, ...]
    negated: bool = False
    mask: bytes = b""
    any_bit: bool = False

    @property
    def text(self) -> str:
        """The condition as nft would write it, in one form."""
        bits = f" & 0x{int.from_bytes(self.mask, self.field.order):x}" if self.mask else ""
        sign = " any" if self.any_bit else ""
        listed = ", ".join(value.text for value in self.values)
        return f"{self.field.name}{bits}{sign} {'!= ' if self.negated else ''}{listed}"

    def alternatives(self) -> list[list[bytes]]:
        """Expressions, in lists of which one must hold."""
        if self.any_bit:
            bits = union(self.values)
            compare = equals if self.negated else differs
            return [[*self.field.load, masked(bits), compare(bytes(len(bits)))]]
        if self.negated:
            return [[part for value in self.values for part in self._compared(value)]]
        return [self._compared(value) for value in self.values]

    def _compared(self, value: Value) -> list[bytes]:
        mask = self.mask or value.mask
        loaded = [*self.field.load, *([masked(mask)] if mask else [])]
        if value.upper:
            return [*loaded, *self.field.ordered(), in_range(value.data, value.upper, inverted=self.negated)]
        return [*loaded, (differs if self.negated else equals)(value.data)]


def parse(words: Sequence[str], version: int) -> tuple[Condition, ...]:
    """The conditions in a list of words, all of which are to hold. Raises ValueError with the words not understood.

    The first word decides which program's language it is, as in the reference: iptables' begins with - or !.
    """
    if words and words[0].lstrip()[:1] in ("-", "!"):
        from linux.iptables_conditions import read
    else:
        from linux.nft_conditions import read
    found = tuple(read(words, version))
    count = 1
    for condition in found:
        count *= len(condition.alternatives())
    if count > _MOST_RULES:
        raise ValueError(f"sets that come to {count} rules, of which there may be {_MOST_RULES}")
    return found


def combined(conditions: Iterable[Condition]) -> list[list[bytes]]:
    """Lists of expressions, one of which holds where all the conditions do."""
    return [
        [part for parts in chosen for part in parts] for chosen in product(*(one.alternatives() for one in conditions))
    ]


def union(values: Sequence[Value]) -> bytes:
    """The bits that any of the values has."""
    return bytes(reduce(or_, column) for column in zip(*(value.data for value in values), strict=True))
