"""`tuning`: a chained plugin that changes a pod's link and sysctls, and restores them."""

import json
from collections.abc import Callable

import pytest

from tests.conformance.support import WITH_CHECK, Refused
from tests.netns.cni import CNI, VERSIONS, CNIFailure
from tests.netns.node import Node, Pod

MAC = "02:00:5e:10:00:01"
ORIGINAL = "02:00:5e:10:00:99"
BACKUPS = "/run/cni/tuning"


def previous(pod: Pod, version: str = "1.1.0") -> dict:
    """The previous plugin's result: the pod's eth0, and a link of the node with the same name."""
    if version < "0.3.0":
        return {"cniVersion": version, "ip4": {"ip": "10.1.2.9/24"}}
    own = {"name": "eth0", "mac": ORIGINAL, "sandbox": pod.path}
    return {"cniVersion": version, "interfaces": [{"name": "eth0", "mac": "02:00:5e:10:00:98"}, own]}


def network(pod: Pod, version: str = "1.1.0", **keys: object) -> dict:
    """A configuration with these keys, after a plugin that created eth0."""
    return {"cniVersion": version, "name": "net", "type": "tuning", "prevResult": previous(pod, version), **keys}


@pytest.fixture
def pod(pod: Pod) -> Pod:
    """A pod with a link eth0 of known MAC, MTU 1500 and a queue of 1000."""
    link = [
        "ip",
        "link",
        "add",
        "eth0",
        "address",
        ORIGINAL,
        "txqueuelen",
        "1000",
        "type",
        "veth",
        "peer",
        "name",
        "far",
    ]
    pod.run(link)
    pod.run(["ip", "link", "set", "eth0", "up"])
    return pod


def link_of(pod: Pod) -> dict:
    """The attributes of eth0 that the plugin can change."""
    link = pod.links()["eth0"]
    flags = {"promisc": "PROMISC" in link["flags"], "allmulti": "ALLMULTI" in link["flags"]}
    return {"mac": link["address"], "mtu": link["mtu"], "txQLen": link["txqlen"], **flags}


UNTOUCHED = {"mac": ORIGINAL, "mtu": 1500, "txQLen": 1000, "promisc": False, "allmulti": False}
TUNED = {"mac": MAC, "mtu": 1400, "txQLen": 17, "promisc": True, "allmulti": True}
SYSCTLS = {"net.ipv4.conf.IFNAME.arp_filter": "1", "net.core.somaxconn": "77"}
ARP_FILTER, SOMAXCONN = "ipv4/conf/eth0/arp_filter", "core/somaxconn"


@pytest.mark.parametrize("version", VERSIONS)
def test_everything_is_set(cni: CNI, pod: Pod, version: str) -> None:
    """In every version, every attribute and sysctl is in force after ADD."""
    result = cni.add(network(pod, version, sysctl=SYSCTLS, **TUNED), pod)
    assert result["cniVersion"] == version
    assert link_of(pod) == TUNED
    assert (pod.sysctl(ARP_FILTER), pod.sysctl(SOMAXCONN)) == ("1", "77")


@pytest.mark.parametrize("key", TUNED)
def test_each_alone(cni: CNI, pod: Pod, key: str) -> None:
    """An attribute is set without changing the others, from args.cni or the configuration; DEL restores it."""
    for keys in ({key: TUNED[key]}, {"args": {"cni": {key: TUNED[key]}}}):
        cni.add(network(pod, **keys), pod)
        assert link_of(pod) == UNTOUCHED | {key: TUNED[key]}
        cni.delete(network(pod, **keys), pod, previous(pod))
        assert link_of(pod) == UNTOUCHED


def test_result_is_passed_on(cni: CNI, pod: Pod) -> None:
    """The result is all of prevResult, with the new MAC of the pod's interface."""
    conf = network(pod, mac=MAC)
    conf["prevResult"] |= {
        "ips": [{"address": "10.1.2.9/24", "interface": 1}],
        "routes": [{"dst": "0.0.0.0/0", "mtu": 1300}],
        "dns": {"domain": "a.b"},
    }
    result = cni.add(conf, pod)
    assert result["interfaces"][1] == {"name": "eth0", "mac": MAC, "sandbox": pod.path}
    assert {key: result[key] for key in ("ips", "routes", "dns")} == {
        key: conf["prevResult"][key] for key in ("ips", "routes", "dns")
    }


def test_link_of_the_node_keeps_its_mac_in_the_result(cni: CNI, pod: Pod) -> None:
    """An entry with the same name but without a sandbox is another link."""
    assert cni.add(network(pod, mac=MAC), pod)["interfaces"][0]["mac"] == "02:00:5e:10:00:98"


def test_add_without_a_previous_result_is_an_error(cni: CNI, pod: Pod, refused: Refused) -> None:
    """The plugin cannot be the first of a chain."""
    with refused():
        cni.add(network(pod, mtu=1400, prevResult=None), pod)
    assert link_of(pod) == UNTOUCHED


