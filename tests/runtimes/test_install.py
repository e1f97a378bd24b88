"""README's section "Install" works on Debian 12 with its own containerd and podman, and so does every example."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest

from tests.conftest import ROOT
from tests.netns.node import NODE_V4, OUTSIDE_V4, Host, Pod, ask, wait_until
from tests.runtimes.engines import NET_D, Agent, Containerd, Podman
from tests.runtimes.leftovers import leftovers
from tests.runtimes.machine import TREE, Machine

EXAMPLES = {path.stem: path for path in sorted((ROOT / "docs" / "conflists").glob("*.conflist"))}
PLUGINS = {path.name for path in (ROOT / "dist" / "bin").iterdir() if not path.name.startswith("slash24")}
NO_ADDRESSES = {"layer2", "local"}
"""Networks for a second interface: a pod has no address by them, which containerd takes for a failure."""

FOLDERS = ("/usr/lib/cni", "/opt/cni/bin")
NODE_FILE = {"podCIDRs": ["10.30.1.0/24"]}
PORT = (8080, 80)


@pytest.fixture(params=sorted(EXAMPLES.keys() - {"flannel", "fixed"}))
def network(request: pytest.FixtureRequest, machine: Machine) -> Iterator[str]:
    """Each example, except those that must be completed first or are for a single pod."""
    yield from installed(machine, request.param)


def installed(machine: Machine, name: str) -> Iterator[str]:
    """Install the example so that it sorts before all others; yields its name."""
    machine.path("/run/slash24").mkdir(exist_ok=True)
    machine.path("/run/slash24/node.json").write_text(json.dumps(NODE_FILE))
    file = machine.path(f"{NET_D}/00-{name}.conflist")
    file.with_name(".new").write_text(EXAMPLES[name].read_text())
    file.with_name(".new").rename(file)
    yield name
    file.unlink()


def is_ours(machine: Machine, network: str) -> bool:
    """Whether the aliases of the pods' links have this suite's prefix and this network's name."""
    aliases = [link.get("ifalias", "") for name, link in machine.links().items() if name.startswith("veth")]
    return bool(aliases) and all(alias.startswith(f"v1:{network}:") for alias in aliases)


def address(pod: Host) -> str:
    """An address of the pod; an IPv4 address if it has one."""
    return min(pod.addresses("eth0")).partition("/")[0]


@contextmanager
def pods(
    engine: Containerd | Podman, network: str, names: Mapping[str, Sequence[tuple[int, int]]]
) -> Iterator[list[Host]]:
    """Pods with these names and ports; removed afterwards."""
    engine.use(network)
    started = []
    try:
        yield [(started.append(name), engine.start(network, name, ports))[1] for name, ports in names.items()]
    finally:
        engine.remove(*started)


def is_used(machine: Machine, folder: str, name: str) -> bool:
    """Whether the plugin of that name in a folder of the node is the built launcher."""
    return machine.run(["cmp", f"{folder}/{name}", ROOT / "dist" / "bin" / name], check=False).returncode == 0


def test_no_plugin_of_others_is_found_under_our_names(machine: Machine) -> None:
    """In both folders that the runtimes search, every name of the suite is ours; Debian's plugins are moved aside."""
    assert [name for name in PLUGINS for folder in FOLDERS if not is_used(machine, folder, name)] == []
    theirs = {path.name for path in (TREE / "usr/lib/cni").iterdir()}
    assert theirs & PLUGINS
    assert {name for name in theirs if machine.path(f"/usr/lib/cni/{name}.distrib").exists()} == theirs & PLUGINS


def test_an_example_works(engine: Containerd | Podman, machine: Machine, outside: Pod, network: str) -> None:
    """Two pods reach each other, an outside host reaches a published port, and removal leaves nothing behind."""
    if network in NO_ADDRESSES and isinstance(engine, Containerd):
        return
    has_ports = "portmap" in [plugin["type"] for plugin in json.loads(EXAMPLES[network].read_text())["plugins"]]
    with pods(engine, network, {"published": [PORT] if has_ports else (), "other": ()}) as (pod, other):
        assert network == "local" or is_ours(machine, network)
        if network not in NO_ADDRESSES:
            own = address(pod)
            assert ask(other, pod, own, 80, "tcp") == address(other)
            if has_ports:
                assert ask(outside, pod, own, 80, "tcp", to=(NODE_V4, PORT[0])) == OUTSIDE_V4
    assert wait_until(lambda: not leftovers(machine)), leftovers(machine)


def test_the_example_for_one_pod_works(engine: Containerd | Podman, machine: Machine) -> None:
    """fixed.conflist, whose addresses can be used by one pod: the node reaches the pod on the configured address."""
    for network in installed(machine, "fixed"):
        with pods(engine, network, {"only": ()}) as (pod,):
            assert is_ours(machine, network)
            assert ask(machine, pod, "10.29.0.10", 80, "tcp") == "10.29.0.1"
    assert wait_until(lambda: not leftovers(machine)), leftovers(machine)


def test_an_example_works_with_the_agent(engine: Containerd | Podman, machine: Machine, agent: Agent) -> None:
    """With the agent installed as in README, it serves the runtimes' calls."""
    for network in installed(machine, "dual-stack"):
        with pods(engine, network, {"one": (), "two": ()}) as (one, two):
            assert one.reaches(address(two))
    assert agent.served() >= {("ADD", "bridge", "0"), ("DEL", "bridge", "0")}
    assert wait_until(lambda: not leftovers(machine)), leftovers(machine)


def test_removal_restores_the_previous_plugins(machine: Machine) -> None:
    """`--remove` restores Debian's plugins and leaves none of ours; installing again works, even twice."""
    try:
        machine.run([ROOT / "install.sh", "--remove"])
        assert list(machine.path("/opt/cni/bin").iterdir()) == []
        assert machine.run(["diff", "-r", TREE / "usr/lib/cni", "/usr/lib/cni"]).stdout == ""
        assert "/cni/" not in machine.run(["dpkg-divert", "--list"]).stdout
    finally:
        for _ in range(2):
            machine.run([ROOT / "install.sh"])
    assert [name for name in PLUGINS for folder in FOLDERS if not is_used(machine, folder, name)] == []


def test_an_upgrade_of_debians_plugins_keeps_ours(machine: Machine) -> None:
    """dpkg installs the package's plugins beside ours, not over them."""
    done = machine.run(["dpkg-divert", "--truename", "/usr/lib/cni/bridge"])
    assert done.stdout.strip() == "/usr/lib/cni/bridge.distrib"
    assert (
        machine.run(["dpkg-divert", "--truename", "/opt/cni/bin/bridge"]).stdout.strip()
        == "/opt/cni/bin/bridge.distrib"
    )
