"""The units in deploy/ are valid, and the agent works with systemd's socket activation."""

import signal
import subprocess
from pathlib import Path

import pytest

from tests.conformance.support import leases, network
from tests.conftest import ROOT
from tests.netns.cni import CNI
from tests.netns.node import Node, wait_until

UNITS = ("slash24-agent.service", "slash24-agent.socket", "slash24-node.service")
SOCKET = "/run/slash24/cni.sock"

pytestmark = pytest.mark.cold("starts its own agent, or none")


@pytest.fixture
def units(tmp_path: Path, bin_dir: Path) -> list[Path]:
    """The units, with the path of the agent under test instead of the installed one."""
    for name in UNITS:
        text = (ROOT / "deploy" / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/cni/bin/", f"{bin_dir}/"))
    return [tmp_path / name for name in UNITS]


def test_systemd_accepts_the_units(units: list[Path]) -> None:
    """`systemd-analyze verify` accepts every section, key and value."""
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_rejects_a_misspelt_key(units: list[Path]) -> None:
    """`systemd-analyze verify` reports a misspelt key, so the test above can fail."""
    units[0].write_text(units[0].read_text().replace("KillMode=mixed", "KillMood=mixed"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)
    assert "KillMood" in done.stderr


def test_the_first_call_starts_the_agent(node: Node, cni: CNI, bin_dir: Path) -> None:
    """The first call waits in the socket while the agent starts; after SIGTERM the next call executes the plugin."""
    node.path(SOCKET).parent.mkdir()
    log = node.path("/run/log")
    with log.open("w") as stderr:
        manager = node.start(["systemd-socket-activate", "-l", SOCKET, bin_dir / "slash24-agent"], stderr=stderr)
    try:
        assert wait_until(lambda: node.path(SOCKET).is_socket())
        pod, conf = node.pod("pod"), network()
        result = cni.add(conf, pod)
        assert wait_until(lambda: "verb=ADD plugin=bridge" in log.read_text())  # logged after the reply
        manager.send_signal(signal.SIGTERM)  # it has exec'ed the agent
        assert manager.wait(10) == 0
        cni.delete(conf, pod, result)
        assert leases(node) == {}
        assert "verb=DEL" not in log.read_text()
    finally:
        manager.kill()
        manager.wait()
