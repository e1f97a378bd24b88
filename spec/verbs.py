"""The verbs of CNI as one table: since which version each exists, and which variables it is given."""

from dataclasses import dataclass

COMMAND = "CNI_COMMAND"
CONTAINERID = "CNI_CONTAINERID"
NETNS = "CNI_NETNS"
IFNAME = "CNI_IFNAME"
ARGS = "CNI_ARGS"
PATH = "CNI_PATH"
NETNS_OVERRIDE = "CNI_NETNS_OVERRIDE"


@dataclass(frozen=True)
class Verb:
    """One verb; `required` and `optional` are variables, in the order in which missing ones are reported.

    `handler` is the attribute of Plugin that does it; `strict`: whether garbage in CNI_ARGS and prevResult, and in
    CNI_IFNAME what no link can be called, are errors (a verb that cleans up must get through whatever it is given).
    """

    name: str
    since: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    handler: str
    strict: bool


# The specification calls CNI_PATH optional; every runtime sends it and the reference demands it, but for VERSION.
VERBS = {
    verb.name: verb
    for verb in (
        Verb("ADD", "0.1.0", (CONTAINERID, NETNS, IFNAME, PATH), (ARGS,), "add", strict=True),
        Verb("DEL", "0.1.0", (CONTAINERID, IFNAME, PATH), (NETNS, ARGS), "delete", strict=False),
        Verb("CHECK", "0.4.0", (CONTAINERID, NETNS, IFNAME, PATH), (ARGS,), "check", strict=True),
        Verb("GC", "1.1.0", (PATH,), (), "gc", strict=False),
        Verb("STATUS", "1.1.0", (PATH,), (), "status", strict=False),
        # VERSION is answered by the protocol itself, and never reads stdin.
        Verb("VERSION", "0.1.0", (), (), "", strict=False),
    )
}
