"""`policyWait`: a pod is held from before its first packet until the daemon has decided on its policies."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.netns.cni import CNI, PATH, CNIFailure
from tests.netns.node import Node, Pod, wait_until
from tests.netns.policy_pods import (
    ALLOW,
    ARGS,
    BRIDGE_POLICY,
    DENY,
    PODS,
    POLICY,
    add,
    addresses,
    conf,
    daemon,
    decide,
    deciding,
    elements,
    mentions,
    pod_files,
    talks,
)

KINDS = ("bridge", "kubenet", "vxlan")
OWNER = "v1:net:{}:eth0"
GATEWAY_LINK = {"bridge": "br0", "kubenet": "cbr0", "vxlan": "cbr0"}


@pytest.fixture
def outside(node: Node) -> Pod:
    """A host behind the node's default route."""
    host = node.outside()
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    node.run(["ip", "route", "add", "default", "via", "2001:db8:1::2"])
    return host


def is_gone(node: Node, name: str) -> bool:
    """Assert that nothing of a pod's policies is left but its addresses among those to be flushed."""
    assert not mentions(node, OWNER.format(name))
    assert f"{OWNER.format(name)}.json" not in pod_files(node)
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_daemon_a_pod_is_held(cni: CNI, node: Node, outside: Pod, kind: str) -> None:
    """It and its node reach each other; between it and other pods, or hosts outside, nothing passes either way.

    The ADD does not wait, whatever policyWait says.
    """
    pod, other = node.pod("pod"), node.pod("other")
    begun = time.monotonic()
    result = add(cni, conf(kind, policyWait=60), pod)
    assert time.monotonic() - begun < 20
    free = add(cni, conf(kind), other)
    decide(node, addresses(free), ALLOW)
    for mine, its, gateway in zip(
        addresses(result), addresses(free), [ip["gateway"] for ip in free["ips"]], strict=True
    ):
        assert node.reaches(mine)
        assert pod.reaches(gateway)
        assert other.reaches(gateway)
        far = "2001:db8:1::2" if ":" in mine else "192.0.2.2"
        assert other.reaches(far)
        assert not any(
            one.reaches(to, timeout=0.1) for one, to in ((pod, its), (other, mine), (pod, far), (outside, mine))
        )
        assert not any(talks(pod, other, its, kind=how) or talks(other, pod, mine, kind=how) for how in ("tcp", "udp"))


@pytest.mark.parametrize("kind", KINDS)
def test_pods_reach_each_other_when_it_is_decided_so(cni: CNI, node: Node, outside: Pod, kind: str) -> None:
    """What the daemon has put in place of `held` is in force, in each direction by itself; the node routes it all."""
    pod, other = node.pod("pod"), node.pod("other")
    mine, its = (addresses(add(cni, conf(kind, policyWait=0), one)) for one in (pod, other))
    decide(node, mine + its, ALLOW)
    for source, to in zip(mine, its, strict=True):
        assert pod.reaches(to)
        assert other.reaches(source)
        assert talks(pod, other, to)
        assert talks(pod, outside, "2001:db8:1::2" if ":" in to else "192.0.2.2")
    decide(node, its, {"ingress": "denied_ingress"})
    for source, to in zip(mine, its, strict=True):
        assert not talks(pod, other, to)
        assert talks(other, pod, source)


@pytest.mark.parametrize("kind", KINDS)
def test_an_add_returns_when_the_daemon_has_decided(cni: CNI, node: Node, outside: Pod, kind: str) -> None:
    """Not before, and long before policyWait is over; the pod is not held any more."""
    pod, begun = node.pod("pod"), time.monotonic()
    with deciding(node, "pod", DENY, delay=1):
        result = add(cni, conf(kind, policyWait=60), pod)
    assert 1 < time.monotonic() - begun < 20
    assert {chain for name in ("egress4", "egress6") for chain in elements(node, name).values()} == {"denied_egress"}
    assert sorted(elements(node, "ingress4")) == [addresses(result)[0]]


