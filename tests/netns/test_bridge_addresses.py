"""The addresses and routes in an ADD's result are in force when it returns, and CHECK confirms them."""

from pathlib import Path

import pytest

from tests.conformance.support import DUAL, V4, V6, StandIn, host_local, layer2, network
from tests.netns.cni import CNI, CNIFailure
from tests.netns.node import Node

PODS = 40


def test_addresses_are_usable_when_add_returns(cni: CNI, node: Node) -> None:
    """A program in the pod can bind to its IPv4 and IPv6 address as soon as the ADD returns."""
    for number in range(PODS):
        pod = node.pod(f"pod{number}")
        for ip in cni.add(network(DUAL), pod)["ips"]:
            address = ip["address"].partition("/")[0]
            with pod.socket(address, "tcp") as listener:
                listener.bind((address, 80))  # "Cannot assign requested address" during duplicate address detection


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
def test_routes_are_normalised_as_in_the_kernel(cni: CNI, node: Node, subnet: dict, given: dict, masked: str) -> None:
    """ADD accepts routes with host bits in the destination or an unspecified next hop, and CHECK finds them."""
    pod, conf = node.pod("pod1"), network(host_local(subnet, routes=[given]))
    result = cni.add(conf, pod)
    assert result["routes"][0] == given | {"dst": masked}
    cni.check(conf, pod, result)
    text = {"0.0.0.0/0": "default", "::/0": "default6"}.get(masked, masked)
    assert (given.get("gw") in ("0.0.0.0", "::")) is ("gateway" not in pod.routes()[text])


@pytest.fixture
def stand_in(tmp_path: Path) -> StandIn:
    """A third-party IPAM plugin."""
    return StandIn(tmp_path)


def test_results_of_third_party_ipam_are_normalised(node: Node, bin_dir: Path, stand_in: StandIn) -> None:
    """Host bits in a third-party IPAM plugin's routes are masked; unspecified gateways count as absent."""
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
    """`isGateway` takes the subnet's first address: error 7 if that is the pod's, or the subnet has none."""
    conf = network({"type": "static", "addresses": [{"address": address}]})
    with pytest.raises(CNIFailure, match=f"gateway .* is {why}") as caught:
        cni.add(conf, node.pod("pod1"))
    assert caught.value.code == 7
    assert "br0" not in node.links()


@pytest.mark.parametrize("subnet", ["10.1.2.0/31", "fd00:1::/127"])
def test_two_pods_of_a_point_to_point_subnet(cni: CNI, node: Node, subnet: str) -> None:
    """Without a gateway two pods get the two addresses, and reach each other."""
    pods = [node.pod("pod1"), node.pod("pod2")]
    conf = layer2(ipam=host_local({"subnet": subnet}))
    results = [cni.add(conf, pod) for pod in pods]
    assert ["gateway" in result["ips"][0] for result in results] == [False, False]
    assert pods[0].reaches(results[1]["ips"][0]["address"].partition("/")[0])
    for pod, result in zip(pods, results, strict=True):
        cni.check(conf, pod, result)
