"""Debian's containerd and podman on the tier's own node, with the plugins installed as README describes."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.netns.fixtures import untouched_machine  # noqa: F401 (fixture)
from tests.netns.node import OUTSIDE_V4, OUTSIDE_V6, Node, Pod
from tests.runtimes.engines import Containerd, Podman
from tests.runtimes.machine import Machine


def install_lines() -> str:
    """The first commands in README's section "Install"."""
    text = (ROOT / "README.md").read_text().partition("\n## Install\n")[2]
    return re.search(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[1]


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    """A node on which README's commands have installed the plugins, with a link to an outside host."""
    made = Machine()
    try:
        made.run(["bash", "-ec", f"cd {ROOT}\n{install_lines()}"])
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def outside(machine: Machine) -> Pod:
    """A host outside the node, at the end of the node's default routes."""
    host = Node.outside(machine)
    for via in (OUTSIDE_V4, OUTSIDE_V6):
        machine.run(["ip", "route", "add", "default", "via", via])
    return host


@pytest.fixture(scope="session")
def containerd(machine: Machine, reference_bin: Path) -> Containerd:
    """containerd with its package's configuration."""
    return Containerd(machine, reference_bin / "crictl")


@pytest.fixture(scope="session")
def podman(machine: Machine) -> Podman:
    """podman with its package's configuration."""
    return Podman(machine)


@pytest.fixture(params=["containerd", "podman"])
def engine(request: pytest.FixtureRequest) -> Containerd | Podman:
    """Each of the two."""
    return request.getfixturevalue(request.param)
