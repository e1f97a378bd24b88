"""A condition on packets, and the expressions of nftables that match it.

A condition with several values (a set) becomes one rule for each value; if it is negated, it stays one rule.
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
    """A field has one of the values, or (`negated`) none of them.

    `mask`: compare only these bits of the field. `any_bit`: the values are bits, one of which must be set.
    """

    field: Field
    values: tuple[Value, ...]
    negated: bool = False
    mask: bytes = b""
    any_bit: bool = False

    @property
    def text(self) -> str:
        """The condition in nft's language; the same text for the same condition."""
        bits = f" & 0x{int.from_bytes(self.mask, self.field.order):x}" if self.mask else ""
        sign = " any" if self.any_bit else ""
        listed = ", ".join(value.text for value in self.values)
        return f"{self.field.name}{bits}{sign} {'!= ' if self.negated else ''}{listed}"

    def alternatives(self) -> list[list[bytes]]:
        """Lists of expressions, one of which must match."""
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
    """Lists of expressions, one of which matches if all the conditions do."""
    return [
        [part for parts in chosen for part in parts] for chosen in product(*(one.alternatives() for one in conditions))
    ]


def union(values: Sequence[Value]) -> bytes:
    """The bits that are set in any of the values."""
    return bytes(reduce(or_, column) for column in zip(*(value.data for value in values), strict=True))
