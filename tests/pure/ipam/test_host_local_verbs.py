"""The other verbs of host-local as a runtime sees them, and what calls import."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.pure.ipam.plugin_node import V4, V6
from tests.pure.ipam.support import leases_in, owner, reference_add, text_of

COSTLY = {
    "argparse",
    "asyncio",
    "hashlib",
    "ipaddress",
    "logging",
    "pathlib",
    "socket",
    "subprocess",
    "tempfile",
    "typing",
}


def test_delete(node):
    """DEL releases all addresses of the attachment and no others; it may be repeated."""
    config = node.config({"ranges": [[V4], [V6]]})
    node.addresses(config)
    node.addresses(config, CNI_IFNAME="eth1")
    for _ in range(2):
        assert node.succeed("DEL", config) is None
        assert leases_in(node.folder) == dict.fromkeys(["10.0.0.3", "fd00:1::3"], b"cid\r\neth1")


def test_delete_makes_nothing(node):
    """DEL on a node that never had an ADD succeeds, and makes no folder."""
    node.succeed("DEL")
    assert not node.data_dir.exists()


@pytest.mark.parametrize(
    "ipam",
    [
        {},
        {"ranges": []},
        {"ranges": "x"},
        {"subnet": "zz"},
        {"subnet": "10.77.0.0/16"},
        {"cooldown": "x"},
        {"cooldown": -1},
        {"routes": 7},
        {"resolvConf": "/no/such"},
    ],
)
def test_delete_asks_nothing_of_the_configuration(node, ipam):
    """DEL releases the address whatever the ranges, other keys and CNI_ARGS are."""
    node.addresses()
    status, document, _ = node.call("DEL", node.config(ipam, runtimeConfig={"ips": ["zz"]}), CNI_ARGS="junk;IP=zz")
    assert (status, document) == (0, None)
    assert leases_in(node.folder) == {}


@pytest.mark.parametrize("ipam", [None, {"dataDir": ["x"]}, {"dataDir": "/a\0b"}, {"cooldown": -1}])
def test_delete_without_a_data_dir(node, monkeypatch, ipam):
    """If dataDir is missing or wrong, DEL releases in the default one."""
    monkeypatch.setattr("ipam.host_local.DATA_DIR", str(node.data_dir))
    node.addresses()
    assert node.call("DEL", {**node.config(), "ipam": ipam})[0] == 0
    assert leases_in(node.folder) == {}


def test_check(node):
    """CHECK succeeds if all addresses of prevResult in our ranges are leased to the attachment."""
    config = node.config({"ranges": [[V4], [V6]]})
    result = node.succeed("ADD", config)
    result["ips"].append({"address": "192.0.2.7/24"})
    assert node.succeed("CHECK", {**config, "prevResult": result}) is None


def test_check_without_a_result(node):
    """Without prevResult, CHECK requires any lease of the attachment."""
    assert node.fail("CHECK")[1] == "host-local: Failed to find address added by container cid"
    assert not node.data_dir.exists()
    node.addresses()
    assert node.succeed("CHECK") is None


def test_check_finds_what_is_missing(node):
    """CHECK fails and names the address that is not leased, or leased to another attachment."""
    config = node.config({"ranges": [[V4], [V6]]})
    config["prevResult"] = node.succeed("ADD", config)
    (node.folder / "10.0.0.2").unlink()
    reference_add(node.folder, owner("other"), "10.0.0.2")
    code, message, details = node.fail("CHECK", config)
    assert (code, message) == (999, "host-local: Failed to find address added by container cid")
    assert details == "10.0.0.2: not leased to cid eth0"


def test_check_wants_a_right_configuration(node):
    """CHECK refuses configurations that ADD refuses."""
    assert node.fail("CHECK", node.config({"subnet": "10.0.0.0/33"}))[0] == 7


def collect(node, *valid: str, **more):
    attachments = [{"containerID": each, "ifname": "eth0"} for each in valid]
    return node.call("GC", {**node.config(**more), "cni.dev/valid-attachments": attachments})


def test_collection(node):
    """GC releases all leases but those of valid attachments, of both plugins, with or without an owner."""
    for each in ("a", "b", "c"):
        node.addresses(container_id=each)
    reference_add(node.folder, owner("d"), "10.0.0.5")
    (node.folder / "10.0.0.6").touch()
    assert collect(node, "b", "unknown") == (0, None, "")
    assert leases_in(node.folder) == {"10.0.0.3": text_of(owner("b"))}
    assert collect(node) == (0, None, "")
    assert leases_in(node.folder) == {}


def test_collection_asks_nothing_of_the_ranges(node):
    """GC releases even if the ranges are wrong."""
    node.addresses()
    assert collect(node, ipam={"subnet": "zz"})[0] == 0
    assert leases_in(node.folder) == {}


def test_collection_of_nothing(node):
    """GC on a node that never had an ADD succeeds, and makes no folder."""
    assert collect(node) == (0, None, "")
    assert not node.data_dir.exists()


def test_collection_in_the_dark(node):
    """Without a list of valid attachments, GC releases nothing."""
    node.addresses()
    node.call("GC")
    assert len(leases_in(node.folder)) == 1


def test_status(node):
    """STATUS succeeds if an address is free; it makes no folder."""
    assert node.succeed("STATUS") is None
    assert not node.data_dir.exists()


def test_status_of_an_exhausted_range(node):
    """With `statusWhenFull`, STATUS is error 50 while any range set is full."""
    full = {"ranges": [[V6], [{"subnet": "10.0.0.0/30"}]]}
    config = node.config({**full, "statusWhenFull": "unavailable"})
    node.addresses(config)
    code, message, details = node.fail("STATUS", config)
    assert (code, message) == (50, "no IP addresses available in range set: 10.0.0.1-10.0.0.2")
    assert details == "range set 1 of net"
    node.succeed("DEL", config)
    assert node.succeed("STATUS", config) is None


@pytest.mark.parametrize("said", [{}, {"statusWhenFull": "available"}, {"statusWhenFull": None}])
def test_a_full_range_leaves_the_node_ready(node, said):
    """By default STATUS succeeds if every address is leased, and names the full range on stderr."""
    config = node.config({"subnet": "10.0.0.0/30", **said})
    node.addresses(config)
    status, document, stderr = node.call("STATUS", config)
    assert (status, document) == (0, None)
    assert "no IP addresses available in range set: 10.0.0.1-10.0.0.2: range set 0 of net" in stderr


def test_status_when_full_is_one_of_two(node):
    """Another value is refused by an error that names it."""
    config = node.config({"subnet": "10.0.0.0/30", "statusWhenFull": "maybe"})
    code, message, _ = node.fail("STATUS", config)
    assert (code, message) == (7, '"ipam.statusWhenFull": expected one of "available", "unavailable", got "maybe"')


def test_status_counts_what_can_be_reclaimed(node):
    """STATUS counts a lease without an owner as free."""
    config = node.config({"subnet": "10.0.0.0/30"})
    node.folder.mkdir(parents=True)
    (node.folder / "10.0.0.2").touch()
    assert node.succeed("STATUS", config) is None
    assert node.addresses(config) == ["10.0.0.2/30"]


def test_status_wants_a_right_configuration(node):
    """STATUS refuses configurations that ADD refuses."""
    assert node.fail("STATUS", node.config({"subnet": "10.0.0.0/33"}))[0] == 7


def test_cooldown(node):
    """With a cooldown, a released address is not assigned again; the error says to try again later."""
    config = node.config({"subnet": "10.0.0.0/30", "cooldown": 3600, "statusWhenFull": "unavailable"})
    node.addresses(config)
    node.succeed("DEL", config)
    code, message, _ = node.fail("ADD", config)
    assert (code, "still cooling down" in message) == (11, True)
    assert node.fail("STATUS", config)[0] == 50
    assert node.addresses(node.config({"subnet": "10.0.0.0/30"})) == ["10.0.0.2/30"]


def modules_after(code: str, **run) -> set[str]:
    """The modules in a new interpreter after it has run the code."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, check=True, **run)
    return set(done.stdout.decode().split())


def test_imports_of_a_delete(node):
    """A DEL imports no module that only ADD needs, and none that slows down a cold start."""
    node.addresses()
    code = """
import io
from ipam.host_local import PLUGIN
from spec.plugin import serve
environ = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "cid", "CNI_IFNAME": "eth0", "CNI_PATH": "/nowhere"}
assert serve(PLUGIN, environ=environ, stdin=sys.stdin.buffer, stdout=io.BytesIO(), stderr=sys.stderr) == 0
"""
    found = modules_after(code, input=json.dumps(node.config()).encode())
    assert leases_in(node.folder) == {}
    unwanted = {"spec.addresses", "ipam.allocator", "ipam.ranges", "ipam.config", "ipam.cooldown", *COSTLY}
    assert found & unwanted == set()


def test_imports_of_an_add():
    """The modules of an ADD import none that slows down a cold start."""
    modules = "ipam.host_local, ipam.allocator, ipam.config, ipam.cooldown"
    assert modules_after(f"import {modules}") & COSTLY == set()
