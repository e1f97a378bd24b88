"""Conditions on packets in nftables' expressions.

One of several values (a set) becomes a rule for each; none of several stays one rule.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from operator import or_

from linux.nftables.expressions import bitwise_and, cmp_eq, cmp_neq, cmp_range
from rules.conditions.fields import Field, Value


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
            compare = cmp_eq if self.negated else cmp_neq
            return [[*self.field.load, bitwise_and(bits), compare(bytes(len(bits)))]]
        if self.negated:
            return [[part for value in self.values for part in self._compared(value)]]
        return [self._compared(value) for value in self.values]

    def _compared(self, value: Value) -> list[bytes]:
        mask = self.mask or value.mask
        loaded = [*self.field.load, *([bitwise_and(mask)] if mask else [])]
        if value.upper:
            return [*loaded, *self.field.ordered(), cmp_range(value.data, value.upper, inverted=self.negated)]
        return [*loaded, (cmp_neq if self.negated else cmp_eq)(value.data)]


def combined(conditions: Iterable[Condition]) -> list[list[bytes]]:
    """Lists of expressions, one of which holds where all the conditions do."""
    return [
        [part for parts in chosen for part in parts] for chosen in product(*(one.alternatives() for one in conditions))
    ]


def union(values: Sequence[Value]) -> bytes:
    """The bits that any of the values has."""
    return bytes(reduce(or_, column) for column in zip(*(value.data for value in values), strict=True))
