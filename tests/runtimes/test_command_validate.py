"""`slash24 validate` on a node with real runtimes, and a pod that runs."""

from tests.runtimes.cri import conflist, running
from tests.runtimes.engines import Containerd
from tests.runtimes.leftovers import leases
from tests.runtimes.machine import Machine
from tests.runtimes.test_command_pods import PATH, document

MACHINES = ("clock", "log")
"""Checks that see the machine on which the test runs."""


def test_debians_containerd(cri: Containerd, machine: Machine) -> None:
    """No problem is found as README installs it; the trial leaves the pod that runs alone."""
    with running(cri, "one") as (one,):
        before = leases(machine)
        status, report = document(machine, PATH, "validate")
        wrong = [each for each in report["findings"] if each["outcome"] in ("problem", "warning")]
        assert (status, [each for each in wrong if each["check"] not in MACHINES]) == (0, [])
        said = {each["check"]: each["found"] for each in reversed(report["findings"])}
        assert said["runtime"].startswith("containerd 1.")
        assert said["network"] == f'pods get the network "cri" (bridge, portmap, bandwidth) of {_path(machine)}'
        assert leases(machine) == before
        assert one.reaches("10.40.0.1")


def _path(machine: Machine) -> str:
    """The network's file, as the node sees it."""
    return str(conflist(machine)).removeprefix(str(machine.path("/")).rstrip("/"))