def test_an_add_gives_up_after_policy_wait(cni: CNI, node: Node) -> None:
    """It succeeds, and the pod is held."""
    with daemon(node):
        begun = time.monotonic()
        result = add(cni, conf("bridge", policyWait=1), node.pod("pod"))
        waited = time.monotonic() - begun
        assert 1 <= waited < 15
        begun = time.monotonic()
        add(cni, conf("bridge", policyWait=0), node.pod("other"))
        assert time.monotonic() - begun < waited
    assert elements(node, "egress4")[addresses(result)[0]] == "held"


@pytest.mark.parametrize("kind", KINDS)
def test_an_add_that_waits_keeps_no_other_call_from_going_on(cni: CNI, node: Node, outside: Pod, kind: str) -> None:
    """It has given up its turn in an agent, and holds no lock: pods of its network come and go meanwhile."""
    first, other = node.pod("first"), node.pod("other")
    with daemon(node), ThreadPoolExecutor() as pool:
        begun = time.monotonic()
        waiting = pool.submit(add, cni, conf(kind, policyWait=20), first)
        assert wait_until(lambda: pod_files(node))
        result = add(cni, conf(kind, policyWait=0), other)
        cni.check(conf(kind), other, result)
        cni.delete(conf(kind), other, result)
        assert not waiting.done()
        assert time.monotonic() - begun < 15
        ips = next(iter(pod_files(node).values()))["ips"]
        decide(node, ips, ALLOW)
        assert addresses(waiting.result(10)) == ips


def test_the_daemon_learns_who_the_pod_is(cni: CNI, node: Node) -> None:
    """From a file that only root can read: the attachment, its addresses and link, and what CNI_ARGS say."""
    result = add(cni, conf("bridge"), node.pod("pod"))
    link = result["interfaces"][1]["name"]
    whole = {"network": "net", "container_id": "pod", "ifname": "eth0", "ips": addresses(result), "link": link}
    name = f"{OWNER.format('pod')}.json"
    assert pod_files(node) == {name: {**whole, "namespace": "shop", "name": "pod", "uid": "uid-pod"}}
    assert node.path(f"{PODS}/{name}").stat().st_mode & 0o777 == 0o600


def test_without_a_namespace_the_pod_is_nobody(cni: CNI, node: Node) -> None:
    """A name alone, which podman sends for its containers, may be anything."""
    cni.add(conf("bridge"), node.pod("pod"), args="IgnoreUnknown=1;K8S_POD_NAME=My_Container")
    (content,) = pod_files(node).values()
    assert (content["namespace"], content["name"], content["uid"]) == ("", "", "")


def test_an_identity_that_nobody_can_have_is_refused(cni: CNI, node: Node) -> None:
    """With error 4, which names the key and what is allowed, and before anything is made."""
    args = ARGS.format(name="../web")
    with pytest.raises(CNIFailure, match=r'"K8S_POD_NAME": expected the name of a pod, .*, got "../web"') as caught:
        cni.add(conf("bridge"), node.pod("pod"), args=args)
    assert caught.value.code == 4
    assert set(node.links()) == {"lo"}


def test_after_a_reboot_an_add_makes_the_tables(cni: CNI, node: Node) -> None:
    """Before the daemon runs: the pod is held; tables that are there are not made anew."""
    pod = node.pod("pod")
    cni.delete(conf("bridge"), pod, add(cni, conf("bridge"), pod))
    node.run(["nft", "flush", "ruleset"])
    node.run(["sh", "-c", f"rm -r {PODS}; ip link del br0"])
    ip = addresses(add(cni, conf("bridge"), pod))[0]
    assert elements(node, "egress4") == elements(node, "ingress4") == {ip: "held"}
    assert node.reaches(ip)
    node.run(["nft", "add", "rule", *POLICY.split(), "node_access", "accept"])
    add(cni, conf("bridge"), node.pod("other"))
    assert node.run(["nft", "list", "chain", *POLICY.split(), "node_access"]).stdout.count("accept") == 1


