"""The executables of the network's plugins: where the runtime finds them, what they are, and what they say."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cli.cni import Caller, call
from cli.facts.paths import BIN
from cli.validate.findings import Finding, not_applicable, ok, or_ok, problem, warning
from cli.validate.node import Facts
from plugins.__main__ import TYPES, stated_version
from spec.config import Section
from spec.delegate import is_launcher
from spec.errors import CNIError

_STATUS_SINCE = "1.1.0"
_SUBJECTS_OF_OTHERS = (": peer ", "does not forward IPv4")
"""What kubenet and vxlan say on stderr that other checks look at."""


@dataclass(frozen=True)
class Found:
    """What is known of a plugin's executable.

    `path`: where the runtime finds it, "" if nowhere. `is_executable`: whether root can execute it. `is_ours`: whether
    it is of this suite. `elsewhere`: a file of this suite with that name in another folder, "" if there is none.
    `about`: what it says of its own version. `versions`: of CNI, that it supports. `failure`: why it does not answer.
    """

    kind: str
    path: str = ""
    is_executable: bool = True
    is_ours: bool = False
    elsewhere: str = ""
    about: str = ""
    versions: tuple[str, ...] = ()
    failure: str = ""


def check(facts: Facts) -> Iterable[Finding]:
    """They are there, and answer."""
    if not facts.network:
        return [not_applicable("there is no network")]
    kinds = kinds_of(facts.network.plugins)
    found = [look(kind, facts.bin_dirs) for kind in kinds]
    return or_ok(
        judge(found, facts.bin_dirs, facts.version),
        f"{', '.join(kinds)}: found in {' '.join(sorted({os.path.dirname(one.path) for one in found}))}, "
        "of one version, answering VERSION",
    )


def kinds_of(plugins: Iterable[Mapping[str, object]]) -> list[str]:
    """The types that a network needs: of its plugins, and of their IPAM."""
    kinds = []
    for plugin in map(Section, plugins):
        ipam = plugin.raw("ipam")
        named = Section(ipam).raw("type") if isinstance(ipam, dict) else None
        default = "host-local" if plugin.string("type") in ("kubenet", "vxlan") else ""
        kinds += [plugin.string("type"), named if isinstance(named, str) else default]
    return list(dict.fromkeys(filter(None, kinds)))


def look(kind: str, bin_dirs: Sequence[str]) -> Found:
    """At the executable that the runtime would find."""
    if "/" in kind or "\0" in kind:  # runtimes refuse it
        return Found(kind)
    paths = [path for folder in bin_dirs if os.path.isfile(path := os.path.join(folder, kind))]
    others = [os.path.join(folder, kind) for folder in (*bin_dirs, BIN)]
    elsewhere = next((path for path in others if path not in paths[:1] and is_launcher(path)), "")
    if not paths:
        return Found(kind, elsewhere=elsewhere)
    path, is_executable = paths[0], os.access(paths[0], os.X_OK)
    seen = Found(kind, path, is_executable=is_executable, is_ours=is_launcher(path), elsewhere=elsewhere)
    return _asked(seen) if is_executable else seen


def _asked(seen: Found) -> Found:
    """With what it says of itself."""
    try:
        document = Section(call(seen.path, "VERSION").document)
        versions = document.strings("supportedVersions") or ()
        failure = "" if versions else "its answer to VERSION has no supportedVersions"
        lines = call(seen.path, "").lines if seen.is_ours else ()
    except CNIError as error:
        return replace(seen, failure=str(error))
    about = lines[0].rpartition(" ")[2] if lines else ""
    return replace(seen, about=about, versions=versions, failure=failure)


def judge(found: Iterable[Found], bin_dirs: Sequence[str], version: str) -> Iterator[Finding]:
    """What is wrong with the executables. `version`: of CNI, for the network."""
    folders = " ".join(bin_dirs)
    for one in found:
        if not one.path:
            where = f"; slash24's is {one.elsewhere}" if one.elsewhere else ""
            yield problem(f"{one.kind} is not in {folders}, where the runtime looks{where}", "slash24 install")
        elif not one.is_executable:
            yield problem(f"{one.path} is not executable", f"chmod 755 {one.path}")
        elif one.failure:
            yield problem(f"{one.path} does not answer VERSION: {one.failure}", "slash24 install")
        elif one.kind in TYPES and not one.is_ours:
            where = f"; slash24's is {one.elsewhere}" if one.elsewhere else ""
            yield problem(f"the runtime uses {one.path}, which is not of slash24{where}", "slash24 install")
        elif one.is_ours and one.about != stated_version(one.kind):
            own = stated_version(one.kind)
            yield problem(
                f"{one.path} is of version {one.about or 'unknown'}, not {own} as this command", "slash24 install"
            )
        elif version and version not in one.versions:
            known = ", ".join(one.versions)
            yield problem(f"{one.path} supports CNI {known}, not {version}", f'set "cniVersion": "{one.versions[-1]}"')


def check_status(facts: Facts) -> Iterator[Finding]:
    """The plugins are ready for this network."""
    if not facts.network:
        yield not_applicable("there is no network")
        return
    caller, said = Caller(facts.network, _STATUS_SINCE, facts.bin_dirs), []
    for plugin in facts.network.plugins:
        kind = Section(plugin).string("type")
        if _STATUS_SINCE not in look(kind, facts.bin_dirs).versions:
            yield not_applicable(f"{kind} does not support STATUS")
            continue
        try:
            lines = caller.status(plugin)
        except CNIError as error:
            yield problem(str(error), "mend what it says, in the network file or on the node")
            continue
        said.append(kind)
        told = [line for line in lines if not any(words in line for words in _SUBJECTS_OF_OTHERS)]
        yield from (warning(f"STATUS of {kind}: {line}") for line in told)
    if said:
        yield ok(f"{', '.join(said)}: ready")
