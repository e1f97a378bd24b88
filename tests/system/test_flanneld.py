"""Nodes of slash24 and of real flanneld in one network, and a cluster that is moved from one to the other."""

import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.netns.node import ask
from tests.system.flannel_tools import PAGE, EtcdNodes, assert_all_reach, assert_little_lost, conf_of, identity
from tests.system.pages import follow
from tests.system.traffic import Traffic
from tests.system.underlay import OUTSIDE, Member, Underlay

PLAIN = {"Backend": {"Type": "vxlan"}}
DIRECT = {"Backend": {"Type": "vxlan", "DirectRouting": True}}
NFTABLES = {"EnableNFTables": True}


@pytest.fixture
def cluster(
    underlay: Underlay, tmp_path: Path, reference_bin: Path, bin_dir: Path, request: pytest.FixtureRequest
) -> Iterator[EtcdNodes]:
    """An etcd with flannel's configuration."""
    made = EtcdNodes(underlay, tmp_path, reference_bin, bin_dir, **getattr(request, "param", PLAIN))
    yield made
    made.close()


def test_a_mixed_network(cluster: EtcdNodes, underlay: Underlay) -> None:
    """Two nodes of each, on two links: everyone reaches everyone, and leaves the cluster with its node's address."""
    members = [underlay.join(link) for link in ("left", "right", "left", "right")]
    pods = []
    for member, is_ours in zip(members, (False, False, True, True), strict=True):
        if is_ours:
            cluster.slash24(member)
            pods.append(cluster.slash24_pod(member, "pod"))
        else:
            cluster.flanneld(member)
            pods.append(cluster.flannel_pod(member, "pod"))
    assert_all_reach(pods)
    for member, (pod, _) in zip(members, pods, strict=True):
        assert ask(pod, underlay.outside, OUTSIDE[0], 8000, "tcp") == member.addresses[0]


def test_new_nodes_of_both(cluster: EtcdNodes, underlay: Underlay) -> None:
    """Nodes of both kinds that join later are reached by those that are there; so is one whose daemon is killed."""
    first, second = underlay.join("left"), underlay.join("right")
    cluster.flanneld(first)
    cluster.slash24(second).stop(signal.SIGKILL)
    pods = [cluster.flannel_pod(first, "pod"), cluster.slash24_pod(second, "pod")]
    cluster.slash24(second)
    third, fourth = underlay.join("right"), underlay.join("left")
    cluster.flanneld(third)
    cluster.slash24(fourth)
    pods += [cluster.flannel_pod(third, "pod"), cluster.slash24_pod(fourth, "pod")]
    assert_all_reach(pods)
    assert len(cluster.leases()) == 4


def test_a_device_that_is_lost(cluster: EtcdNodes, underlay: Underlay) -> None:
    """As after a reboot, it is made anew with a MAC that is announced, and flannel's nodes learn of it."""
    first, second = underlay.join("left"), underlay.join("right")
    cluster.flanneld(first)
    cluster.slash24(second)
    pods = [cluster.flannel_pod(first, "pod"), cluster.slash24_pod(second, "pod")]
    second.node.run(["ip", "link", "set", "flannel.1", "address", "02:00:00:00:00:77"])
    assert_all_reach(pods)
    second.node.run(["ip", "link", "del", "flannel.1"])
    assert_all_reach(pods)


@pytest.mark.slow
@pytest.mark.parametrize("cluster", [PLAIN, DIRECT, NFTABLES], indirect=True, ids=["plain", "direct", "nftables"])
def test_a_cluster_is_moved(cluster: EtcdNodes, underlay: Underlay) -> None:
    """One node after the other, by the commands of the page, while traffic passes; and one node back."""
    members = [underlay.join(link) for link in ("left", "left", "right")]
    daemons = [cluster.flanneld(member) for member in members]
    pods = [cluster.flannel_pod(member, "old") for member in members]
    assert_all_reach(pods)
    leases = cluster.leases()
    with closing(Traffic(pods)) as traffic:
        traffic.report()
        for member, daemon in zip(members, daemons, strict=True):
            device = identity(member)
            daemon.stop()
            daemons[member.number - 1] = cluster.slash24(member)
            finish(member)
            assert identity(member) == device
            pods.append(cluster.slash24_pod(member, "new"))
            assert_little_lost(f"node {member.number} is moved", traffic)
        assert cluster.leases() == leases
        assert_all_reach(pods)
        daemons[0].stop()
        cluster.flanneld(members[0])
        follow(members[0], PAGE, "Moving back")
        assert_little_lost("node 1 is moved back", traffic)
        assert cluster.leases() == leases
    for member, (pod, address) in zip(members[1:], pods[1:3], strict=True):
        member.cni.delete(conf_of(member), pod)
        assert set(pod.links()) == {"lo"}
        assert not member.node.path(f"/var/lib/cni/networks/cbr0/{address}").exists()
    assert_all_reach([pods[0], *pods[3:]])


def finish(member: Member) -> None:
    """The commands of the page after the start of slash24-node, and that nothing of flannel is left."""
    folder = member.node.path("/run/cni/net.d")
    (folder / "10-flannel.conflist").write_text('{"name": "cbr0"}')
    member.node.path("/var/lib/cni/flannel").mkdir(parents=True, exist_ok=True)
    follow(member, PAGE, "3. slash24-node", 0)
    assert "slash24_vtep_cbr0" in follow(member, PAGE, "3. slash24-node", 1)
    follow(member, PAGE, "4. The routes")
    assert member.node.ip("route", "show", "root", "10.244.0.0/16", "proto", "boot") == []
    follow(member, PAGE, "5. What is left", 1 if "flannel-ipv4" in member.node.ruleset() else 0)
    assert "flannel" not in member.node.ruleset().lower().replace("flannel.1", "")
