"""The registry in a real etcd: subnets are leased, records published and watched, and what is dead goes."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from nodes.etcd.client import Client
from nodes.etcd.conf import parse
from nodes.records import to_text
from nodes.registries.etcd import EtcdRegistry
from nodes.registry import RegistryError, Wish
from plugins.node.records import Node
from spec.addresses import parse_cidr
from spec.config import Section
from tests.netns.etcd_server import Etcd
from tests.netns.node import wait_until
from tests.netns.seen import watching

BOTH = Wish(("10.244.0.0/16", "fd00:244::/48"), (24, 64))
FOUR = Wish(("10.244.0.0/22",), (24,))
SHORT = {"ttl": "5s", "reserve": "5s"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """An etcd; each test uses a prefix of its own."""
    etcd = Etcd(tmp_path_factory.mktemp("etcd"))
    yield etcd
    etcd.close()


Join = Callable[..., EtcdRegistry]


@pytest.fixture
def join(server: Etcd, request: pytest.FixtureRequest) -> Iterator[Join]:
    """Opens the registry of this test for a node; further arguments are options."""
    with ExitStack() as stack:

        def opened(name: str, **options: object) -> EtcdRegistry:
            url = f"etcd://{server.hosts}/{request.node.name}"
            registry = EtcdRegistry(url, name, Section(options, "etcd"))
            stack.callback(registry.close)
            return registry

        yield opened


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """The prefix of this test's keys."""
    return f"/{request.node.name}"


def node(name: str, *subnets: str) -> Node:
    """A record."""
    return Node(name, ("192.0.2.1",), subnets)


def test_a_subnet_of_each_family(join: Join, server: Etcd, prefix: str) -> None:
    """A node gets one of each length; asked again, or after a restart, the same ones, since the same revision."""
    first = join("a")
    grant = first.lease(BOTH)
    assert [subnet.partition("/")[2] for subnet in grant.subnets] == ["24", "64"]
    assert first.lease(BOTH) == grant
    first.close()
    assert join("a").lease(BOTH) == grant
    expected = {f"{prefix}/subnets/{subnet.replace('/', '-')}": "a" for subnet in grant.subnets}
    assert server.keys(prefix) == expected


def test_two_hundred_nodes_at_once(join: Join) -> None:
    """All get different subnets, of both families."""
    nodes = [join(f"n{number}") for number in range(200)]
    with ThreadPoolExecutor(200) as pool:
        grants = list(pool.map(lambda registry: registry.lease(BOTH), nodes))
    for family in (0, 1):
        assert len({grant.subnets[family] for grant in grants}) == 200


def test_a_full_cluster(join: Join) -> None:
    """The fifth of four subnets is refused with a sentence; excluded ones are not given."""
    names = "abcd"
    assert {join(name).lease(FOUR).subnets[0] for name in names} == {f"10.244.{number}.0/24" for number in range(4)}
    with pytest.raises(RegistryError, match=r"the cluster is full: none of the 4 subnets /24 of 10\.244\.0\.0/22"):
        join("e").lease(FOUR)
    wider = Wish(("10.244.0.0/21",), (24,), excluded=("10.244.4.0/23", "10.244.7.0/24"))
    assert join("f").lease(wider).subnets == ("10.244.6.0/24",)


def test_a_subnet_set_by_hand(join: Join, server: Etcd, prefix: str) -> None:
    """The node gets it, it has no lease that would end, and what is no subnet is ignored."""
    server.ctl("put", f"{prefix}/subnets/10.244.77.0-24", "a")
    server.ctl("put", f"{prefix}/subnets/something", "else")
    registry = join("a", **SHORT)
    assert registry.lease(Wish(("10.244.0.0/16",), (24,))).subnets == ("10.244.77.0/24",)
    assert "lease" not in server.ctl("get", f"{prefix}/subnets/10.244.77.0-24", "-w", "json")


def test_a_preferred_subnet(join: Join) -> None:
    """A node that had a subnet gets it again if it is free, and another one if it is not."""
    wish = Wish(("10.244.0.0/16",), (24,), preferred=("10.244.9.0/24",))
    assert join("a").lease(wish).subnets == ("10.244.9.0/24",)
    assert join("b").lease(wish).subnets != ("10.244.9.0/24",)


def test_overlaps_with_other_lengths(join: Join, server: Etcd, prefix: str) -> None:
    """No node gets a subnet inside of another's; one that was set later does not take the older one away."""
    wide = Wish(("10.244.0.0/19",), (20,))
    with_wide = join("wide")
    (held,) = with_wide.lease(wide).subnets
    for number in range(16):
        (subnet,) = join(f"small{number}").lease(Wish(("10.244.0.0/19",), (24,))).subnets
        assert not parse_cidr(held).contains(parse_cidr(subnet))
    with pytest.raises(RegistryError, match="the cluster is full"):
        join("small16").lease(Wish(("10.244.0.0/19",), (24,)))
    server.ctl("put", f"{prefix}/subnets/{held.replace('/20', '-24')}", "late")
    assert with_wide.lease(wide).subnets == (held,)