@pytest.mark.parametrize("source", ["args", "runtimeConfig", "CNI_ARGS"])
def test_mac_of_the_runtime(cni: CNI, pod: Pod, source: str) -> None:
    """The mac capability, args.cni.mac and MAC of CNI_ARGS each override the configuration."""
    keys = {"args": {"args": {"cni": {"mac": MAC}}}, "runtimeConfig": {"runtimeConfig": {"mac": MAC}}}.get(source, {})
    args = f"MAC={MAC}" if source == "CNI_ARGS" else None
    cni.add(network(pod, mac="02:00:5e:10:00:55", **keys), pod, args=args)
    assert link_of(pod)["mac"] == MAC


def test_sysctls_of_args_override(cni: CNI, pod: Pod) -> None:
    """args.cni.sysctl overrides the configured sysctls of the same name."""
    override = {"args": {"cni": {"sysctl": {"net.core.somaxconn": "78"}}}}
    cni.add(network(pod, sysctl=SYSCTLS, **override), pod)
    assert (pod.sysctl(ARP_FILTER), pod.sysctl(SOMAXCONN)) == ("1", "78")


def test_sysctls_of_args_alone(cni: CNI, pod: Pod) -> None:
    """args.cni.sysctl works without sysctls in the configuration."""
    cni.add(network(pod, args={"cni": {"sysctl": {"net.core.somaxconn": "78"}}}), pod)
    assert pod.sysctl(SOMAXCONN) == "78"


def test_settings_are_of_the_pod_alone(cni: CNI, node: Node, pod: Pod) -> None:
    """The node's own settings are never changed."""
    was = node.sysctl(SOMAXCONN)
    cni.add(network(pod, sysctl=SYSCTLS), pod)
    assert node.sysctl(SOMAXCONN) == was != "77"


@pytest.mark.parametrize(
    "name", ["kernel.shmmax", "net.ipv4.conf/../../kernel/shmmax", "net.nosuch.thing", "../kernel/shmmax", "net"]
)
def test_sysctls_outside_net_are_refused(cni: CNI, pod: Pod, name: str, refused: Refused) -> None:
    """Only existing settings below net/ can be set."""
    with refused():
        cni.add(network(pod, sysctl={name: "1"}), pod)


def test_duplicates_are_refused(cni: CNI, pod: Pod, refused: Refused) -> None:
    """The same key twice is an error, because it is ambiguous."""
    conf = json.dumps(network(pod, sysctl={"net.core.somaxconn": "77"})).replace(
        '"77"', '"77", "net.core.somaxconn": "78"'
    )
    with refused():
        cni.answer("tuning", cni.environ("ADD", pod), conf)


def test_allowlist(cni: CNI, node: Node, pod: Pod) -> None:
    """If /etc/cni/tuning/allowlist.conf exists, only sysctls that match one of its lines can be set."""
    node.run(["sh", "-c", "mount -t tmpfs etc /etc; mkdir -p /etc/cni/tuning"])
    node.path("/etc/cni/tuning/allowlist.conf").write_text("\n  ^net\\.core\\.somax[a-z]+$\n")
    cni.add(network(pod, sysctl={"net.core.somaxconn": "77"}), pod)
    with pytest.raises(CNIFailure, match="not allowed"):
        cni.add(network(pod, sysctl=SYSCTLS), pod)


def test_empty_allowlist_allows_nothing(cni: CNI, node: Node, pod: Pod) -> None:
    """An empty allowlist forbids everything."""
    node.run(["sh", "-c", "mount -t tmpfs etc /etc; mkdir -p /etc/cni/tuning; >/etc/cni/tuning/allowlist.conf"])
    with pytest.raises(CNIFailure, match="not allowed"):
        cni.add(network(pod, sysctl={"net.core.somaxconn": "77"}), pod)


def test_del_puts_the_link_back(cni: CNI, pod: Pod) -> None:
    """DEL restores every attribute; a second DEL has nothing to do."""
    cni.add(network(pod, **TUNED), pod)
    for _ in range(2):
        cni.delete(network(pod, **TUNED), pod, previous(pod))
        assert link_of(pod) == UNTOUCHED


def test_del_puts_sysctls_back(cni: CNI, pod: Pod) -> None:
    """DEL restores every sysctl if the namespace still exists."""
    was = pod.sysctl(SOMAXCONN)
    cni.add(network(pod, sysctl=SYSCTLS), pod)
    cni.delete(network(pod, sysctl=SYSCTLS), pod, previous(pod))
    assert (pod.sysctl(ARP_FILTER), pod.sysctl(SOMAXCONN)) == ("0", was)


def test_a_second_add_keeps_the_originals(cni: CNI, pod: Pod) -> None:
    """After two ADDs a DEL restores the values from before the first."""
    for mtu in (1400, 1300):
        cni.add(network(pod, mtu=mtu), pod)
    cni.delete(network(pod, mtu=1300), pod, previous(pod))
    assert link_of(pod) == UNTOUCHED


def vanished(pod: Pod) -> dict:
    """The namespace is deleted."""
    pod.vanish()
    return {}


def without_link(pod: Pod) -> dict:
    """The link is deleted."""
    pod.run(["ip", "link", "del", "eth0"])
    return {}


