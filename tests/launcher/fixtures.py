"""Builds of the launcher, and fake agents for it to call; fixtures used in more than one tier."""

import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.launcher.agent import RESULT, Agent, answering, reply


def build(*arguments: str | Path) -> None:
    """Run launcher/build.sh."""
    done = subprocess.run([ROOT / "launcher/build.sh", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the launcher and the fuzzer under the address and undefined-behaviour sanitizers."""
    folder = tmp_path_factory.mktemp("sanitized")
    build("--sanitized", folder)
    return folder


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, ...]]:
    """The launcher that ships, and the emulator for aarch64: $LAUNCHER_EMULATOR, for example qemu-aarch64-static."""
    folder = tmp_path_factory.mktemp("shipped")
    build(folder)
    emulator = os.environ.get("LAUNCHER_EMULATOR")
    if emulator:
        return folder / "aarch64" / "launcher", (emulator,)
    return folder / platform.machine() / "launcher", ()


@pytest.fixture
def listen() -> Iterator[Callable[..., Agent]]:
    """`listen(behave)` starts a fake agent; after the test all are closed, and their exceptions raised."""
    agents: list[Agent] = []

    def start(behave: Callable, **options: object) -> Agent:
        agents.append(Agent(behave, **options))
        return agents[-1].start()

    yield start
    for agent in agents:
        agent.close()


@pytest.fixture
def agent(listen: Callable[..., Agent]) -> Agent:
    """An agent that replies to every request with success and a result."""
    return listen(answering(reply(0, RESULT)))
