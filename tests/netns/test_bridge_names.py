"""The host's end of a pod's pair is found by its name, or by what else tells whose it is; never taken for another's."""

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from linux.netlink.socket import Netlink
from linux.ownership import group_of, host_veth_name
from linux.rtnl.group_deletion import GroupDeletion
from linux.rtnl.uapi import RTM_GETADDR
from plugins.bridge import PLUGIN
from plugins.pod import add
from spec.attachment import Attachment
from spec.plugin import serve
from spec.suite import NO_SUITE, Suite
from tests.netns.cni import CNI, with_prev
from tests.netns.node import Node, Pod
from tests.netns.overlay_tools import inside

CONF = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "b0"}
NAME = host_veth_name(Attachment("net", "pod", "eth0"))


@pytest.fixture
def pod(node: Node) -> Iterator[Pod]:
    """A pod in whose namespace a process lives, so that its pair outlives the namespace's name."""
    made = node.pod("pod")
    survivor = made.start(["sleep", "60"])
    yield made
    survivor.kill()
    survivor.wait()


def host_end(result: dict) -> str:
    """The name of the pod's link on the node."""
    return result["interfaces"][1]["name"]


def squat(node: Node, name: str = NAME, group: int = 0) -> None:
    """Somebody else's pair."""
    node.run(["ip", "link", "add", name, "group", str(group), "type", "veth", "peer", "name", "peer"])


def dumps_of_delete(
    node: Node, conf: dict, netns: str, monkeypatch: pytest.MonkeyPatch, suite: Suite = NO_SUITE
) -> int:
    """How often one DEL of the pod, in this process, lists all of something, the pod's own addresses apart."""
    dumps, dump = [], Netlink.dump

    def counted(self: Netlink, request: bytes, kind: int, *more: object) -> object:
        dumps.extend([kind] if kind != RTM_GETADDR else [])
        return dump(self, request, kind, *more)

    monkeypatch.setattr(Netlink, "dump", counted)
    environ = {
        "CNI_COMMAND": "DEL",
        "CNI_CONTAINERID": "pod",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/",
        "CNI_NETNS": netns,
    }
    with inside(node):
        stdin = io.BytesIO(json.dumps(conf).encode())
        outputs = {"stdout": io.BytesIO(), "stderr": io.StringIO()}
        assert serve(PLUGIN, environ=environ, stdin=stdin, suite=suite, **outputs) == 0
    return len(dumps)


def test_a_kernel_that_does_not_show_what_it_made(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """One before 6.2: the link is looked up by its name."""
    create_veth = add.create_veth

    def silent(*given: object, **more: object) -> None:
        create_veth(*given, **more)

    monkeypatch.setattr(add, "create_veth", silent)
    pod, stdout = node.pod("pod"), io.BytesIO()
    environ = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "pod", "CNI_IFNAME": "eth0", "CNI_PATH": "/"}
    environ["CNI_NETNS"] = str(node.path(pod.path))
    with inside(node):
        stdin = io.BytesIO(json.dumps(CONF).encode())
        assert serve(PLUGIN, environ=environ, stdin=stdin, stdout=stdout, stderr=io.StringIO()) == 0
    assert host_end(json.loads(stdout.getvalue())) == NAME
    assert "UP" in pod.links()["eth0"]["flags"]


def test_the_name_follows_from_the_attachment(node: Node, cni: CNI) -> None:
    """So it is the same every time, and another for another interface of the same container."""
    pod = node.pod("pod")
    names = {host_end(cni.add(CONF, pod)), host_end(cni.add(CONF, pod, ifname="eth1"))}
    assert names == {NAME, host_veth_name(Attachment("net", "pod", "eth1"))}


