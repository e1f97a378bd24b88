"""Compiles at build time what `dataclasses` compiles at every import.

For each dataclass the standard library generates the source of its methods and compiles it: 0.9 ms per class, a quarter
of a cold call in total. The source is always the same, so the build writes a module with the compiled code
(`dataclass_code.CODE`: source -> marshalled code), which the frozen plugins use (freeze/lean.py).

    python -m freeze.precompile OUTPUT MODULE...
"""

import dataclasses
import marshal
import sys
from collections.abc import Iterable
from importlib import import_module


def texts(modules: Iterable[str]) -> dict[str, None]:
    """Every source text that `dataclasses` executes while the modules are imported."""
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
