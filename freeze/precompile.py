"""Compile at build time what `dataclasses` compiles at every import.

For each dataclass the standard library writes the text of its methods and compiles it: 0.9 ms a class, a quarter of a
cold call in all. The texts are the same each time, so the build writes a module that holds them compiled
(`dataclass_code.CODE`: text -> marshalled code), and the frozen plugins look there first (freeze/lean.py).

    python -m freeze.precompile ROOT OUTPUT
"""

import dataclasses
import marshal
import os
import sys
from collections.abc import Iterator
from importlib import import_module

ROOMS = ("spec", "ipam", "linux", "plugins")


def modules(root: str) -> Iterator[str]:
    """The names of all modules of the suite that are imported, not run."""
    for room in ROOMS:
        for folder, _, files in sorted(os.walk(os.path.join(root, room))):
            package = os.path.relpath(folder, root).replace(os.sep, ".")
            for name in sorted(files):
                if name.endswith(".py") and not name.startswith("__"):
                    yield f"{package}.{name.removesuffix('.py')}"


def texts(root: str) -> dict[str, None]:
    """Every text that `dataclasses` executes while the suite is imported, each once."""
    seen: dict[str, None] = {}

    def execute(text: str, names: dict[str, object], made: dict[str, object]) -> None:
        seen[text] = None
        exec(text, names, made)  # noqa: S102  (what dataclasses itself does with it)

    dataclasses.exec = execute
    for module in modules(root):
        import_module(module)
    del dataclasses.exec
    return seen


def write(root: str, path: str) -> None:
    """Write the module `dataclass_code` to `path`."""
    compiled = {text: marshal.dumps(compile(text, "<string>", "exec")) for text in texts(root)}
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"CODE = {compiled!r}\n")


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    write(*sys.argv[1:])
