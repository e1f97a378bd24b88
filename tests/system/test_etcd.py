"""Nodes that find each other in a real etcd: nodes die and return, and etcd is away."""

import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.netns.etcd_server import Etcd
from tests.netns.node import wait_until
from tests.system.daemons import Cluster, Served
from tests.system.reachability import parties, unreached
from tests.system.traffic import Traffic
from tests.system.underlay import LINKS, ROUTER

pytestmark = pytest.mark.cold(reason="its nodes have agents of their own")


@pytest.fixture
def etcd(cluster: Cluster, tmp_path: Path) -> Iterator[Etcd]:
    """An etcd on the router."""
    with closing(Etcd(tmp_path, at=(cluster.underlay.fabric, f"{LINKS['left'][0]}{ROUTER}"))) as made:
        yield made


def join(cluster: Cluster, etcd: Etcd, link: str, **options: object) -> Served:
    """A node whose registry is this etcd; `options` of [etcd]."""
    return cluster.join(link, registry=f"etcd://{etcd.hosts}/slash24", etcd=options)


@pytest.mark.slow
def test_a_node_dies_and_returns(cluster: Cluster, etcd: Etcd) -> None:
    """The others remove their routes when its record has ended, not when its daemon restarts; its subnets are kept."""
    one, two = join(cluster, etcd, "left"), join(cluster, etcd, "right")
    mortal = join(cluster, etcd, "left", ttl="5s")
    cluster.settle()
    everybody = parties(cluster.nodes)
    assert unreached(everybody, everybody) == []
    subnets = mortal.subnets
    with closing(Traffic([(party.host, party.addresses[0]) for party in everybody[3:]])) as traffic:
        mortal.restart()
        cluster.settle()
        report = traffic.report()
        assert (report.broken, report.total) == ((), 0)
    mortal.daemon.end(signal.SIGKILL)
    for other in (one, two):
        assert wait_until(lambda other=other: other.knows([one, two])), other.routes()
    late = join(cluster, etcd, "right")
    late.wait_until_ready()
    assert not set(subnets) & set(late.subnets)
    mortal.start()
    cluster.settle()
    assert mortal.subnets == subnets
    assert unreached(everybody, everybody) == []


@pytest.mark.slow
def test_etcd_is_away(cluster: Cluster, etcd: Etcd) -> None:
    """Nothing is lost, drift is repaired, pods start, a daemon may restart; then everything continues."""
    one, two = join(cluster, etcd, "left"), join(cluster, etcd, "right")
    cluster.settle()
    pods = parties([one, two])[2:]
    with closing(Traffic([(party.host, party.addresses[0]) for party in pods])) as traffic:
        etcd.kill()
        subnet = next(iter(two.subnets))
        one.node.run(["ip", "route", "del", subnet])
        assert wait_until(lambda: one.knows([one, two])), one.daemon.log
        traffic.report()
        two.restart()
        two.wait_until_ready()
        assert two.knows([one, two])
        two.add("meanwhile")
        report = traffic.report()
        assert (report.broken, report.total) == ((), 0)
    etcd.start()
    etcd.wait()
    three = join(cluster, etcd, "left")
    cluster.settle()
    everybody = [*pods, *parties([three])]
    assert unreached(everybody, everybody) == []
