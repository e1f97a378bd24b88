"""The rules of the project that a machine can check: style, layers, sizes, and imports that keep cold calls fast."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from freeze.bare import PACKAGES
from plugins.__main__ import VERSION

ROOT = Path(__file__).resolve().parent.parent.parent

# The packages of ours and of third parties that each package may import. Our other packages are above it.
MAY_IMPORT = {
    "spec": set(),
    "state": {"spec"},
    "ipam": {"spec", "state"},
    "linux": {"spec", "pyroute2", "jeepney"},
    "rules": {"spec", "linux"},
    "plugins": {"spec", "state", "ipam", "linux", "rules", "re2"},
    "agent": {"spec", "state", "ipam", "linux", "rules", "plugins", "prometheus_client", "pyimod02_importers"},
    "nodes": {"spec", "state", "ipam", "linux", "rules", "plugins", "lightkube", "httpx2", "msgspec", "yaml"},
    "policy": {"spec", "state", "ipam", "linux", "rules", "plugins", "nodes", "msgspec", "yaml"},
    "daemon": {"spec", "state", "ipam", "linux", "rules", "plugins", "nodes", "policy", "agent", "prometheus_client"},
}
MAY_IMPORT["cli"] = {*MAY_IMPORT, "click", "rich", "httpx2"}
FUNCTION_LINES, MODULE_LINES = 50, 450
SHELL = (
    "build.sh",
    "test.sh",
    "tests/tools.sh",
    ".ci/run",
    "freeze/shell.sh",
    "demo.sh",
    "launcher/build.sh",
    "tests/debian.sh",
    "tests/vm/run.sh",
    "tests/vm/init.sh",
    "tests/vm/start.sh",
    "tests/runtimes/fetch.sh",
    "tests/kubernetes/fetch.sh",
    "tests/kubernetes/build.sh",
    "install.sh",
    "freeze/debian/postinst",
    "freeze/debian/postrm",
    "freeze/debian/prerm",
)
# Imports that are too slow for the start of a cold call; they may be inside the function that needs them.
SLOW = {"argparse", "asyncio", "hashlib", "ipaddress", "logging", "pathlib", "random", "subprocess", "tempfile"}
SLOW |= {"inspect", "typing"}


def sources(*folders: str) -> list[Path]:
    """The Python files under the folders, relative to the repository."""
    return sorted(path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*.py"))


ROOMS = sources(*MAY_IMPORT)
ALL = sources(*MAY_IMPORT, "freeze", "bench", "tests")


@functools.cache
def parse(path: Path) -> ast.Module:
    """The syntax tree of a file of the repository."""
    return ast.parse((ROOT / path).read_text())


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of every import in `tree`, at any depth; `from a import b` is "a.b" here."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def at_import(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """The same for imports that run when the module is imported: not in functions, nor only for type checkers."""
    for node in tree.body:
        checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not checking and not isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from imports(node)


def public(tree: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """The functions, classes and methods without a leading underscore."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node)


def modules_of(package: str) -> Iterator[str]:
    """The dotted names of all modules in an installed package."""
    (origin,) = find_spec(package).submodule_search_locations
    for path in Path(origin).rglob("*.py"):
        parts = path.relative_to(Path(origin).parent).with_suffix("").parts
        if len(parts) > 2 or parts[-1] != "__init__":
            yield ".".join(parts).removesuffix(".__init__")


def tool(name: str) -> str:
    """The path of a program in the tests' environment."""
    return str(Path(sys.executable).parent / name)


def test_ruff_finds_nothing() -> None:
    """The rules in pyproject.toml hold for all files."""
    argv = [tool("ruff"), "check", "--no-cache", "--output-format=concise", ROOT]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", [name for name in SHELL if (ROOT / name).exists()])
def test_shellcheck_finds_nothing(script: str) -> None:
    """In any of our shell scripts."""
    done = subprocess.run([tool("shellcheck"), "-x", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_shell_script_is_checked() -> None:
    """The list above has all tracked scripts."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    scripts = {name for name in tracked.split("\0") if name.endswith(".sh")}
    assert scripts <= set(SHELL)


def test_imports_point_down() -> None:
    """A package imports only the packages below it and the third parties that it may use."""
    foreign = [
        f"{path}:{line}: {name}"
        for path in ROOMS
        for name, line in imports(parse(path))
        if name.partition(".")[0] not in MAY_IMPORT[path.parts[0]] | {path.parts[0]} | sys.stdlib_module_names
    ]
    assert not foreign


def test_third_parties_are_imported_by_submodule() -> None:
    """Frozen, their `__init__` modules are empty: names must not be imported from the packages themselves."""
    sub_modules = {name for package in PACKAGES for name in modules_of(package)}
    whole = [
        f"{path}:{line}: {name}"
        for path in ROOMS
        for name, line in imports(parse(path))
        if name.partition(".")[0] in PACKAGES and not {name, name.rpartition(".")[0]} & sub_modules
    ]
    assert not whole


def test_nothing_slow_is_imported_at_the_start() -> None:
    """Modules that take milliseconds are imported in the functions that need them. The daemons start only once."""
    starting = [path for path in ROOMS if path.parts[0] not in ("agent", "daemon", "nodes", "policy", "cli")]
    found = [(path, name, line) for path in starting for name, line in at_import(parse(path))]
    assert not [f"{path}:{line}: {name}" for path, name, line in found if name.partition(".")[0] in SLOW]


def test_every_dataclass_has_a_docstring() -> None:
    """Without one, `dataclasses` generates it with `inspect`, whose import takes 7 ms of a call."""
    classes = [(path, node) for path in ROOMS for node in ast.walk(parse(path)) if isinstance(node, ast.ClassDef)]
    decorated = [(path, cls) for path, cls in classes if "dataclass" in " ".join(map(ast.unparse, cls.decorator_list))]
    assert decorated
    assert not [f"{path}:{cls.lineno}: {cls.name}" for path, cls in decorated if not ast.get_docstring(cls)]


def test_public_functions_have_docstrings() -> None:
    """So that a reader of another module knows what they promise."""
    bare = [
        f"{path}:{node.lineno}: {node.name}"
        for path in ROOMS
        for node in public(parse(path))
        if not ast.get_docstring(node)
    ]
    assert not bare


def test_functions_and_modules_are_small() -> None:
    """A function fits on a screen, and a module has one subject."""
    nodes = [(path, node) for path in ALL for node in ast.walk(parse(path)) if isinstance(node, ast.FunctionDef)]
    lines = {f"{path}:{node.lineno}: {node.name}": node.end_lineno - node.lineno + 1 for path, node in nodes}
    assert {function: length for function, length in lines.items() if length > FUNCTION_LINES} == {}
    lengths = {str(path): len((ROOT / path).read_text().splitlines()) for path in ALL}
    assert {path: length for path, length in lengths.items() if length > MODULE_LINES} == {}


def test_there_is_one_version() -> None:
    """The plugins print the version of pyproject.toml, which the tarball has too."""
    assert f'\nversion = "{VERSION}"\n' in (ROOT / "pyproject.toml").read_text()


def test_everything_is_pinned() -> None:
    """Two builds of one commit bundle the same code; each dependency has a comment with its purpose."""
    lines = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")
    pins = [line for line in (lines[0] + lines[2].partition("[tool.")[0]).splitlines() if line.startswith('    "')]
    assert pins
    assert not [line for line in pins if "==" not in line or "# " not in line]
