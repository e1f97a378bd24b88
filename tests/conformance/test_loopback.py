"""`loopback` sets `lo` up in the pod; also the form of results in old versions."""

import pytest

from tests.conformance.support import WITH_CHECK, Refused
from tests.netns.cni import CNI, VERSIONS, CNIFailure, with_prev
from tests.netns.node import Node, Pod

V4, V6 = "127.0.0.1/8", "::1/128"


def network(version: str = "1.1.0") -> dict:
    """The configuration that every runtime uses."""
    return {"cniVersion": version, "name": "loopback", "type": "loopback"}


def is_up(pod: Pod) -> bool:
    """Whether lo is administratively up."""
    return "UP" in pod.links()["lo"]["flags"]


@pytest.mark.parametrize("ifname", ["lo", "eth0"])
def test_add_brings_lo_up(cni: CNI, pod: Pod, ifname: str) -> None:
    """After ADD the pod reaches its own loopback addresses; CNI_IFNAME is ignored."""
    cni.add(network(), pod, ifname=ifname)
    assert is_up(pod)
    assert pod.reaches("127.0.0.1", timeout=1)
    assert pod.reaches("::1", timeout=1)


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0"])
def test_current_result(cni: CNI, pod: Pod, version: str) -> None:
    """The result has lo in the pod's sandbox, with its addresses."""
    result = cni.add(network(version), pod)
    assert result["cniVersion"] == version
    assert result["interfaces"] == [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": pod.path}]
    assert result["ips"] == [{"address": V4, "interface": 0}, {"address": V6, "interface": 0}]


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0"])
def test_result_before_1_0_says_the_ip_version(cni: CNI, pod: Pod, version: str) -> None:
    """From 0.3.0 to 0.4.0 every address needs a `version` (spec 0.4.0, "Result")."""
    result = cni.add(network(version), pod)
    assert result["interfaces"] == [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": pod.path}]
    assert [(ip["version"], ip["address"], ip["interface"]) for ip in result["ips"]] == [("4", V4, 0), ("6", V6, 0)]


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_result_before_0_3_is_by_family(cni: CNI, pod: Pod, version: str) -> None:
    """Results of 0.1.0 and 0.2.0 have ip4 and ip6, and no interfaces."""
    result = cni.add(network(version), pod)
    assert result["ip4"]["ip"] == V4
    assert result["ip6"]["ip"] == V6
    assert not {"ips", "interfaces"} & result.keys()


@pytest.mark.parametrize("version", VERSIONS)
def test_result_of_the_plugin_before_is_passed_on(cni: CNI, pod: Pod, version: str) -> None:
    """As a chained plugin it returns prevResult (MUST, section 2)."""
    families = {"ip4": {"ip": "10.1.2.3/24"}}
    listed = {"ips": [{"version": "4", "address": "10.1.2.3/24"}]}
    previous = {"cniVersion": version, **(families if version < "0.3.0" else listed)}
    result = cni.call("ADD", network(version) | {"prevResult": previous}, pod)
    found = result["ip4"]["ip"] if version < "0.3.0" else result["ips"][0]["address"]
    assert (found, len(result.get("ips", [1]))) == ("10.1.2.3/24", 1)
    assert is_up(pod)


def test_add_twice(cni: CNI, pod: Pod) -> None:
    """A second ADD succeeds with the same result."""
    assert cni.add(network(), pod) == cni.add(network(), pod)


@pytest.mark.parametrize("netns", ["/run/netns/nosuch", "/run/plain"])
def test_add_without_a_namespace_is_an_error(cni: CNI, node: Node, pod: Pod, netns: str, refused: Refused) -> None:
    """ADD fails if CNI_NETNS does not exist or is not a namespace."""
    node.path("/run/plain").write_text("")
    with refused():
        cni.add(network(), pod, netns=netns)


def test_foreign_address_is_refused(cni: CNI, pod: Pod) -> None:
    """An address on lo that is not a loopback address is an error, and lo is left unchanged."""
    pod.run(["ip", "addr", "add", "10.0.0.1/32", "dev", "lo"])
    with pytest.raises(CNIFailure, match=r"10\.0\.0\.1"):
        cni.add(network(), pod)
    assert not is_up(pod)


def test_del_takes_lo_down(cni: CNI, pod: Pod) -> None:
    """DEL sets lo down, and can be repeated."""
    result = cni.add(network(), pod)
    for _ in range(2):
        cni.delete(network(), pod, result)
        assert not is_up(pod)


@pytest.mark.parametrize("netns", ["/run/netns/nosuch", "/run/plain", None])
def test_del_without_a_namespace(cni: CNI, node: Node, pod: Pod, netns: str | None) -> None:
    """DEL succeeds if the namespace does not exist, is not a namespace or is not given."""
    node.path("/run/plain").write_text("")
    cni.delete(network(), pod, netns=netns)


@pytest.mark.parametrize("version", WITH_CHECK)
def test_check(cni: CNI, pod: Pod, version: str, refused: Refused) -> None:
    """CHECK passes after ADD and fails when lo is down."""
    result = cni.add(network(version), pod)
    cni.check(network(version), pod, result)
    pod.run(["ip", "link", "set", "lo", "down"])
    with refused():
        cni.check(network(version), pod, result)


def test_check_misses_an_address(cni: CNI, pod: Pod, refused: Refused) -> None:
    """CHECK fails if lo lacks an address of the result."""
    result = cni.add(network(), pod)
    pod.run(["ip", "addr", "del", V6, "dev", "lo"])
    with refused():
        cni.check(network(), pod, result)


def test_gc_and_status_are_answered(cni: CNI, pod: Pod) -> None:
    """GC and STATUS succeed; GC does not change a pod's loopback."""
    cni.add(network(), pod)
    cni.status(network())
    cni.gc(network())
    assert is_up(pod)


def test_unknown_arguments(cni: CNI, pod: Pod) -> None:
    """Conventional arguments for other plugins of the chain are accepted."""
    cni.add(network(), pod, args="MAC=02:00:5e:10:00:01;IP=10.0.0.1/24")
    cni.delete(with_prev(network(), None), pod, args="MAC=02:00:5e:10:00:01")


@pytest.mark.cold(reason="watches what the plugin's own process does")
def test_it_runs_nothing(cni: CNI, node: Node, pod: Pod) -> None:
    """The plugin executes no other program, since the host may not have it."""
    strace = ["strace", "-f", "-qq", "-e", "trace=execve", "-o", "/run/trace", cni.folder / "loopback"]
    node.run(strace, env=cni.environ("ADD", pod), stdin='{"cniVersion": "1.1.0", "name": "n", "type": "loopback"}')
    lines = [line for line in node.path("/run/trace").read_text().splitlines() if line.endswith("= 0")]
    assert lines
    assert all(str(cni.folder) in line for line in lines)