def test_records_are_watched(join: Join, server: Etcd, prefix: str) -> None:
    """Everybody sees records come, change and go; one that is wrong is passed as such and stops nobody."""
    one, two = join("a"), join("b")
    one.publish(node("a", "10.244.1.0/24"))
    with watching(join("watcher")) as seen:
        assert seen.nodes == {"a": ("10.244.1.0/24",)}
        two.publish(node("b", "10.244.2.0/24"))
        assert seen.becomes(lambda seen: seen.nodes.get("b") == ("10.244.2.0/24",))
        two.publish(node("b", "10.244.3.0/24"))
        assert seen.becomes(lambda seen: seen.nodes["b"] == ("10.244.3.0/24",))
        server.ctl("put", f"{prefix}/nodes/c", '{"name": "b", "podCIDRs": ["10.244.3.0/24"]}')
        server.ctl("put", f"{prefix}/nodes/d", "garbage")
        server.ctl("put", f"{prefix}/nodes/\udcff", "not even its key is UTF-8")
        assert seen.becomes(lambda seen: len(seen.entries) == 5)
        assert not [key for key in seen.entries if not key.isprintable()]
        assert seen.entries["c"].problem == 'its key says "c", but its name is "b"'
        assert seen.entries["d"].node is None
        two.withdraw()
        assert seen.becomes(lambda seen: set(seen.nodes) == {"a"})


def test_an_unchanged_record_is_not_written(join: Join) -> None:
    """So that nobody is told about it."""
    registry = join("a")
    registry.publish(node("a"))
    with watching(join("watcher")) as seen:
        registry.publish(node("a"))
        registry.publish(node("a", "10.244.1.0/24"))
        assert seen.becomes(lambda seen: seen.nodes == {"a": ("10.244.1.0/24",)})
        assert seen.calls.count("put") == 1


def test_a_dead_node(join: Join, server: Etcd, prefix: str) -> None:
    """Its record goes first; its subnet stays reserved and comes back to it."""
    registry = join("a", ttl="5s")
    grant = registry.lease(FOUR)
    registry.publish(node("a", *grant.subnets))
    with watching(join("watcher")) as seen:
        registry.close()
        assert seen.becomes(lambda seen: not seen.entries)
    assert list(server.keys(prefix).values()) == ["a"]
    assert all(join(name).lease(FOUR).subnets != grant.subnets for name in "bcd")
    assert join("a").lease(FOUR) == grant


def test_a_living_node(join: Join, server: Etcd, prefix: str) -> None:
    """Its leases are renewed, so both remain; a record that somebody deletes comes back by itself."""
    registry = join("a", **SHORT)
    registry.publish(node("a", *registry.lease(FOUR).subnets))
    with watching(join("watcher")) as seen:
        assert not wait_until(lambda: len(server.keys(prefix)) != 2, timeout=7)
        assert "remove" not in seen.calls
        server.ctl("del", f"{prefix}/nodes/a")
        assert seen.becomes(lambda seen: seen.calls[-2:] == ["remove", "put"])


def test_a_subnet_that_was_taken_away(join: Join, server: Etcd, prefix: str) -> None:
    """The node withdraws its record, and with the next lease gets another subnet."""
    registry = join("a", **SHORT)
    (subnet,) = registry.lease(FOUR).subnets
    registry.publish(node("a", subnet))
    server.ctl("put", f"{prefix}/subnets/{subnet.replace('/', '-')}", "b")
    assert wait_until(lambda: f"{prefix}/nodes/a" not in server.keys(prefix))
    assert registry.lease(FOUR).subnets != (subnet,)


def test_another_reserve(join: Join, server: Etcd, prefix: str) -> None:
    """A new `reserve` or `ttl` holds from the next start on, for the subnet that the node has."""
    before = join("a")
    grant = before.lease(FOUR)
    before.publish(node("a", *grant.subnets))
    before.close()
    after = join("a", **SHORT)
    assert after.lease(FOUR) == grant
    after.publish(node("a", *grant.subnets))
    after.close()
    assert wait_until(lambda: not server.keys(prefix))


def test_many_records(join: Join, server: Etcd, prefix: str) -> None:
    """More than fit into one answer are listed completely, in pages."""
    client = Client(parse(f"etcd://{server.hosts}{prefix}", Section({}), ""))
    for start in range(0, 1200, 100):
        names = [f"n{number}" for number in range(start, start + 100)]
        assert client.put_if([(f"{prefix}/nodes/{name}", to_text(node(name)), 0) for name in names])
    client.close()
    with watching(join("watcher")) as seen:
        assert len(seen.nodes) == 1200
