"""What is in deploy/ works: the units as systemd reads them, and the agent as systemd starts it."""

import signal
import subprocess
from pathlib import Path

import pytest

from tests.conformance.support import leases, network
from tests.conftest import ROOT
from tests.netns.cni import CNI
from tests.netns.node import Node, wait_until

UNITS = ("slash24-agent.service", "slash24-agent.socket")
SOCKET = "/run/slash24/cni.sock"

pytestmark = pytest.mark.cold("starts its own agent, or none")


@pytest.fixture
def units(tmp_path: Path, bin_dir: Path) -> list[Path]:
    """The units, with the path of this checkout's agent where the installed one is."""
    for name in UNITS:
        text = (ROOT / "deploy" / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/cni/bin/", f"{bin_dir}/"))
    return [tmp_path / name for name in UNITS]


def test_systemd_understands_the_units(units: list[Path]) -> None:
    """Every key is one that systemd knows, in a section where it may be, with a value that it takes."""
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_finds_fault_with_a_wrong_unit(units: list[Path]) -> None:
    """The test above can fail."""
    units[0].write_text(units[0].read_text().replace("KillMode=mixed", "KillMood=mixed"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)
    assert "KillMood" in done.stderr


def test_the_first_call_starts_the_agent(node: Node, cni: CNI, bin_dir: Path) -> None:
    """systemd passes the socket on with the call that waits in it; after a SIGTERM the next call does without."""
    node.path(SOCKET).parent.mkdir()
    log = node.path("/run/log")
    with log.open("w") as stderr:
        manager = node.start(["systemd-socket-activate", "-l", SOCKET, bin_dir / "slash24-agent"], stderr=stderr)
    try:
        assert wait_until(lambda: node.path(SOCKET).is_socket())
        pod, conf = node.pod("pod"), network()
        result = cni.add(conf, pod)
        assert wait_until(lambda: "verb=ADD plugin=bridge" in log.read_text())  # told after it is answered
        manager.send_signal(signal.SIGTERM)  # it has become the agent
        assert manager.wait(10) == 0
        cni.delete(conf, pod, result)
        assert leases(node) == {}
        assert "verb=DEL" not in log.read_text()
    finally:
        manager.kill()
        manager.wait()
