"""Pods by containerd's CRI when something ends, breaks off or changes under them."""

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.netns.node import wait_until
from tests.runtimes.conftest import install
from tests.runtimes.cri import change, conflist, ipv4, network, running
from tests.runtimes.engines import Agent, Containerd
from tests.runtimes.leftovers import leases, leftovers, rules
from tests.runtimes.machine import Machine

BIN = "/opt/cni/bin"
SMALL = "10.40.0.0/29"
SMALL_PODS = ["a", "b", "c", "d", "e"]
"""As many as it has addresses, besides the gateway's."""


def collect(machine: Machine) -> None:
    """GC by each plugin of the network, with nothing to keep, as a runtime does that has no pod."""
    environ = ["env", "CNI_COMMAND=GC", f"CNI_PATH={BIN}"]
    for plugin in network()["plugins"]:
        conf = {**plugin, "name": "cri", "cniVersion": "1.1.0", "cni.dev/valid-attachments": []}
        machine.run([*environ, f"{BIN}/{plugin['type']}"], stdin=json.dumps(conf))


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_pods_outlive_their_runtime(cri: Containerd, signal: str) -> None:
    """They reach each other while containerd is down; when it is back it removes them, and starts others."""
    with running(cri, "one", "two") as (one, two):
        cri.end(signal)
        try:
            assert one.reaches(ipv4(two))
        finally:
            cri.launch()
        assert cri.start("cri", "three").reaches(ipv4(two))


def test_what_a_killed_runtime_forgets_is_released_by_gc(way: None, cri: Containerd, machine: Machine) -> None:
    """It is killed while it starts pods, of which it then knows some or none."""

    def start(name: str) -> None:
        with suppress(AssertionError):
            cri.start("cri", name)

    threads = [threading.Thread(target=start, args=[name]) for name in SMALL_PODS]
    for thread in threads:
        thread.start()
    assert wait_until(lambda: len(leases(machine)) > 2)
    cri.end("KILL")
    for thread in threads:
        thread.join()
    calls = ["pgrep", "--runstates", "R,S,D", "--exact", "bridge|loopback|portmap|bandwidth"]
    assert wait_until(lambda: machine.run(calls, check=False).returncode == 1)  # they outlive containerd
    cri.launch()
    if known := cri.known():
        cri.remove_together(known)
    for path in machine.path("/run/netns").glob("cni-*"):
        machine.run(["ip", "netns", "delete", path.name])
    collect(machine)
    with running(cri, *SMALL_PODS) as (one, *_, other):
        assert one.reaches(ipv4(other))


def test_pods_outlive_a_killed_agent(cri: Containerd, agent: Agent, machine: Machine) -> None:
    """What it began for a pod is ended without it, and by the next one."""
    with running(cri, "one", "two", "three") as pods:
        agent.end("KILL")
        assert pods[0].reaches(ipv4(pods[1]))
        cri.remove("one")
        assert len(leases(machine)) == 4
        assert cri.start("cri", "four").reaches(ipv4(pods[1]))
        agent.launch()
        cri.remove("two", "four")
    assert ("DEL", "bridge", "0") in agent.served()


@pytest.fixture
def rebooted(reference_bin: Path) -> Iterator[tuple[Machine, Containerd]]:
    """A node that was cut off from power while it had as many pods as addresses, after the reboot."""
    machine = Machine()
    try:
        install(machine)
        containerd = Containerd(machine, reference_bin / "crictl")
        change(containerd, conflist(machine), network(subnet=SMALL))
        containerd.start_together("cri", SMALL_PODS)
        with pytest.raises(AssertionError, match="no IP addresses available"):
            containerd.start("cri", "more")
        containerd.end("KILL")
        machine = machine.rebooted()
        install(machine)
        containerd = Containerd(machine, reference_bin / "crictl")
        change(containerd, conflist(machine), network(subnet=SMALL))
        yield machine, containerd
        containerd.end()
    finally:
        machine.close()


def test_leases_from_before_a_reboot_do_not_keep_pods_from_starting(rebooted: tuple[Machine, Containerd]) -> None:
    """The new pods have the old ones' addresses, and keep them when those are removed."""
    machine, containerd = rebooted
    old = containerd.known()
    assert len(leases(machine)) == 2 * len(SMALL_PODS)
    with running(containerd, *(f"new-{name}" for name in SMALL_PODS)) as (one, *_, other):
        containerd.remove_together(old)
        assert one.reaches(ipv4(other))
        assert len(leases(machine)) == 2 * len(SMALL_PODS)
    assert wait_until(lambda: not leftovers(machine)), leftovers(machine)


def test_gc_releases_leases_from_before_a_reboot(rebooted: tuple[Machine, Containerd]) -> None:
    """The runtime has none of the pods that have them."""
    machine, _ = rebooted
    assert len(leases(machine)) == 2 * len(SMALL_PODS)
    collect(machine)
    assert leases(machine) == []


@pytest.mark.parametrize("changed", [{"mtu": 1400, "ipMasq": False}, {"subnet": "10.41.0.0/24", "forceAddress": True}])
def test_other_keys_may_change_under_running_pods(way: None, cri: Containerd, machine: Machine, changed: dict) -> None:
    """The next pod has what the new configuration says; older pods are removed as ever."""
    with running(cri, "one"):
        change(cri, conflist(machine), network(**changed))
        cri.start("cri", "two")
        assert len(leases(machine)) == 4


def test_a_networks_file_may_be_renamed_under_running_pods(cri: Containerd, machine: Machine) -> None:
    """Its pods are removed as ever."""
    renamed = conflist(machine).with_name("000.conflist")
    with running(cri, "one"):
        conflist(machine).rename(renamed)
        cri.start("cri", "two")
        cri.remove("one", "two")
        assert wait_until(lambda: not leftovers(machine)), leftovers(machine)
        renamed.rename(conflist(machine))


def test_a_renamed_network_keeps_what_its_pods_had_until_gc(
    cri: Containerd, machine: Machine, reference_bin: Path
) -> None:
    """As docs/installing.md says: leases and masquerade stay, and a GC of the old list releases them."""
    with running(cri, "one"):
        change(cri, conflist(machine), network("other"))
    assert len(leases(machine, "cri")) == 2
    assert "v1:cri:" in str(rules(machine))
    machine.path("/tmp/old").mkdir()
    machine.path("/tmp/old/old.conflist").write_text(json.dumps(network()))
    environ = ["env", f"CNI_PATH={BIN}", "NETCONFPATH=/tmp/old"]
    machine.run([*environ, reference_bin / "cnitool", "gc", "cri", "/run/netns/any"])
