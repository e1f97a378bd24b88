"""The plugins in the other folders in which runtimes look: links to /opt/cni/bin.

What has their names there is kept as NAME.distrib. On Debian each name is a diversion (dpkg-divert(1)), so that the
upgrade of a package updates NAME.distrib. A runtime finds one of the two at every moment.
"""

import os
from collections.abc import Iterable, Iterator, Sequence

from cli.facts.paths import BIN
from cli.facts.runtimes import Runtime
from cli.install.steps import Step, run
from daemon.install import KEPT, is_launcher
from plugins.__main__ import TYPES

USUAL = ("/usr/local/libexec/cni", "/usr/libexec/cni", "/usr/local/lib/cni", "/usr/lib/cni")
"""Where podman and nerdctl look before /opt/cni/bin."""
_DEBIANS = "/usr/lib/cni"
_PACKAGES = ("/usr/", BIN)
"""Where packages have plugins."""
_DIVERT = "/usr/bin/dpkg-divert"
_DIVERSIONS = "/var/lib/dpkg/diversions"


def folders(runtimes: Iterable[Runtime]) -> list[str]:
    """The folders, besides /opt/cni/bin, in which runtimes may find plugins first, or look at all."""
    found = [folder for folder in USUAL if os.path.isdir(folder) or (folder == _DEBIANS and _is_debian())]
    for runtime in runtimes:
        if not runtime.cni_version:
            continue
        has_ours = BIN in runtime.bin_dirs
        before = runtime.bin_dirs[: runtime.bin_dirs.index(BIN)] if has_ours else runtime.bin_dirs
        there = [folder for folder in before if os.path.isdir(folder)]
        found += there if there or has_ours else before[:1]
    real = {os.path.realpath(folder): folder for folder in reversed(found)}
    return [folder for path, folder in reversed(real.items()) if path != os.path.realpath(BIN)]


def link_steps(names: Sequence[str], runtimes: Iterable[Runtime]) -> Iterator[Step]:
    """The steps that have runtimes find the plugins of these names in all their folders.

    `names`: of all launchers in /opt/cni/bin; those of plugins are linked.
    """
    diverted = _diverted()
    yield from _divert_step([os.path.join(BIN, name) for name in names], diverted)
    plugins = [name for name in names if not name.startswith("slash24")]
    for folder in folders(runtimes):
        missing = [name for name in plugins if not _is_link(os.path.join(folder, name))]
        if missing:
            yield Step(
                f"link {', '.join(missing)} into {folder}",
                lambda folder=folder, missing=missing: _link_all(folder, missing),
                "make that folder writable, or have the runtime look into /opt/cni/bin only",
            )
        yield from _restore_step(folder, [name for name in _linked(folder) if name not in plugins])
        yield from _divert_step([os.path.join(folder, name) for name in plugins], diverted)


def unlink_steps(runtimes: Iterable[Runtime]) -> Iterator[Step]:
    """The steps that restore what was there, except in /opt/cni/bin."""
    places = dict.fromkeys([*folders(runtimes), *(os.path.dirname(path) for path in _diverted())])
    for folder in places:
        if folder != BIN:
            yield from _restore_step(folder, _linked(folder))


def undivert_steps() -> Iterator[Step]:
    """The step that ends the diversions, when the files are back in their places."""
    ours = _diverted()
    if ours:
        places = dict.fromkeys(map(os.path.dirname, ours))
        yield Step(f"end dpkg's diversions in {', '.join(places)}", lambda: _divert("--remove", ours))


def _is_debian() -> bool:
    return os.path.exists(_DIVERT) and os.path.exists("/var/lib/dpkg/status")


def _is_link(path: str) -> bool:
    """Whether this is a link of ours, wherever it leads by now."""
    return os.path.islink(path) and os.readlink(path) == os.path.join(BIN, os.path.basename(path))


def _linked(folder: str) -> list[str]:
    """The names of our links in a folder."""
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return [name for name in names if _is_link(os.path.join(folder, name))]


def _restore_step(folder: str, names: Sequence[str]) -> Iterator[Step]:
    if names:
        yield Step(
            f"remove the links {', '.join(names)} from {folder}, and restore what they replaced",
            lambda: _restore_all(folder, names),
        )


def _link_all(folder: str, names: Sequence[str]) -> None:
    os.makedirs(folder, 0o755, exist_ok=True)
    for name in names:
        path = os.path.join(folder, name)
        new = f"{path}.slash24.new"
        if os.path.lexists(new):  # of an installation that was killed
            os.unlink(new)
        if os.path.lexists(path) and not is_launcher(path):
            os.link(path, new, follow_symlinks=False)
            os.replace(new, path + KEPT)
        os.symlink(os.path.join(BIN, name), new)
        os.replace(new, path)


def _restore_all(folder: str, names: Sequence[str]) -> None:
    for name in names:
        path = os.path.join(folder, name)
        if os.path.lexists(path + KEPT):
            os.replace(path + KEPT, path)
        else:
            os.unlink(path)


def _diverted() -> list[str]:
    """The paths of our names that dpkg diverts to NAME.distrib for no package, as an installation has it do."""
    try:
        with open(_DIVERSIONS, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    entries = zip(lines[::3], lines[1::3], lines[2::3], strict=False)
    local = [path for path, to, package in entries if package == ":" and to == path + KEPT]
    return [path for path in local if os.path.basename(path) in TYPES or os.path.basename(path).startswith("slash24")]


def _divert_step(paths: Sequence[str], diverted: Sequence[str]) -> Iterator[Step]:
    missing = [path for path in paths if path not in diverted]
    folder = os.path.dirname(missing[0]) if missing else ""
    if folder.startswith(_PACKAGES) and _is_debian():
        yield Step(
            f"have dpkg divert what packages have under these names in {folder} to NAME{KEPT}",
            lambda: _divert("--add", missing),
        )


def _divert(what: str, paths: Sequence[str]) -> None:
    for path in paths:
        run(_DIVERT, "--quiet", "--local", "--no-rename", "--divert", path + KEPT, what, path)
