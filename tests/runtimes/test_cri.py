"""Pods by containerd's CRI, the way of the kubelet: their networks, their configuration, and many at once."""

import json

import pytest

from tests.netns.node import NODE_V4, NODE_V6, OUTSIDE_V4, OUTSIDE_V6, Pod, ask, wait_until
from tests.runtimes.cri import GATEWAY_V4, GATEWAY_V6, change, conflist, ipv4, network, running
from tests.runtimes.engines import Containerd
from tests.runtimes.leftovers import leases, leftovers
from tests.runtimes.machine import Machine


def test_pods_reach_each_other_their_gateway_and_outside(way: None, cri: Containerd, outside: Pod) -> None:
    """With both their addresses, which containerd reports; outside sees the node's."""
    with running(cri, "one", "two") as (one, two):
        v4, v6 = cri.addresses("two")
        assert {v4, v6} == {address.partition("/")[0] for address in two.addresses("eth0")}
        assert [ask(one, two, address, 80, "tcp") for address in (v4, v6)] == cri.addresses("one")
        assert one.reaches(GATEWAY_V4)
        assert one.reaches(GATEWAY_V6)
        assert ask(one, outside, OUTSIDE_V4, 80, "tcp") == NODE_V4
        assert ask(one, outside, OUTSIDE_V6, 80, "tcp") == NODE_V6


def test_a_pods_configuration_publishes_its_ports_and_limits_its_traffic(
    way: None, cri: Containerd, machine: Machine, outside: Pod
) -> None:
    """`port_mappings` for both IP versions; the annotations that Kubernetes has for bandwidth."""
    annotations = {"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "20M"}
    with running(cri, "other"):
        pod = cri.start("cri", "served", [(8080, 80), (8081, 81)], annotations)
        v4, v6 = cri.addresses("served")
        assert ask(outside, pod, v4, 80, "tcp", to=(NODE_V4, 8080)) == OUTSIDE_V4
        assert ask(outside, pod, v6, 81, "tcp", to=(NODE_V6, 8081)) == OUTSIDE_V6
        queues = json.loads(machine.run(["tc", "-j", "qdisc", "show"]).stdout)
        rates = [each["options"]["rate"] * 8 for each in queues if each["kind"] == "tbf"]
        assert sorted(rates) == [10_000_000, 20_000_000]


def test_more_pods_than_addresses_one_after_the_other(
    way: None, cri: Containerd, machine: Machine, pytestconfig: pytest.Config
) -> None:
    """Two rounds of many pods at once, in a subnet that has addresses for one: each has its own, and gives it back."""
    count = pytestconfig.getoption("--sandboxes")
    names = [f"pod-{number}" for number in range(count)]
    narrow = network(subnet=f"10.40.0.0/{32 - (count + 2).bit_length()}")
    change(cri, conflist(machine), narrow)
    for _ in range(2):
        with running(cri, *names) as pods:
            used = [address for pod in pods for address in pod.addresses("eth0")]
            assert len(set(used)) == 2 * count
            assert len(leases(machine)) == 2 * count
            assert pods[0].reaches(ipv4(pods[-1]))
        assert wait_until(lambda: not leftovers(machine)), leftovers(machine)


def test_a_stopped_pod_has_given_its_network_back(way: None, cri: Containerd, machine: Machine) -> None:
    """Before it is removed; the kubelet stops a pod more than once."""
    with running(cri, "one"):
        cri.stop("one")
        assert wait_until(lambda: not leftovers(machine)), leftovers(machine)
        cri.stop("one")
