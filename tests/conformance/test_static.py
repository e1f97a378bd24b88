"""`static`: an IPAM plugin that returns what the configuration contains."""

from dataclasses import replace

import pytest

from tests.conformance.support import WITH_CHECK, Refused, addresses
from tests.netns.cni import CNI, VERSIONS
from tests.netns.node import Node, Pod

V4 = {"address": "10.1.2.9/24", "gateway": "10.1.2.1"}
V6 = {"address": "fd00:1::9/64", "gateway": "fd00:1::1"}


def network(*entries: dict, version: str = "1.1.0", ipam: dict | None = None, **keys: object) -> dict:
    """A bridge whose pod has these addresses; `ipam` are further keys of the ipam section."""
    section = {"type": "static", "addresses": list(entries), **(ipam or {})}
    conf = {"cniVersion": version, "name": "net", "type": "bridge", "bridge": "br0", "isGateway": True}
    return conf | {"ipam": section, **keys}


@pytest.fixture
def static(cni: CNI) -> CNI:
    """The plugin itself, called as an interface plugin calls it: with the whole configuration."""
    return replace(cni, plugin="static")


def test_it_answers_what_is_configured(static: CNI, pod: Pod) -> None:
    """The result has the configured addresses with gateways, routes with attributes, and dns."""
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "gw": "10.1.2.7", "mtu": 1300, "priority": 7}]
    dns = {"nameservers": ["10.1.2.53"], "domain": "a.b", "search": ["c.d"], "options": ["ndots:5"]}
    result = static.add(network(V4, V6, ipam={"routes": routes, "dns": dns}), pod)
    assert result == {"cniVersion": "1.1.0", "ips": [V4, V6], "routes": routes, "dns": dns}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version(static: CNI, pod: Pod, version: str) -> None:
    """One address of each family can be returned in every version."""
    result = static.add(network(V4, V6, version=version), pod)
    assert (result["cniVersion"], addresses(result)) == (version, ["10.1.2.9", "fd00:1::9"])


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_two_addresses_of_a_family_do_not_fit_old_versions(
    static: CNI, pod: Pod, version: str, refused: Refused
) -> None:
    """Before 0.3.0 two addresses of a family are an error, not a silent loss."""
    with refused():
        static.add(network(V4, {"address": "10.7.0.9/16"}, version=version), pod)


def test_no_address_is_an_answer(static: CNI, pod: Pod) -> None:
    """A configuration may have only routes."""
    assert static.add(network(ipam={"routes": [{"dst": "10.9.0.0/16"}]}), pod).get("ips", []) == []


@pytest.mark.parametrize("where", ["runtimeConfig", "args"])
def test_addresses_of_the_runtime_replace_those_configured(static: CNI, pod: Pod, where: str) -> None:
    """The addresses of the ips capability, or of args.cni.ips, replace the configured ones."""
    ips = {"ips": ["10.1.2.77/24", "fd00:1::77/64"]}
    keys = {"runtimeConfig": ips} if where == "runtimeConfig" else {"args": {"cni": ips}}
    assert addresses(static.add(network(V4, **keys), pod)) == ["10.1.2.77", "fd00:1::77"]


def test_the_capability_comes_before_args(static: CNI, pod: Pod) -> None:
    """If both are given, runtimeConfig is used."""
    keys = {"runtimeConfig": {"ips": ["10.1.2.77/24"]}, "args": {"cni": {"ips": ["10.1.2.78/24"]}}}
    assert addresses(static.add(network(V4, **keys), pod)) == ["10.1.2.77"]


def test_cni_args_add_addresses(static: CNI, pod: Pod) -> None:
    """IP of CNI_ARGS is appended to the configured addresses; GATEWAY is for those of its subnet among them."""
    args = "IP=10.5.0.9/24,10.6.0.9/24;GATEWAY=10.6.0.1,10.5.0.1"
    result = static.add(network(V4), pod, args=args)
    added = [{"address": "10.5.0.9/24", "gateway": "10.5.0.1"}, {"address": "10.6.0.9/24", "gateway": "10.6.0.1"}]
    assert result["ips"] == [V4, *added]