def without_netns(pod: Pod) -> dict:
    """The runtime does not pass the namespace."""
    return {"netns": None}


def bad_arguments(pod: Pod) -> dict:
    """CNI_ARGS that ADD would refuse."""
    return {"args": "K8S_POD_NAME=a;x"}


@pytest.mark.parametrize("state", [vanished, without_link, without_netns, bad_arguments])
def test_del_succeeds_and_leaves_no_file(cni: CNI, node: Node, pod: Pod, state: Callable) -> None:
    """DEL succeeds in any state."""
    conf = network(pod, **TUNED)
    cni.add(conf, pod)
    cni.delete(conf, pod, previous(pod), **state(pod))
    assert list(node.path(BACKUPS).glob("*")) == []


@pytest.mark.parametrize(
    "wrong",
    [{"mtu": 67}, {"sysctl": {"net.core.nosuch": "1"}}, {"sysctl": {"net.core.somaxconn": "many"}}],
    ids=["mtu", "no such sysctl", "no such value"],
)
def test_failed_add_leaves_nothing(cni: CNI, node: Node, pod: Pod, wrong: dict, refused: Refused) -> None:
    """Settings that were changed before the failing step are restored."""
    was = pod.sysctl(SOMAXCONN)
    with refused():
        cni.add(network(pod, **({"sysctl": SYSCTLS, "mac": MAC} | wrong)), pod)
    assert link_of(pod) == UNTOUCHED
    assert (pod.sysctl(ARP_FILTER), pod.sysctl(SOMAXCONN)) == ("0", was)
    assert list(node.path(BACKUPS).glob("*")) == []


@pytest.mark.parametrize("version", WITH_CHECK)
def test_check_passes_after_add(cni: CNI, pod: Pod, version: str) -> None:
    """Immediately after ADD, CHECK succeeds with empty output."""
    conf = network(pod, version, sysctl=SYSCTLS, **TUNED)
    cni.check(conf, pod, cni.add(conf, pod))


@pytest.mark.parametrize(
    "damage",
    [
        "ip link set eth0 address 02:00:5e:10:00:42",
        "ip link set eth0 mtu 1300",
        "ip link set eth0 promisc off",
        "ip link set eth0 allmulticast off",
        "ip link set eth0 txqueuelen 99",
        "sysctl -q net.core.somaxconn=99",
        "ip link del eth0",
    ],
)
def test_check_fails_after(cni: CNI, pod: Pod, damage: str, refused: Refused) -> None:
    """CHECK fails for each deviation from the configuration."""
    conf = network(pod, sysctl=SYSCTLS, **TUNED)
    result = cni.add(conf, pod)
    pod.run(["sh", "-ec", damage])
    with refused():
        cni.check(conf, pod, result)


@pytest.mark.parametrize("key", ["promisc", "allmulti"])
def test_check_fails_where_a_mode_is_on_that_is_configured_off(cni: CNI, pod: Pod, key: str, refused: Refused) -> None:
    """CHECK also compares a mode that is configured `false`."""
    conf = network(pod, **{key: False})
    result = cni.add(conf, pod)
    cni.check(conf, pod, result)
    pod.run(["ip", "link", "set", "eth0", {"promisc": "promisc", "allmulti": "allmulticast"}[key], "on"])
    with refused():
        cni.check(conf, pod, result)


@pytest.mark.parametrize(
    ("keys", "damage"),
    [
        ({"mac": MAC.upper()}, "true"),
        ({"mac": MAC.replace(":", "-")}, "true"),
        ({"mtu": 1400}, "ip link set eth0 promisc on allmulticast on"),
        ({"sysctl": {"net.ipv4.tcp_rmem": "4096 80000 6000000"}}, "true"),
    ],
    ids=["MAC in capitals", "MAC with hyphens", "modes that are not configured", "three numbers"],
)
def test_check_passes_where_nothing_is_wrong(cni: CNI, pod: Pod, keys: dict, damage: str) -> None:
    """A value may be written differently than the kernel prints it; unconfigured settings may have any value."""
    conf = network(pod, **keys)
    result = cni.add(conf, pod)
    pod.run(["sh", "-ec", damage])
    cni.check(conf, pod, result)


def test_gc_removes_the_files_of_pods_that_are_gone(cni: CNI, node: Node, pod: Pod) -> None:
    """GC removes the saved originals of attachments without a DEL; those of valid attachments stay."""
    conf = network(pod, mtu=1400)
    for name in ("gone", "alive"):
        cni.add(conf, pod, containerid=name)
    cni.gc(conf, ("alive", "eth0"))
    assert [file.name for file in node.path(BACKUPS).glob("*.json")] == ["alive_eth0.json"]


def test_status(cni: CNI, node: Node, pod: Pod) -> None:
    """STATUS succeeds with empty output when an ADD would succeed, and fails when the originals cannot be saved."""
    conf = network(pod, mtu=1400)
    cni.status(conf)
    node.path("/run/cni").write_text("no folder")
    with pytest.raises(CNIFailure) as caught:
        cni.status(conf)
    assert caught.value.code == 50