def test_del_without_a_namespace_finds_the_link_by_its_name(
    node: Node, cni: CNI, pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many links the node has, it looks at one."""
    cni.add(CONF, pod)
    pod.vanish()
    assert dumps_of_delete(node, CONF, "", monkeypatch) == 0
    assert NAME not in node.links()


def test_del_of_a_pod_looks_through_no_list(node: Node, cni: CNI, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost of a DEL does not grow with the pods of the node, and nor does that of another after it."""
    pod = node.pod("pod")
    conf = with_prev(CONF, cni.add(CONF, pod))
    netns = str(node.path(pod.path))
    assert dumps_of_delete(node, conf, netns, monkeypatch) == 0
    assert NAME not in node.links()
    assert dumps_of_delete(node, conf, "", monkeypatch) == 0
    assert dumps_of_delete(node, CONF, netns, monkeypatch) == 0


@pytest.mark.parametrize("has_result", [True, False])
def test_a_name_that_somebody_has_is_left_to_them(node: Node, cni: CNI, pod: Pod, *, has_result: bool) -> None:
    """The pod's link gets a random one, by which no DEL can look; it is found all the same, and the other stays."""
    squat(node)
    result = cni.add(CONF, pod)
    assert host_end(result) != NAME
    cni.check(CONF, pod, result)
    pod.vanish()
    cni.delete(CONF, pod, result if has_result else None)
    assert host_end(result) not in node.links()
    assert NAME in node.links()


@pytest.mark.parametrize("lives_on", [False, True])
def test_a_pair_that_names_nobody_goes_by_the_containers_end(
    node: Node, cni: CNI, monkeypatch: pytest.MonkeyPatch, *, lives_on: bool
) -> None:
    """As the reference plugin makes them; by a process that does one call, and by one that lives on."""
    pod = node.pod("pod")
    name = host_end(cni.add(CONF, pod))
    node.run(["ip", "link", "set", name, "alias", ""])
    node.run(["ip", "link", "set", name, "group", "0", "name", "veth01234567"])
    with ThreadPoolExecutor(1) as threads:
        suite = replace(NO_SUITE, delete_links=GroupDeletion(threads.submit).delete if lives_on else None)
        dumps_of_delete(node, CONF, str(node.path(pod.path)), monkeypatch, suite)
    assert set(node.links()) == {"lo", "b0"}
    assert set(pod.links()) == {"lo"}


def test_both_pairs_go_if_an_attachment_has_two(node: Node, cni: CNI, pod: Pod) -> None:
    """The pod was added again, in another namespace, before anybody had deleted it from the first."""
    cni.add(CONF, pod)
    pod.vanish()
    again = node.pod("pod")
    result = cni.add(CONF, again)
    cni.delete(CONF, again, result)
    assert not {NAME, host_end(result)} & set(node.links())


def test_del_takes_a_link_that_an_add_could_not_name_any_more(node: Node, cni: CNI) -> None:
    """The ADD was killed before it had given the alias: name and group tell. In another group it is somebody else's."""
    pod = Pod(node, "pod")
    squat(node, group=group_of("other"))
    cni.delete(CONF, pod, netns="")
    assert NAME in node.links()
    node.run(["ip", "link", "set", NAME, "group", str(group_of("net"))])
    cni.delete(CONF, pod, netns="")
    assert NAME not in node.links()


@pytest.mark.parametrize("verb", ["DEL", "GC"])
def test_a_link_doomed_by_a_process_that_was_killed(node: Node, cni: CNI, pod: Pod, verb: str) -> None:
    """It was put into a group to be deleted with others, and was not: the next DEL, or GC, knows it by its alias."""
    cni.add(CONF, pod)
    node.run(["ip", "link", "set", NAME, "group", str(0x25424242)])
    pod.vanish()
    if verb == "DEL":
        cni.delete(CONF, pod)
    else:
        cni.gc(CONF)
    assert NAME not in node.links()


def test_a_name_of_ours_with_the_alias_of_another_is_left(node: Node, cni: CNI) -> None:
    """Names can meet by chance; an alias says whose the link is."""
    squat(node, group=group_of("net"))
    node.run(["ip", "link", "set", NAME, "alias", "v1:net:another:eth0"])
    cni.delete(CONF, Pod(node, "pod"), netns="")
    assert NAME in node.links()
