"""Debian's containerd and podman on the tier's own node, with the plugins installed as README describes."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.netns.fixtures import untouched_machine  # noqa: F401 (fixture)
from tests.netns.node import OUTSIDE_V4, OUTSIDE_V6, Node, Pod, wait_until
from tests.runtimes.cri import configured, network
from tests.runtimes.engines import Agent, Containerd, Podman
from tests.runtimes.leftovers import leftovers
from tests.runtimes.machine import Machine

SANDBOXES = 12


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--sandboxes`: how many pods start at once."""
    parser.addoption("--sandboxes", type=int, default=SANDBOXES, help=f"pods at once (default: {SANDBOXES})")


def install_lines() -> str:
    """The first commands in README's section "Install"."""
    text = (ROOT / "README.md").read_text().partition("\n## Install\n")[2]
    return re.search(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[1]


def install(machine: Machine) -> None:
    """Install the plugins as README does."""
    machine.run(["bash", "-ec", f"cd {ROOT}\n{install_lines()}"])


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    """A node on which README's commands have installed the plugins, with a link to an outside host."""
    made = Machine()
    try:
        install(made)
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
def containerd(machine: Machine, reference_bin: Path) -> Iterator[Containerd]:
    """containerd with its package's configuration."""
    made = Containerd(machine, reference_bin / "crictl")
    yield made
    made.end()


@pytest.fixture
def agent(machine: Machine) -> Iterator[Agent]:
    """The agent, until the end of the test."""
    made = Agent(machine)
    yield made
    made.end()


@pytest.fixture(scope="session")
def podman(machine: Machine) -> Podman:
    """podman with its package's configuration."""
    return Podman(machine)


@pytest.fixture(params=["containerd", "podman"])
def engine(request: pytest.FixtureRequest) -> Containerd | Podman:
    """Each of the two."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["cold", "warm"])
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Calls without an agent, and calls that an agent serves."""
    agent = request.getfixturevalue("agent") if request.param == "warm" else None
    yield
    if agent:
        assert agent.served() >= {("ADD", "bridge", "0"), ("DEL", "bridge", "0"), ("DEL", "portmap", "0")}


@pytest.fixture
def cri(machine: Machine, outside: Pod, containerd: Containerd) -> Iterator[Containerd]:
    """containerd with the network "cri"; nothing of any pod is left after the test."""
    with configured(machine, containerd, network()):
        yield containerd
    assert wait_until(lambda: not leftovers(machine)), leftovers(machine)