@pytest.mark.parametrize(
    "conf",
    [
        network({"address": "10.1.2.9"}),
        network({"address": "none"}),
        network({}),
        network(V4 | {"gateway": "none"}),
        network(V4 | {"gateway": "fd00:1::1"}),
        network(V6 | {"gateway": "10.1.2.1"}),
        network(V4, ipam={"routes": [{"dst": "nowhere"}]}),
        network(V4, runtimeConfig={"ips": ["10.1.2.77"]}),
        network(V4, args={"cni": {"ips": ["10.1.2.77"]}}),
        {"cniVersion": "1.1.0", "name": "net", "type": "bridge"},
    ],
    ids=[
        "no prefix",
        "no address",
        "empty",
        "no gateway",
        "gateway of IPv6",
        "gateway of IPv4",
        "no route",
        "capability without prefix",
        "args without prefix",
        "no ipam",
    ],
)
def test_impossible_configuration_is_refused(static: CNI, pod: Pod, conf: dict, refused: Refused) -> None:
    """A configuration that cannot be returned as a result is an error."""
    with refused():
        static.add(conf, pod)


@pytest.mark.parametrize("args", ["IP=10.1.2.9", "IP=none", "GATEWAY=none", "K8S_POD_NAME=a"])
def test_impossible_arguments_are_refused(static: CNI, pod: Pod, args: str, refused: Refused) -> None:
    """Invalid CNI_ARGS are an error."""
    with refused():
        static.add(network(V4), pod, args=args)


@pytest.mark.parametrize(
    "conf", [network(V4), network({"address": "none"}), {"cniVersion": "1.1.0", "name": "net", "type": "b"}]
)
def test_del_always_succeeds(static: CNI, pod: Pod, conf: dict) -> None:
    """There is nothing to release: DEL succeeds with any configuration, and repeatedly."""
    for _ in range(2):
        static.delete(conf, pod, args="x;IP=none")


@pytest.mark.parametrize("version", WITH_CHECK)
def test_check_passes_after_add(static: CNI, pod: Pod, version: str) -> None:
    """CHECK passes if the result is as configured; further addresses in it may come from other plugins."""
    conf = network(V4, V6, version=version)
    result = static.add(conf, pod)
    static.check(conf, pod, result)
    result["ips"].append(result["ips"][0] | {"address": "10.8.0.9/24"})
    static.check(conf, pod, result)


@pytest.mark.parametrize("wrong", ["absent", "other gateway", "other prefix"])
def test_check_fails_when_an_address_is(static: CNI, pod: Pod, wrong: str, refused: Refused) -> None:
    """CHECK fails if a configured address is missing from the result or differs."""
    conf = network(V4, V6)
    result = static.add(conf, pod)
    changes = {"absent": None, "other gateway": {"gateway": "10.1.2.254"}, "other prefix": {"address": "10.1.2.9/25"}}
    change = changes[wrong]
    result["ips"] = [V6] if change is None else [V4 | change, V6]
    with refused():
        static.check(conf, pod, result)


def test_check_needs_the_result(static: CNI, pod: Pod, refused: Refused) -> None:
    """A CHECK without prevResult is an error."""
    with refused():
        static.check(network(V4), pod, None)


def test_a_gateway_that_the_caller_filled_in_is_no_difference(cni: CNI, pod: Pod) -> None:
    """An address without a gateway gets the bridge's, and CHECK accepts that result."""
    conf = network({"address": "10.1.2.9/24"})
    result = cni.add(conf, pod)
    assert result["ips"][0]["gateway"] == "10.1.2.1"
    cni.check(conf, pod, result)


def test_gc_and_status(static: CNI, refused: Refused) -> None:
    """GC has nothing to collect; STATUS succeeds only with a valid configuration."""
    static.gc(network(V4))
    static.status(network(V4))
    with refused():
        static.status(network({"address": "none"}))


def test_pod_has_the_addresses(cni: CNI, node: Node, pod: Pod) -> None:
    """With `bridge`: the pod has what is configured, and DEL leaves nothing behind."""
    conf = network(V4, V6, ipam={"routes": [{"dst": "0.0.0.0/0"}]})
    result = cni.add(conf, pod)
    assert pod.addresses("eth0") == {V4["address"], V6["address"]}
    assert pod.routes()["default"]["gateway"] == "10.1.2.1"
    cni.check(conf, pod, result)
    cni.delete(conf, pod, result)
    assert set(pod.links()) == {"lo"}
