"""Too few descriptors or too little memory: error 11 (try again later), and a DEL that succeeds has done its work."""

import json
from collections.abc import Iterator, Mapping

import pytest

from tests.conformance.support import DUAL, leases, network, on_bridge
from tests.netns.cni import CNI, one_document, with_prev
from tests.netns.node import Node, Pod

pytestmark = pytest.mark.cold(reason="limits the process that does the call")

CONF = network(DUAL, ipMasq=True, macspoofchk=True)
FEWEST, ENOUGH = 4, 40  # open at a time
SYSCTL = "net.ipv4.conf.eth0.rp_filter"


def until_it_succeeds(cni: CNI, verb: str, conf: Mapping, pod: Pod) -> Iterator[int]:
    """Call with one more descriptor each time until it succeeds; yield the limit after each failure with code 11."""
    for limit in range(FEWEST, ENOUGH):
        argv = ["prlimit", f"--nofile={limit}", cni.folder / conf["type"]]
        done = cni.node.run(argv, env=cni.environ(verb, pod), stdin=json.dumps(conf), check=False)
        if done.returncode == 0:
            return
        error = one_document(done.stdout)
        assert error["code"] == 11, (limit, error)
        yield limit
    pytest.fail(f"no success with {ENOUGH} descriptors")


def test_a_failed_add_leaves_nothing(node: Node, cni: CNI) -> None:
    """Error 11 wherever descriptors run out, and the ADD is undone."""
    pod = node.pod("pod1")
    limits = []
    for limit in until_it_succeeds(cni, "ADD", CONF, pod):
        assert (leases(node), on_bridge(node), set(pod.links())) == ({}, set(), {"lo"}), limit
        limits.append(limit)
    assert len(limits) > 3
    assert len(leases(node)) == 2


def test_a_del_does_not_take_the_namespace_for_deleted(node: Node, cni: CNI) -> None:
    """The host veth of another implementation's pod can be found only through the pod's namespace."""
    pod = node.pod("pod1")
    cni.add(CONF, pod)
    (end,) = on_bridge(node)
    for command in (["alias", ""], ["down"], ["name", "veth1", "group", "0"]):
        node.run(["ip", "link", "set", end, *command])
    limits = list(until_it_succeeds(cni, "DEL", CONF, pod))
    assert limits
    assert (leases(node), on_bridge(node), set(pod.links())) == ({}, set(), {"lo"})


def test_tuning_keeps_the_original_values(node: Node, cni: CNI) -> None:
    """A DEL of `tuning` that cannot read its file or the pod's settings keeps the file for the next DEL."""
    pod = node.pod("pod1")
    result = cni.add(CONF, pod)
    before = pod.run(["sysctl", "-n", SYSCTL]).stdout
    tuning = {"cniVersion": "1.1.0", "name": "net", "type": "tuning", "sysctl": {SYSCTL: "2"}}
    cni.add(with_prev(tuning, result), pod)
    for _ in until_it_succeeds(cni, "DEL", tuning, pod):
        assert pod.run(["sysctl", "-n", SYSCTL]).stdout == "2\n"
    assert pod.run(["sysctl", "-n", SYSCTL]).stdout == before != "2\n"


def test_bandwidth_removes_limits_that_are_no_longer_configured(node: Node, cni: CNI) -> None:
    """A DEL of `bandwidth` without configured limits looks for existing ones, and does not succeed until it has."""
    pod = node.pod("pod1")
    result = cni.add(CONF, pod)
    bandwidth = {"cniVersion": "1.1.0", "name": "net", "type": "bandwidth"}
    cni.add(with_prev({**bandwidth, "egressRate": 1_000_000, "egressBurst": 1_000_000}, result), pod)
    assert "ifb" in node.run(["ip", "-d", "link"]).stdout
    list(until_it_succeeds(cni, "DEL", bandwidth, pod))
    assert "ifb" not in node.run(["ip", "-d", "link"]).stdout


def test_too_little_memory_to_read_the_configuration(node: Node, cni: CNI) -> None:
    """This is error 11 too."""
    argv = ["prlimit", f"--as={4 << 20}", cni.folder / CONF["type"]]
    done = node.run(argv, env=cni.environ("ADD", node.pod("pod1")), stdin=json.dumps(CONF), check=False)
    error = one_document(done.stdout)
    assert (done.returncode, error["code"], error["msg"]) == (1, 11, "error reading from stdin")
