"""The launcher on a node: real pods' namespaces, the real frozen plugins behind it, and a host without anything."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conformance.support import host_local, network
from tests.launcher.agent import RESULT, Agent
from tests.launcher.fixtures import agent, listen, shipped  # noqa: F401 (fixtures)
from tests.launcher.launched import identity
from tests.netns.cni import CNI
from tests.netns.node import Node

pytestmark = pytest.mark.cold(reason="brings agents of its own")

CONF = network(host_local())


@pytest.fixture
def launcher(shipped: tuple[Path, tuple[str, ...]]) -> Path:  # noqa: F811
    """The executable for this machine."""
    return shipped[0]


@pytest.fixture
def launched(node: Node, launcher: Path, bin_dir: Path, tmp_path: Path) -> CNI:
    """An installation on the node: launchers by the plugins' names, and the frozen plugins where they look for them."""
    private = bin_dir / "slash24.d"
    (tmp_path / "slash24.d").symlink_to(private if private.is_dir() else bin_dir)
    for kind in ("bridge", "host-local"):
        shutil.copy(launcher, tmp_path / kind)
    return CNI(node, tmp_path)


def variables(cni: CNI, verb: str, pod: object, socket: Path | str) -> dict[str, str]:
    """The environment of a call, with the agent's address."""
    return cni.environ(verb, pod) | {"SLASH24_SOCKET": str(socket)}


def test_the_descriptor_is_the_pods_namespace(node: Node, launched: CNI, agent: Agent) -> None:  # noqa: F811
    """Of twenty pods at once each its own, though the agent sees none of their paths."""
    pods = [node.pod(f"pod{number}") for number in range(20)]
    own = {pod.name: identity(node.path(pod.path)) for pod in pods}
    assert len(set(own.values())) == 20

    def call(pod: object) -> str:
        return launched.raw("bridge", variables(launched, "ADD", pod, agent.path), json.dumps(CONF)).stdout

    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(call, pods)) == {RESULT.decode()}
    assert {asked.environ["CNI_CONTAINERID"]: asked.netns for asked in agent.asked} == {
        name: (namespace,) for name, namespace in own.items()
    }


def test_a_pod_that_is_gone_is_sent_without_a_descriptor(node: Node, launched: CNI, agent: Agent) -> None:  # noqa: F811
    """The path is still told."""
    pod = node.pod("pod")
    pod.vanish()
    assert launched.raw("bridge", variables(launched, "DEL", pod, agent.path), json.dumps(CONF)).returncode == 0
    assert (agent.asked[0].netns, agent.asked[0].environ["CNI_NETNS"]) == ((), pod.path)


def test_without_an_agent_the_frozen_plugins_do_it_all(node: Node, launched: CNI) -> None:
    """ADD, CHECK and DEL, delegation included, on a node where no agent ever ran."""
    pod = node.pod("pod")
    result = launched.add(CONF, pod)
    assert pod.addresses("eth0") == {ip["address"] for ip in result["ips"]}
    launched.check(CONF, pod, result)
    launched.delete(CONF, pod, result)
    assert "eth0" not in pod.links()


def test_version_and_about_need_no_agent(launched: CNI) -> None:
    """They are the frozen plugin's."""
    assert "1.1.0" in json.loads(launched.raw("bridge", {"CNI_COMMAND": "VERSION"}, "").stdout)["supportedVersions"]
    assert "CNI bridge plugin" in launched.raw("bridge", {}, "").stderr


def test_a_host_without_anything_will_do(node: Node, launcher: Path, agent: Agent) -> None:  # noqa: F811
    """A root with the launcher and the socket alone: no library, no /proc, no /dev, no shell."""
    (agent.folder / "bin").mkdir()
    shutil.copy(launcher, agent.folder / "bin" / "bridge")
    argv = ["/usr/sbin/chroot", agent.folder, "/bin/bridge"]
    env = {"CNI_COMMAND": "STATUS", "SLASH24_SOCKET": "/cni.sock"}
    assert node.run(argv, env=env, stdin=json.dumps(CONF)).stdout == RESULT.decode()
    assert agent.asked[0].kind == "bridge"
