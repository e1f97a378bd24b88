"""Something that a provider left on this node, and how it is taken away."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field

CONFIGURATION, LEASES, FILTER, RULES, SET, ROUTING, LINK, FILE = (
    "configuration",
    "leases",
    "filter",
    "rules",
    "set",
    "routing",
    "link",
    "file",
)
ORDER = (CONFIGURATION, LEASES, FILTER, RULES, SET, ROUTING, LINK, FILE)
"""The kinds in an order that works: what starts pods first, rules before the sets that they look into, links before
files that their programs are pinned to."""


@dataclass(frozen=True)
class Leftover:
    """One leftover of a provider.

    `kind`: one of ORDER. `name`: what it is called, for example that of a link. `sentence`: what it is. `commands`:
    what a person would run instead. `remove`: does it; nothing to do is success; raises OSError. `waits`: why it stays
    for now, "" if it need not.
    """

    kind: str
    name: str
    sentence: str
    commands: tuple[str, ...]
    remove: Callable[[], None] = field(compare=False, repr=False)
    waits: str = ""


def command(*words: str) -> str:
    """A command line of these words, as a shell reads it."""
    return " ".join(map(shlex.quote, words))
