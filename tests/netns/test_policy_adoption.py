"""Pods that were attached before policies were enabled are found by their links and leases."""

import json
from collections.abc import Callable
from dataclasses import astuple

import pytest

from daemon.policies.adoption import Adoption
from linux.ownership import owner_tag
from plugins.pod import pod_files
from plugins.pod.pod_files import PodFile
from policy.objects import Pod
from spec.attachment import Attachment
from spec.config import Section
from tests.netns.cluster_tools import network
from tests.netns.cni import CNI
from tests.netns.node import Node
from tests.pure.daemon.test_records import Clock

pytestmark = pytest.mark.cold
WEB = Attachment("pods", "web", "eth0")


class Case:
    """A pod "web" of the network "pods", attached without policies."""

    def __init__(self, node: Node, cni: CNI) -> None:
        self.node, self.cni, self.clock = node, cni, Clock()
        node.outside()
        node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
        self.conf = {**network("kubenet"), "name": WEB.network}
        self.pod = node.pod("web")
        self.ips = [ip["address"].partition("/")[0] for ip in cni.add(self.conf, self.pod)["ips"]]
        self.folder = node.path("/run/slash24/pods")

    def adoption(self, *, waits: bool) -> Adoption:
        """What finds it."""
        ipam = Section({"dataDir": str(self.node.path("/var/lib/cni/networks"))})
        folder = str(self.folder)
        return Adoption(WEB.network, ipam, waits_for_names=waits, folder=folder, clock=self.clock)

    def files(self) -> list[dict]:
        """The files of pods."""
        return [json.loads(path.read_text()) for path in self.folder.glob("*.json")]


@pytest.fixture(name="case")
def new_case(node: Node, cni: CNI) -> Case:
    """The pod runs."""
    return Case(node, cni)


def test_a_pod_is_known_by_its_addresses(node: Node, case: Case) -> None:
    """A file names it, and from now on it can only send from its addresses; once is enough."""
    adoption = case.adoption(waits=True)
    pods = [Pod("default", "other", ips=("10.9.9.9",)), Pod("default", "web", ips=(case.ips[0],), uids=("u1",))]
    with node.inside():
        found = adoption.look((), lambda: pods)
        assert (found.put, found.gone, found.written) == ((), (), 1)
        assert not adoption.look({owner_tag(WEB)}, lambda: pods)
    (file,) = case.files()
    assert (file["namespace"], file["name"], file["uid"]) == ("default", "web", "u1")
    assert sorted(file["ips"]) == sorted(case.ips)
    assert file["link"] in node.run(["nft", "list", "table", "bridge", "slash24_source_validation"]).stdout


def test_a_pod_that_nobody_knows_is_waited_for(node: Node, case: Case) -> None:
    """The API may know its addresses a little later. Then it is a pod without a name, which gets one when it has."""
    adoption = case.adoption(waits=True)
    with node.inside():
        found = adoption.look((), list)
        assert (found.put, found.is_waiting) == ((), True)
        case.clock.now += 61
        (pod,) = adoption.look((), list).put
        assert (owner_tag(pod.owner), pod.name) == (owner_tag(WEB), "")
        assert not adoption.look((), list)
        assert case.files() == []
        assert adoption.look((), lambda: [Pod("default", "web", ips=tuple(case.ips))]).written == 1


def test_a_pod_without_a_name_is_forgotten_with_its_link(node: Node, case: Case) -> None:
    """Without an API nobody is waited for."""
    adoption = case.adoption(waits=False)
    with node.inside():
        assert len(adoption.look((), list).put) == 1
    case.cni.delete(case.conf, case.pod)
    with node.inside():
        assert adoption.look((), list).gone == (owner_tag(WEB),)
        assert not adoption.look((), list)


def test_an_add_or_del_meanwhile_has_the_last_word(node: Node, case: Case) -> None:
    """A file that an ADD writes while the pod is identified stays; after a DEL there is none."""
    adoption = case.adoption(waits=True)
    mine = PodFile(*astuple(WEB), tuple(case.ips), "veth0", "default", "mine")

    def during(call: Callable[[], None]) -> list[Pod]:
        call()
        return [Pod("default", "other", ips=tuple(case.ips))]

    with node.inside():
        adoption.look((), lambda: during(lambda: pod_files.write(mine, str(case.folder))))
    assert [file["name"] for file in case.files()] == ["mine"]
    pod_files.delete(WEB, str(case.folder))
    with node.inside():
        case.clock.now += 6
        adoption.look((), list)
        case.clock.now += 6
        adoption.look((), lambda: during(lambda: case.cni.delete(case.conf, case.pod)))
    assert case.files() == []
    assert owner_tag(WEB) not in node.ruleset()
