"""The table of CNI's verbs: the version that introduced each, and its variables."""

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
    """A verb; `required` and `optional` are its variables, in the order in which missing ones are reported.

    `handler`: the attribute of Plugin that implements it. `strict`: whether invalid CNI_ARGS, prevResult and link names
    in CNI_IFNAME are errors; verbs that clean up must succeed nevertheless.
    """

    name: str
    since: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    handler: str
    strict: bool


# CNI_PATH is optional in the specification; but every runtime sends it, and the reference plugins require it.
VERBS = {
    verb.name: verb
    for verb in (
        Verb("ADD", "0.1.0", (CONTAINERID, NETNS, IFNAME, PATH), (ARGS,), "add", strict=True),
        Verb("DEL", "0.1.0", (CONTAINERID, IFNAME, PATH), (NETNS, ARGS), "delete", strict=False),
        Verb("CHECK", "0.4.0", (CONTAINERID, NETNS, IFNAME, PATH), (ARGS,), "check", strict=True),
        Verb("GC", "1.1.0", (PATH,), (), "gc", strict=False),
        Verb("STATUS", "1.1.0", (PATH,), (), "status", strict=False),
        # VERSION is answered by `spec.plugin` itself, without reading stdin.
        Verb("VERSION", "0.1.0", (), (), "", strict=False),
    )
}
