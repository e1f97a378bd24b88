"""What an ADD answers is in force when it answers, and CHECK agrees."""

from pathlib import Path

import pytest

from tests.conformance.support import DUAL, V4, V6, StandIn, host_local, layer2, network
from tests.netns.cni import CNI, CNIFailure
from tests.netns.node import Node

PODS = 40


def test_addresses_can_be_used_at_once(cni: CNI, node: Node) -> None:
    """A program in the pod can listen at each address in the very moment that the ADD is over, of either IP version."""
    for number in range(PODS):
        pod = node.pod(f"pod{number}")
        for ip in cni.add(network(DUAL), pod)["ips"]:
            address = ip["address"].partition("/")[0]
            with pod.socket(address, "tcp") as listener:
                listener.bind((address, 80))  # "Cannot assign requested address" while the kernel thinks about it


@pytest.mark.parametrize(
    ("subnet", "given", "masked"),
    [
        (V6, {"dst": "fd00:2::1/64"}, "fd00:2::/64"),
        (V6, {"dst": "1100:200::1/24"}, "1100:200::/24"),
        (V4, {"dst": "10.1.2.3/0"}, "0.0.0.0/0"),
        (V4, {"dst": "10.9.1.2/16", "gw": "10.1.2.9"}, "10.9.0.0/16"),
        (V4, {"dst": "10.9.0.0/16", "gw": "0.0.0.0"}, "10.9.0.0/16"),
        (V6, {"dst": "fd09::/16", "gw": "::"}, "fd09::/16"),
    ],
)
def test_routes_are_as_the_kernel_has_them(cni: CNI, node: Node, subnet: dict, given: dict, masked: str) -> None:
    """Bits of the host in a destination, or an unspecified next hop: ADD sets the route, and CHECK finds it."""
    pod, conf = node.pod("pod1"), network(host_local(subnet, routes=[given]))
    result = cni.add(conf, pod)
    assert result["routes"][0] == given | {"dst": masked}
    cni.check(conf, pod, result)
    text = {"0.0.0.0/0": "default", "::/0": "default6"}.get(masked, masked)
    assert (given.get("gw") in ("0.0.0.0", "::")) is ("gateway" not in pod.routes()[text])


@pytest.fixture
def stand_in(tmp_path: Path) -> StandIn:
    """An IPAM plugin of somebody else's."""
    return StandIn(tmp_path)


def test_results_of_others_are_made_the_kernels(node: Node, bin_dir: Path, stand_in: StandIn) -> None:
    """Another IPAM plugin's routes with bits of the host, and an unspecified gateway, which is none."""
    cni = CNI(node, bin_dir, more=(stand_in.folder,))
    ips = [{"address": "10.1.2.5/24", "gateway": "0.0.0.0"}, {"address": "fd00:1::5/64", "gateway": "::"}]
    routes = [{"dst": "10.9.1.2/16"}, {"dst": "fd00:2::1/64"}, {"dst": "10.1.2.3/0"}]
    stand_in.answers(add={"cniVersion": "1.1.0", "ips": ips, "routes": routes})
    pod, conf = node.pod("pod1"), network({"type": "stand-in"})
    result = cni.add(conf, pod)
    assert [ip["gateway"] for ip in result["ips"]] == ["10.1.2.1", "fd00:1::1"]
    destinations = [route["dst"] for route in result["routes"]]
    assert destinations == ["10.9.0.0/16", "fd00:2::/64", "0.0.0.0/0", "::/0"]
    cni.check(conf, pod, result)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("10.1.2.1/24", "the pod's own address"),
        ("fd00:1::1/64", "the pod's own address"),
        ("10.1.2.3/32", "not in the pod's subnet 10.1.2.3/32"),
        ("10.1.2.2/31", "not in the pod's subnet 10.1.2.2/31"),
        ("fd00:1::5/128", "not in the pod's subnet fd00:1::5/128"),
    ],
)
def test_a_gateway_needs_an_address_of_its_own(cni: CNI, node: Node, address: str, why: str) -> None:
    """`isGateway` takes the first address of the subnet: error 7 where that is the pod's, or there is none."""
    conf = network({"type": "static", "addresses": [{"address": address}]})
    with pytest.raises(CNIFailure, match=f"gateway .* is {why}") as caught:
        cni.add(conf, node.pod("pod1"))
    assert caught.value.code == 7
    assert "br0" not in node.links()


@pytest.mark.parametrize("subnet", ["10.1.2.0/31", "fd00:1::/127"])
def test_two_pods_of_a_point_to_point_subnet(cni: CNI, node: Node, subnet: str) -> None:
    """Without a gateway both addresses are pods', and they reach each other."""
    pods = [node.pod("pod1"), node.pod("pod2")]
    conf = layer2(ipam=host_local({"subnet": subnet}))
    results = [cni.add(conf, pod) for pod in pods]
    assert ["gateway" in result["ips"][0] for result in results] == [False, False]
    assert pods[0].reaches(results[1]["ips"][0]["address"].partition("/")[0])
    for pod, result in zip(pods, results, strict=True):
        cni.check(conf, pod, result)