def test_redirects_are_switched_off(cni: CNI, node: Node) -> None:
    """The node does not tell pods to talk to each other directly; CHECK finds out if it does."""
    result = add(cni, conf("bridge"), node.pod("pod"))
    assert [node.sysctl(f"ipv4/conf/{link}/send_redirects") for link in ("all", "br0")] == ["0", "0"]
    node.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/br0/send_redirects"])
    with pytest.raises(CNIFailure, match="net/ipv4/conf/br0/send_redirects is not 0"):
        cni.check(conf("bridge"), Pod(node, "pod"), result)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bridge_is_registered_as_the_pods_gateway(cni: CNI, node: Node, outside: Pod, kind: str) -> None:
    """With the MAC that it has."""
    add(cni, conf(kind), node.pod("pod"))
    mac = node.links()[GATEWAY_LINK[kind]]["address"]
    assert mac in node.run(["nft", "list", "map", *BRIDGE_POLICY.split(), "gateways"]).stdout


def test_a_bridge_that_changes_its_mac_is_registered_with_the_last(cni: CNI, node: Node) -> None:
    """One that somebody else made takes the MAC of a port, until it has a gateway; pods reach each other."""
    node.run(["sh", "-c", "ip link add br0 address 02:ff:00:00:00:01 type bridge; ip link set br0 up"])
    node.run(["sh", "-c", "ip link add x0 address 02:00:00:00:00:01 type veth peer name x1; ip link set x0 master br0"])
    node.run(["sh", "-c", "ip link del br0; ip link add br0 type bridge; ip link set x0 master br0; ip link del x0"])
    pods = [node.pod("pod"), node.pod("other")]
    mine, its = (addresses(add(cni, conf("bridge"), pod)) for pod in pods)
    mac = node.links()["br0"]["address"]
    assert mac in node.run(["nft", "list", "map", *BRIDGE_POLICY.split(), "gateways"]).stdout
    decide(node, mine + its, ALLOW)
    assert all(pods[0].reaches(ip) for ip in its)


def test_pods_of_a_vlan_are_held_and_let_go(cni: CNI, node: Node, vlan_filtering: None) -> None:
    """Their packets go to the link that has the VLAN's gateway."""
    pod, other = node.pod("pod"), node.pod("other")
    mine, its = (addresses(add(cni, conf("bridge", vlan=100), one)) for one in (pod, other))
    assert not any(pod.reaches(ip, timeout=0.1) for ip in its)
    assert all(node.reaches(ip) for ip in mine)
    decide(node, mine + its, ALLOW)
    assert all(pod.reaches(ip) for ip in its)
    decide(node, its, DENY)
    assert not any(pod.reaches(ip, timeout=0.1) for ip in its)


@pytest.mark.parametrize("kind", KINDS)
def test_a_promiscuous_bridge_does_not_drop_what_is_routed(cni: CNI, node: Node, outside: Pod, kind: str) -> None:
    """The filter of duplicates is not set, and removed if it was, by ADD; CHECK does not miss it."""
    keys = {"promiscMode": True} if kind == "bridge" else {"hairpinMode": "promiscuous-bridge"}
    cni.add(conf(kind, **keys) | {"policyWait": None}, node.pod("before"))
    pods = [node.pod("pod"), node.pod("other")]
    results = [add(cni, conf(kind, **keys), pod) for pod in pods]
    assert "slash24_dedup" not in node.ruleset()
    assert "PROMISC" in node.links()[GATEWAY_LINK[kind]]["flags"]
    decide(node, [ip for result in results for ip in addresses(result)], ALLOW)
    assert all(pods[0].reaches(ip) for ip in addresses(results[1]))
    cni.check(conf(kind, **keys), pods[0], results[0])


@pytest.mark.parametrize("kind", KINDS)
def test_check_takes_a_held_pod_for_a_good_one(cni: CNI, node: Node, outside: Pod, kind: str) -> None:
    """As one that was decided on; not one whose elements or file are gone, with what to do about it."""
    pod = node.pod("pod")
    result = add(cni, conf(kind), pod)
    cni.check(conf(kind), pod, result)
    decide(node, addresses(result), DENY)
    cni.check(conf(kind), pod, result)
    node.path(f"{PODS}/{OWNER.format('pod')}.json").unlink()
    with pytest.raises(CNIFailure, match="the daemon does not know the pod.*; recreate the pod"):
        cni.check(conf(kind), pod, result)
    cni.delete(conf(kind), pod, result)
    result = add(cni, conf(kind), pod)
    node.run(["nft", "flush", "set", *POLICY.split(), "pods4"])
    with pytest.raises(CNIFailure, match="pods4"):
        cni.check(conf(kind), pod, result)


