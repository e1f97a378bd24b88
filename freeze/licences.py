"""The text of LICENSES.txt: the licences of all files in the private folder, collected from what is bundled."""

import glob
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.metadata import distribution, packages_distributions

Entry = tuple[str, str, str]

HEAD = """\
slash24 is free software under the Apache License, version 2.0 (first text below).
Its executables bundle what follows; each part is under its own licence, whose text is below.

"""
NOTES = {"pyroute2": "offered under Apache-2.0 or GPL-2.0-or-later; it is bundled here under Apache-2.0"}
OURS = {"spec", "state", "ipam", "linux", "rules", "plugins", "agent", "nodes", "policy", "daemon", "cli", "freeze"}
OURS |= {"dataclass_code"}
PYINSTALLER = "the executables' bootloader; its exception to the GPL permits bundling it with any program"


def notices(root: str, binaries: Iterable[Entry], modules: Iterable[str]) -> str:
    """The whole text. `binaries`: PyInstaller's table of bundled files, (name, path, kind); `modules`: dotted names."""
    parts = [("slash24", "", _read(os.path.join(root, "LICENSE"))), ("Python", "", _python())]
    parts += [_package(name, NOTES.get(name, "")) for name in _distributions(modules)]
    parts += [_package("pyinstaller", PYINSTALLER), *_libraries(binaries)]
    contents = "".join(f"  {name}{': ' + note if note else ''}\n" for name, note, _ in parts)
    rule = "=" * 100
    return HEAD + contents + "".join(f"\n{rule}\n{name}\n{rule}\n\n{text.strip()}\n" for name, _, text in parts)


def _distributions(modules: Iterable[str]) -> list[str]:
    """The installed distributions that the modules belong to; several may share a package."""
    foreign = {name.partition(".")[0] for name in modules} - OURS - sys.stdlib_module_names
    owners = packages_distributions()
    unknown = sorted(name for name in foreign if name not in owners and not name.startswith("pyi"))
    if unknown:
        raise LookupError(f"no distribution has {', '.join(unknown)}; LICENSES.txt would be incomplete")
    return sorted({owner for name in foreign for owner in owners.get(name, ())})


def _package(name: str, note: str) -> tuple[str, str, str]:
    """(title, note, licence texts) of an installed distribution; the Apache licence if there is a choice."""
    found = distribution(name)
    files = [file for file in found.files or () if file.name.upper().startswith(("LICENSE", "COPYING", "NOTICE"))]
    files = [file for file in files if "APACHE" in file.name.upper()] or files
    if not files:
        raise LookupError(f"{name}: found no licence among its files; LICENSES.txt would be incomplete")
    texts = [file.locate().read_text(encoding="utf-8") for file in files]
    return f"{name} {found.version}", note, "\n\n".join(texts)


def _python() -> str:
    """The licence of the interpreter and its standard library, as installed by CPython or Debian."""
    version = sysconfig.get_python_version()
    installed = os.path.join(sysconfig.get_path("stdlib"), "LICENSE.txt")
    return _read(installed if os.path.exists(installed) else f"/usr/share/doc/python{version}/copyright")


def _libraries(binaries: Iterable[Entry]) -> Iterator[tuple[str, str, str]]:
    """The licences of the bundled shared libraries of the system, by Debian package."""
    packages: dict[str, list[str]] = {}
    for name, path, kind in sorted(binaries):
        if kind == "BINARY" and not os.path.basename(name).startswith("libpython"):
            packages.setdefault(_debian_package(path), []).append(os.path.basename(name))
    for package, names in packages.items():
        yield package, ", ".join(names), _read(f"/usr/share/doc/{package}/copyright")


def _debian_package(path: str) -> str:
    """The Debian package that installed the file at `path`."""
    pattern = "*/" + os.path.basename(path)
    listing = subprocess.run(["dpkg", "-S", pattern], capture_output=True, text=True, check=True).stdout
    for line in listing.splitlines():
        package, _, installed = line.partition(": ")
        if os.path.realpath(installed) == os.path.realpath(path):
            return package.partition(":")[0]
    raise LookupError(f"{path} does not belong to a Debian package; LICENSES.txt would be incomplete")


def _read(pattern: str) -> str:
    (path,) = glob.glob(pattern)
    with open(path, encoding="utf-8") as file:
        return file.read()
