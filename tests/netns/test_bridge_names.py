"""A pod's host veth is found by its name, else by alias, group or peer; links of others are never deleted."""

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
    """A pod with a running process in its namespace, so that its veth pair outlives the namespace's name."""
    made = node.pod("pod")
    survivor = made.start(["sleep", "60"])
    yield made
    survivor.kill()
    survivor.wait()


def host_end(result: dict) -> str:
    """The name of the host veth."""
    return result["interfaces"][1]["name"]


def squat(node: Node, name: str = NAME, group: int = 0) -> None:
    """Create a foreign veth pair that occupies the name."""
    node.run(["ip", "link", "add", name, "group", str(group), "type", "veth", "peer", "name", "peer"])


def dumps_of_delete(
    node: Node, conf: dict, netns: str, monkeypatch: pytest.MonkeyPatch, suite: Suite = NO_SUITE
) -> int:
    """The number of netlink dumps of one DEL of the pod, run in this process, except dumps of addresses."""
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


def test_a_kernel_that_does_not_echo_created_links(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel before 6.2 does not echo a created link: the link is looked up by its name."""
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


def test_the_name_is_derived_from_the_attachment(node: Node, cni: CNI) -> None:
    """It is derived from network, container ID and interface: eth0 and eth1 of a container get different names."""
    pod = node.pod("pod")
    names = {host_end(cni.add(CONF, pod)), host_end(cni.add(CONF, pod, ifname="eth1"))}
    assert names == {NAME, host_veth_name(Attachment("net", "pod", "eth1"))}


def test_del_without_a_namespace_finds_the_link_by_its_name(
    node: Node, cni: CNI, pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without CNI_NETNS, DEL deletes the host veth without a netlink dump."""
    cni.add(CONF, pod)
    pod.vanish()
    assert dumps_of_delete(node, CONF, "", monkeypatch) == 0
    assert NAME not in node.links()


def test_del_does_not_list_the_node_s_links(node: Node, cni: CNI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the first DEL nor a repeated one dumps links, so the cost does not grow with the node's pods."""
    pod = node.pod("pod")
    conf = with_prev(CONF, cni.add(CONF, pod))
    netns = str(node.path(pod.path))
    assert dumps_of_delete(node, conf, netns, monkeypatch) == 0
    assert NAME not in node.links()
    assert dumps_of_delete(node, conf, "", monkeypatch) == 0
    assert dumps_of_delete(node, CONF, netns, monkeypatch) == 0


@pytest.mark.parametrize("has_result", [True, False])
def test_a_name_that_a_foreign_link_has_is_not_taken(node: Node, cni: CNI, pod: Pod, *, has_result: bool) -> None:
    """The host veth gets a random name; DEL finds it with and without prevResult, and keeps the foreign link."""
    squat(node)
    result = cni.add(CONF, pod)
    assert host_end(result) != NAME
    cni.check(CONF, pod, result)
    pod.vanish()
    cni.delete(CONF, pod, result if has_result else None)
    assert host_end(result) not in node.links()
    assert NAME in node.links()


@pytest.mark.parametrize("lives_on", [False, True])
def test_del_deletes_a_pair_without_an_owner(
    node: Node, cni: CNI, monkeypatch: pytest.MonkeyPatch, *, lives_on: bool
) -> None:
    """A pair without alias and group, as the reference creates it, is deleted by its end in the pod.

    By a process that serves one call, and by one that batches deletions, like the agent.
    """
    pod = node.pod("pod")
    name = host_end(cni.add(CONF, pod))
    node.run(["ip", "link", "set", name, "alias", ""])
    node.run(["ip", "link", "set", name, "group", "0", "name", "veth01234567"])
    with ThreadPoolExecutor(1) as threads:
        suite = replace(NO_SUITE, delete_links=GroupDeletion(threads.submit).delete if lives_on else None)
        dumps_of_delete(node, CONF, str(node.path(pod.path)), monkeypatch, suite)
    assert set(node.links()) == {"lo", "b0"}
    assert set(pod.links()) == {"lo"}


def test_del_deletes_both_pairs_of_an_attachment(node: Node, cni: CNI, pod: Pod) -> None:
    """The pod was added again, in another namespace, before it was deleted from the first: DEL deletes both pairs."""
    cni.add(CONF, pod)
    pod.vanish()
    again = node.pod("pod")
    result = cni.add(CONF, again)
    cni.delete(CONF, again, result)
    assert not {NAME, host_end(result)} & set(node.links())


def test_del_deletes_a_link_that_has_no_alias_yet(node: Node, cni: CNI) -> None:
    """A link without an alias, of an ADD killed early, is identified by name and group; in another group it is kept."""
    pod = Pod(node, "pod")
    squat(node, group=group_of("other"))
    cni.delete(CONF, pod, netns="")
    assert NAME in node.links()
    node.run(["ip", "link", "set", NAME, "group", str(group_of("net"))])
    cni.delete(CONF, pod, netns="")
    assert NAME not in node.links()


@pytest.mark.parametrize("verb", ["DEL", "GC"])
def test_a_link_left_in_a_deletion_group_is_deleted(node: Node, cni: CNI, pod: Pod, verb: str) -> None:
    """It was moved to a group for deletion, but never deleted: the next DEL or GC identifies it by its alias."""
    cni.add(CONF, pod)
    node.run(["ip", "link", "set", NAME, "group", str(0x25424242)])
    pod.vanish()
    if verb == "DEL":
        cni.delete(CONF, pod)
    else:
        cni.gc(CONF)
    assert NAME not in node.links()


def test_a_link_with_our_name_and_the_alias_of_another_is_kept(node: Node, cni: CNI) -> None:
    """Names can collide: DEL keeps a link whose alias names another attachment."""
    squat(node, group=group_of("net"))
    node.run(["ip", "link", "set", NAME, "alias", "v1:net:another:eth0"])
    cni.delete(CONF, Pod(node, "pod"), netns="")
    assert NAME in node.links()