@pytest.mark.parametrize("kind", KINDS)
def test_del_and_gc_need_no_key(cni: CNI, node: Node, outside: Pod, kind: str) -> None:
    """Of a held pod or another, without daemon or result, with and without namespace, twice; others' pods stay."""
    pods = [node.pod(name) for name in ("a", "b", "c", "d")]
    results = [add(cni, conf(kind), pod) for pod in pods]
    decide(node, addresses(results[1]), DENY)
    without = conf(kind) | {"policyWait": None}
    cni.delete(without, pods[0], results[0])
    pods[1].vanish()
    cni.delete(without, pods[1])
    assert is_gone(node, "a")
    assert is_gone(node, "b")
    for pod, result in zip(pods[:2], results[:2], strict=True):
        cni.delete(without, pod, result)
    cni.gc(without, pods[3])
    assert is_gone(node, "c")
    assert mentions(node, OWNER.format("d"))
    assert list(pod_files(node)) == [f"{OWNER.format('d')}.json"]
    cni.check(conf(kind), pods[3], results[3])
    cni.gc(without)
    cni.delete(without, pods[3], results[3])
    assert is_gone(node, "d")
    assert pod_files(node) == {}


@pytest.mark.parametrize("gone", ["table", "folder", "both", "bridge table"])
def test_del_and_gc_of_what_is_gone_already(cni: CNI, node: Node, gone: str) -> None:
    """Whoever has removed tables or files, the rest goes and the calls succeed."""
    commands = {
        "table": f"nft delete table {POLICY}",
        "folder": f"rm -r {PODS}",
        "both": f"nft flush ruleset; rm -r {PODS}",
        "bridge table": f"nft delete table {BRIDGE_POLICY}",
    }
    pods = [node.pod("a"), node.pod("b")]
    results = [add(cni, conf("bridge"), pod) for pod in pods]
    node.run(["sh", "-c", commands[gone]])
    cni.delete(conf("bridge"), pods[0], results[0])
    cni.gc(conf("bridge"))
    assert pod_files(node) == {}
    assert "eth0" not in pods[0].links() | pods[1].links()


def test_without_the_key_nothing_happens(cni: CNI, node: Node) -> None:
    """No tables, no file, and redirects stay as they are."""
    pod = node.pod("pod")
    without = conf("bridge") | {"policyWait": None}
    result = cni.add(without, pod)
    cni.check(without, pod, result)
    assert "slash24_policy" not in node.ruleset()
    assert not node.path(PODS).exists()
    assert node.sysctl("ipv4/conf/br0/send_redirects") == "1"
    cni.delete(without, pod, result)


def test_cnitool(cni: CNI, node: Node, bin_dir: Path, reference_bin: Path) -> None:
    """The real cnitool, with CNI_ARGS from its environment, adds a pod that is held, checks it and deletes it."""
    pod = node.pod("pod")
    plugin = {key: value for key, value in conf("bridge").items() if key not in ("cniVersion", "name")}
    node.path("/run/net.d").mkdir()
    conflist = {"cniVersion": "1.1.0", "name": "net", "plugins": [plugin]}
    node.path("/run/net.d/10-net.conflist").write_text(json.dumps(conflist))
    env = {"PATH": PATH, "CNI_PATH": str(bin_dir), "NETCONFPATH": "/run/net.d", "CNI_IFNAME": "eth0"}
    env["CNI_ARGS"] = ARGS.format(name="web")

    def cnitool(verb: str) -> str:
        return node.run([reference_bin / "cnitool", verb, "net", pod.path], env=env).stdout

    result = json.loads(cnitool("add"))
    (content,) = pod_files(node).values()
    assert (content["namespace"], content["name"], content["uid"]) == ("shop", "web", "uid-web")
    assert elements(node, "egress4") == {addresses(result)[0]: "held"}
    cnitool("check")
    cnitool("del")
    assert pod_files(node) == elements(node, "egress4") == {}
