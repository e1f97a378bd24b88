"""`slash24 pods`, `leases` and `gc` beside a real runtime: what containerd knows is kept, what it has lost is not."""

import json
from pathlib import Path

import pytest

from tests.runtimes.cri import running
from tests.runtimes.engines import Containerd, Podman
from tests.runtimes.leftovers import leases
from tests.runtimes.machine import Machine

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


@pytest.fixture
def tools(reference_bin: Path) -> str:
    """PATH with crictl."""
    return f"{reference_bin}:{PATH}"


def document(machine: Machine, path: str, *words: str) -> tuple[int, object]:
    """The exit status of a command, and what it prints with --json."""
    argv = ["env", f"PATH={path}", "/opt/cni/bin/slash24", *words, "--json"]
    done = machine.run(argv, check=False)
    return done.returncode, json.loads(done.stdout)


def test_pods_of_containerd(cri: Containerd, machine: Machine, tools: str) -> None:
    """Named as Kubernetes names them; a pod whose namespace was lost is containerd's until it has removed it."""
    with running(cri, "one", "two") as (_, two):
        status, found = document(machine, tools, "pods")
        assert (status, {pod["pod"] for pod in found}) == (0, {"default/one", "default/two"})
        assert all(pod["netns"].startswith("/var/run/netns/cni-") for pod in found)
        assert document(machine, tools, "gc")[1]["stale"] == []
        assert {one["state"] for one in document(machine, tools, "leases")[1]["leases"]} == {"live"}

        (lost,) = [pod for pod in found if pod["pod"] == "default/one"]
        pause = machine.run(["ip", "netns", "pids", lost["netns"].rpartition("/")[2]]).stdout.split()
        machine.run(["kill", "-9", *pause])
        machine.run(["ip", "netns", "delete", lost["netns"].rpartition("/")[2]])
        status, left = document(machine, tools, "gc", "--yes")
        assert (status, left["stale"]) == (0, [])
        assert {one["why"] for one in left["kept"]} == {"containerd still has the sandbox of default/one, notready"}
        assert {one["network"] for one in left["kept"]} == {"cri", "cni-loopback"}
        assert len(leases(machine)) == 4

        # Without crictl nobody can be asked, and what the namespaces tell has to do.
        status, left = document(machine, PATH, "gc", "--yes")
        assert left["unasked"] == ["containerd was not asked for its containers: crictl is not installed"]
        assert (status, len(leases(machine))) == (0, 2)
        assert two.reaches("10.40.0.1")
        cri.remove("one")
    assert document(machine, tools, "gc") == (0, {**left, "stale": [], "kept": [], "unasked": [], "removed": False})


def test_containers_of_podman(machine: Machine, podman: Podman, tools: str) -> None:
    """One that runs is live; of one that was killed nothing is taken while podman has it."""
    podman.run("network", "create", "--subnet", "10.60.0.0/24", "people")
    try:
        podman.start("people", "box")
        status, (found,) = document(machine, tools, "pods")
        assert (status, found["addresses"], found["problems"]) == (0, ["10.60.0.2"], [])
        assert document(machine, tools, "gc")[1]["stale"] == []
        podman.run("kill", "box")
        assert document(machine, tools, "gc", "--yes")[1]["stale"] == []
        status, leased = document(machine, tools, "leases", "--network", "people")
        assert [one["range"] for one in leased["ranges"]] == ["10.60.0.1-10.60.0.254"]
        assert status == 0
    finally:
        podman.remove("box")
        podman.run("network", "rm", "people")
