"""A failed ADD undoes its changes, whichever of its steps failed."""

import json
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.netns.node import Node

RANGES = [[{"subnet": "10.7.0.0/24"}], [{"subnet": "fd00:7::/64"}]]
IPAM = {"type": "host-local", "ranges": RANGES, "dataDir": "/run/leases", "routes": [{"dst": "198.51.100.0/24"}]}
COMMON = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "b0"}
EVERYTHING = {"isDefaultGateway": True, "ipMasq": True, "macspoofchk": True, "promiscMode": True, "mtu": 1400}
EVERYTHING["sourceAddressValidation"] = True
pytestmark = pytest.mark.cold(reason="calls the plugin's code itself, to refuse what it asks of the kernel")

WITH_POLICIES = {**COMMON, **EVERYTHING, "policyWait": 0, "ipam": IPAM}
CASES = {"L2": COMMON, "everything": {**COMMON, **EVERYTHING, "ipam": IPAM}, "policies": WITH_POLICIES}


def refuse_each(node: Node, bin_dir: Path, conf: dict, bridge: str) -> list[dict]:
    """Run ADDs on the node, each with another request refused; return what each left."""
    node.run(["sh", "-c", "nft add table inet warm; nft delete table inet warm"])
    script = ROOT / "tests" / "netns" / "fail_every_step.py"
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    done = node.run([sys.executable, script, bin_dir, "/run/netns/pod", bridge], stdin=json.dumps(conf), env=env)
    return json.loads(done.stdout)


@pytest.mark.parametrize("bridge", ["fresh", "used"])
@pytest.mark.parametrize("case", CASES)
def test_add_undoes_itself_whichever_request_is_refused(node: Node, bin_dir: Path, case: str, bridge: str) -> None:
    """For each request of an ADD to kernel or store: if it is refused and the ADD fails, the node is as before.

    With an existing bridge and without.
    """
    node.pod("pod")
    story = refuse_each(node, bin_dir, CASES[case], bridge)
    failed = [entry for entry in story if entry["status"]]
    assert len(failed) >= (3 if case == "L2" else 12), f"too few requests were refused to prove anything: {story}"
    assert story[-1] == {"refused": "", "status": 0, "left": {}}, "the ADD that is not disturbed succeeds"
    assert [entry for entry in failed if entry["left"]] == []


BRIDGES = {
    "fresh": "fresh",
    "an administrator's": "ip link add b0 type bridge",
    "with another gateway": "ip link add b0 type bridge; ip link set b0 up; ip addr add 10.9.0.1/24 dev b0",
}


@pytest.mark.parametrize("bridge", BRIDGES)
def test_a_failing_add_keeps_what_a_concurrently_added_pod_uses(node: Node, bin_dir: Path, bridge: str) -> None:
    """Another pod joins the bridge at any step of an ADD that fails, or of its undo: its ADD and CHECK succeed.

    The undo must keep what the other pod uses: the bridge, promiscuous mode, the gateway's addresses.
    """
    for name in ("pod", "other"):
        node.pod(name)
    conf = {**COMMON, **EVERYTHING, "ipam": IPAM, "forceAddress": True}
    argv = [sys.executable, "-m", "tests.netns.join_every_step", "steps", bin_dir]
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    argv += ["/run/netns/pod", "/run/netns/other", BRIDGES[bridge]]
    story = json.loads(node.run(argv, stdin=json.dumps(conf), env=env).stdout)
    failed = [entry for entry in story if entry["status"]]
    assert len(failed) >= 12, f"too few requests were refused to prove anything: {story}"
    assert [entry for entry in story if entry.get("other") or entry.get("check")] == []
    in_undo = [entry for entry in story if entry["at"] == "the last step" and "other" in entry]
    assert len(in_undo) >= 10, f"the other joined too rarely during an undo to prove anything: {story}"


def test_a_failed_add_restores_an_administrators_bridge(node: Node, bin_dir: Path) -> None:
    """A bridge that is down and has an address is restored, whichever request is refused."""
    node.pod("pod")
    made = "ip link add b0 address 02:00:00:00:00:b0 type bridge; ip addr add 10.7.0.9/24 dev b0"
    conf = {**CASES["everything"], "forceAddress": True}
    story = refuse_each(node, bin_dir, conf, f"ip link del b0; {made}")
    failed = [entry for entry in story if entry["status"]]
    assert len(failed) >= 12, f"too few requests were refused to prove anything: {story}"
    assert [entry for entry in failed if entry["left"]] == []


def test_a_failed_add_keeps_an_existing_bridge(node: Node, bin_dir: Path) -> None:
    """The undo of a failed ADD deletes the bridge only if this ADD created it."""
    node.pod("pod")
    node.run(["ip", "link", "add", "b0", "type", "bridge"])
    refuse_each(node, bin_dir, COMMON, "used")
    assert "b0" in node.links()
