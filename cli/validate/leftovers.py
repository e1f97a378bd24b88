"""What other providers of pod networks have left here."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from cli.switch.find import find_all
from cli.switch.leftover import Leftover
from cli.validate.findings import Finding, or_ok, warning
from cli.validate.node import Facts

_SHOWN = 3


def check(_facts: Facts) -> Iterable[Finding]:
    """No provider has left anything."""
    found = {name: one.leftovers for name, one in find_all().items()}
    return or_ok(judge(found), "no other provider has left anything that is known")


def judge(found: Mapping[str, Sequence[Leftover]]) -> Iterator[Finding]:
    """What was found, by provider."""
    for provider, left in found.items():
        some = "; ".join(one.sentence for one in left[:_SHOWN])
        more = f"; and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
        yield warning(f"{provider} has left: {some}{more}", f"slash24 switch {provider}")
