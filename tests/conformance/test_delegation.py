"""The interface plugin and a foreign IPAM plugin: what it is passed, and how its replies are used (spec section 4)."""

import pytest

from tests.conformance.support import GATEWAY_V4, Refused, StandIn, leases, network
from tests.netns.cni import CNI, CNIFailure
from tests.netns.node import Node, Pod

ANSWER = {
    "cniVersion": "1.1.0",
    "ips": [{"address": "10.1.2.30/24", "gateway": "10.1.2.1"}, {"address": "fd00:1::30/64", "gateway": "fd00:1::1"}],
    "routes": [{"dst": "10.9.0.0/16"}, {"dst": "fd09::/16", "gw": "fd00:1::9"}],
    "dns": {"nameservers": ["10.1.2.53"], "search": ["example.org"]},
}
CONF = network({"type": "stand-in", "its": {"own": ["keys", None, 1.5]}}, isDefaultGateway=None, isGateway=True)


def test_ipam_answer_is_put_into_force(with_stand_in: CNI, stand_in: StandIn, pod: Pod) -> None:
    """Addresses, routes and dns of the IPAM plugin's result are set and returned."""
    stand_in.answers(add=ANSWER)
    result = with_stand_in.add(CONF, pod)
    assert pod.addresses("eth0") == {ip["address"] for ip in result["ips"]} == {"10.1.2.30/24", "fd00:1::30/64"}
    assert pod.routes()["10.9.0.0/16"]["gateway"] == GATEWAY_V4
    assert pod.routes()["fd09::/16"]["gateway"] == "fd00:1::9"
    assert {route["dst"] for route in result["routes"]} == {"10.9.0.0/16", "fd09::/16"}
    assert result["dns"] == ANSWER["dns"]


def test_ipam_is_given_configuration_and_variables_unchanged(with_stand_in: CNI, stand_in: StandIn, pod: Pod) -> None:
    """The IPAM plugin gets the whole configuration, including unknown keys, and the same CNI variables."""
    stand_in.answers(add=ANSWER)
    args = "IgnoreUnknown=1;K8S_POD_NAME=a"
    result = with_stand_in.add(CONF, pod, args=args)
    assert stand_in.stdin("ADD") == CONF
    variables = with_stand_in.environ("ADD", pod, args=args)
    assert stand_in.environ("ADD") == {name: value for name, value in variables.items() if name != "PATH"}
    with_stand_in.check(CONF, pod, result, args=args)
    assert stand_in.stdin("CHECK")["prevResult"] == result
    assert stand_in.environ("CHECK")["CNI_COMMAND"] == "CHECK"


def test_every_verb_is_forwarded_once(with_stand_in: CNI, stand_in: StandIn, pod: Pod) -> None:
    """ADD, CHECK and DEL each call the IPAM plugin once with the same verb."""
    stand_in.answers(add=ANSWER)
    result = with_stand_in.add(CONF, pod)
    with_stand_in.check(CONF, pod, result)
    with_stand_in.delete(CONF, pod, result)
    assert stand_in.calls() == ["ADD", "CHECK", "DEL"]


@pytest.mark.parametrize("verb", ["ADD", "CHECK", "DEL"])
def test_error_of_the_ipam_plugin_passes_through(with_stand_in: CNI, stand_in: StandIn, pod: Pod, verb: str) -> None:
    """The IPAM plugin's error is returned with its code, message and details."""
    stand_in.answers(add=ANSWER)
    result = None if verb == "ADD" else with_stand_in.add(CONF, pod)
    error = {"code": 117, "msg": "no more", "details": "ask again in May"}
    stand_in.answers(errors={verb: error})
    with pytest.raises(CNIFailure) as caught:
        with_stand_in.call(verb, CONF if result is None else CONF | {"prevResult": result}, pod)
    assert (caught.value.code, caught.value.msg, caught.value.details) == tuple(error.values())


def test_mute_ipam_plugin_is_quoted(with_stand_in: CNI, stand_in: StandIn, pod: Pod) -> None:
    """If an IPAM plugin dies without an error object, the error quotes its stderr."""
    stand_in.script("echo segmentation violation at noon >&2; exit 2")
    with pytest.raises(CNIFailure) as caught:
        with_stand_in.add(CONF, pod)
    assert "segmentation violation at noon" in caught.value.text


def test_mute_ipam_plugin_has_a_code(with_stand_in: CNI, stand_in: StandIn, pod: Pod) -> None:
    """That error's code is positive: 0 would mean success."""
    stand_in.script("exit 2")
    with pytest.raises(CNIFailure) as caught:
        with_stand_in.add(CONF, pod)
    assert caught.value.code > 0


@pytest.mark.parametrize("output", ["", "hello", "{", "[]"], ids=["nothing", "text", "half", "list"])
def test_ipam_plugin_that_succeeds_without_a_result_is_an_error(
    with_stand_in: CNI, stand_in: StandIn, node: Node, pod: Pod, output: str, refused: Refused
) -> None:
    """Exit status 0 without a result on stdout makes the ADD fail."""
    stand_in.script(f"printf '%s' '{output}'")
    with refused():
        with_stand_in.add(CONF, pod)


def test_failed_add_releases_the_addresses(with_stand_in: CNI, stand_in: StandIn, pod: Pod, refused: Refused) -> None:
    """If the ADD fails after the IPAM plugin's ADD, the IPAM plugin's DEL is called."""
    stand_in.answers(add=ANSWER | {"routes": [{"dst": "10.9.0.0/16", "gw": "10.200.0.1"}]})
    with refused():
        with_stand_in.add(CONF, pod)
    assert stand_in.calls() == ["ADD", "DEL"]


def test_missing_gateway_is_the_first_address(with_stand_in: CNI, stand_in: StandIn, node: Node, pod: Pod) -> None:
    """If the IPAM plugin returns no gateway, the first address of the subnet is used."""
    stand_in.answers(add={"cniVersion": "1.1.0", "ips": [{"address": "10.1.2.30/24"}]})
    result = with_stand_in.add(CONF, pod)
    assert result["ips"][0]["gateway"] == GATEWAY_V4
    assert node.addresses("br0") == {f"{GATEWAY_V4}/24"}


def test_ipam_answer_of_an_older_version_is_understood(with_stand_in: CNI, stand_in: StandIn, pod: Pod) -> None:
    """An IPAM plugin may reply in an older version than the configuration's."""
    stand_in.answers(add={"cniVersion": "0.2.0", "ip4": {"ip": "10.1.2.30/24", "gateway": "10.1.2.1"}})
    assert with_stand_in.add(CONF, pod)["ips"][0]["address"] == "10.1.2.30/24"


def test_ipam_is_found_in_the_first_folder(with_stand_in: CNI, stand_in: StandIn, node: Node, pod: Pod) -> None:
    """CNI_PATH is searched in order: a host-local in an earlier folder is called instead of the suite's."""
    stand_in.answers(add=ANSWER)
    (stand_in.folder / "stand-in").rename(stand_in.folder / "host-local")
    result = with_stand_in.add(network(), pod)
    assert result["ips"][0]["address"] == "10.1.2.30/24"
    assert leases(node) == {}


@pytest.mark.parametrize("name", ["../stand-in", "/bin/true"])
def test_ipam_name_with_a_slash_is_refused(
    with_stand_in: CNI, stand_in: StandIn, pod: Pod, name: str, refused: Refused
) -> None:
    """ipam.type is a file name, not a path: nothing outside CNI_PATH is executed."""
    stand_in.answers(add=ANSWER)
    with refused():
        with_stand_in.add(network({"type": name}), pod)
    assert stand_in.calls() == []
