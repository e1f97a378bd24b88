"""The launcher on a node: real pod namespaces, the real frozen plugins, and a host with nothing installed."""

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
    """The launcher for this machine."""
    return shipped[0]


@pytest.fixture
def launched(node: Node, launcher: Path, bin_dir: Path, tmp_path: Path) -> CNI:
    """An installation on the node: a launcher under each plugin's name, and the frozen plugins in their folder."""
    private = bin_dir / "slash24.d"
    (tmp_path / "slash24.d").symlink_to(private if private.is_dir() else bin_dir)
    for kind in ("bridge", "host-local"):
        shutil.copy(launcher, tmp_path / kind)
    return CNI(node, tmp_path)


def variables(cni: CNI, verb: str, pod: object, socket: Path | str) -> dict[str, str]:
    """The environment of a call, with the agent's socket."""
    return cni.environ(verb, pod) | {"SLASH24_SOCKET": str(socket)}


def test_the_descriptor_is_the_pods_namespace(node: Node, launched: CNI, agent: Agent) -> None:  # noqa: F811
    """With twenty concurrent calls each request has its own pod's namespace, though the agent cannot open the paths."""
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


def test_a_deleted_namespace_is_sent_without_a_descriptor(node: Node, launched: CNI, agent: Agent) -> None:  # noqa: F811
    """The request still has the path."""
    pod = node.pod("pod")
    pod.vanish()
    assert launched.raw("bridge", variables(launched, "DEL", pod, agent.path), json.dumps(CONF)).returncode == 0
    assert (agent.asked[0].netns, agent.asked[0].environ["CNI_NETNS"]) == ((), pod.path)


def test_without_an_agent_the_frozen_plugins_serve_every_call(node: Node, launched: CNI) -> None:
    """ADD, CHECK and DEL, including delegation, on a node without an agent."""
    pod = node.pod("pod")
    result = launched.add(CONF, pod)
    assert pod.addresses("eth0") == {ip["address"] for ip in result["ips"]}
    launched.check(CONF, pod, result)
    launched.delete(CONF, pod, result)
    assert "eth0" not in pod.links()


def test_version_and_about_need_no_agent(launched: CNI) -> None:
    """The frozen plugin answers them."""
    assert "1.1.0" in json.loads(launched.raw("bridge", {"CNI_COMMAND": "VERSION"}, "").stdout)["supportedVersions"]
    assert "CNI bridge plugin" in launched.raw("bridge", {}, "").stderr


def test_the_launcher_needs_nothing_from_the_host(node: Node, launcher: Path, agent: Agent) -> None:  # noqa: F811
    """A root with only the launcher and the socket: no libraries, /proc, /dev or shell."""
    (agent.folder / "bin").mkdir()
    shutil.copy(launcher, agent.folder / "bin" / "bridge")
    argv = ["/usr/sbin/chroot", agent.folder, "/bin/bridge"]
    env = {"CNI_COMMAND": "STATUS", "SLASH24_SOCKET": "/cni.sock"}
    assert node.run(argv, env=env, stdin=json.dumps(CONF)).stdout == RESULT.decode()
    assert agent.asked[0].kind == "bridge"
