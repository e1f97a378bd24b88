"""Compile at build time what `dataclasses` compiles at every import.

For each dataclass the standard library writes the text of its methods and compiles it: 0.9 ms a class, a quarter of a
cold call in all. The texts are the same each time, so the build writes a module that holds them compiled
(`dataclass_code.CODE`: text -> marshalled code), and the frozen plugins look there first (freeze/lean.py).

    python -m freeze.precompile OUTPUT MODULE...
"""

import dataclasses
import marshal
import sys
from collections.abc import Iterable
from importlib import import_module


def texts(modules: Iterable[str]) -> dict[str, None]:
    """Every text that `dataclasses` executes while the modules are imported, each once."""
    seen: dict[str, None] = {}

    def execute(text: str, names: dict[str, object], made: dict[str, object]) -> None:
        seen[text] = None
        exec(text, names, made)  # noqa: S102  (what dataclasses itself does with it)

    dataclasses.exec = execute
    for module in modules:
        import_module(module)
    del dataclasses.exec
    return seen


def write(path: str, modules: Iterable[str]) -> None:
    """Write the module `dataclass_code` to `path`."""
    compiled = {text: marshal.dumps(compile(text, "<string>", "exec")) for text in texts(modules)}
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"CODE = {compiled!r}\n")


if __name__ == "__main__":
    write(sys.argv[1], sys.argv[2:])
