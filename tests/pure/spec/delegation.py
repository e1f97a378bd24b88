"""A suite with an IPAM plugin, and a plugin that delegates to it."""

import sys
from pathlib import Path

import pytest

from spec.delegate import delegate
from spec.plugin import Suite
from spec.request import Request
from spec.result import Result
from tests.pure.spec import fake_ipam
from tests.pure.spec.driver import Recorder

ROOT = Path(__file__).resolve().parents[3]
STRANGER = '#!/bin/sh\ncat >/dev/null\necho \'{"ips": [{"address": "10.9.9.9/32"}]}\'\n'
LAUNCHER = b"\x7fELF" + bytes(1000) + b"slash24 launcher, protocol 2\0" + bytes(1000)
"""Enough of one to be taken for it; not executable, so that no process can be started."""


def write_program(path: Path, text: str) -> Path:
    """Write an executable script."""
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture(name="folder")
def folder_of_plugins(tmp_path: Path) -> Path:
    """A folder for CNI_PATH with the fake IPAM plugin as an executable."""
    (tmp_path / "bin").mkdir()
    program = f"#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m tests.pure.spec.fake_ipam\n"
    write_program(tmp_path / "bin" / "fake-ipam", program)
    return tmp_path / "bin"


def suite(folder: Path) -> Suite:
    """The suite of the fake IPAM plugin, installed in `folder`: the launcher is there under the plugin's name."""
    (folder / "fake-ipam").unlink()
    (folder / "fake-ipam").write_bytes(LAUNCHER)
    return Suite(home=str(folder), load={"fake-ipam": fake_ipam.PLUGIN}.get)


def upper(kind: str = "fake-ipam", *, verb: str | None = None) -> Recorder:
    """A plugin that delegates each verb to another plugin, as the same verb or as `verb`."""

    def forward(request: Request) -> Result | None:
        return delegate(request, verb or request.verb, kind)

    return Recorder(**dict.fromkeys(("add", "delete", "check", "gc", "status"), forward))
