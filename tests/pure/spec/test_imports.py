"""The cost of a cold start: a plugin imports nothing that the call does not use."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
COSTLY = {
    "argparse", "asyncio", "hashlib", "ipaddress", "logging", "pathlib", "random", "shutil", "socket", "subprocess",
    "tempfile", "traceback", "typing", "uuid",
}  # fmt: skip


def modules_after(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after running `code`."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["spec.plugin", "spec.delegate"])
def test_the_protocol_imports_nothing_slow(module: str) -> None:
    """Not even through another module of the standard library."""
    assert modules_after(f"import {module}") & COSTLY == set()


def test_an_add_imports_nothing_slow() -> None:
    """From stdin to the printed result."""
    code = """
import io
from spec.plugin import Plugin, serve
from spec.result import IPConfig, Result
environ = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "a", "CNI_NETNS": "/x", "CNI_IFNAME": "eth0", "CNI_PATH": "/x"}
out = io.BytesIO()
plugin = Plugin("x", add=lambda _: Result(ips=(IPConfig("10.0.0.1/8"),)))
stdin = io.BytesIO(b'{"name": "n", "cniVersion": "1.1.0"}')
assert serve(plugin, environ=environ, stdin=stdin, stdout=out, stderr=sys.stderr) == 0, out.getvalue()
"""
    assert modules_after(code) & (COSTLY | {"spec.result_reader", "spec.delegate"}) == set()


def test_the_protocol_needs_only_the_standard_library() -> None:
    """It loads no package but `spec`."""
    modules = {
        name.partition(".")[0] for name in modules_after("import spec.plugin, spec.delegate, spec.result_reader")
    }
    assert modules - set(sys.stdlib_module_names) <= {"__main__", "spec", "org", "sitecustomize"}
