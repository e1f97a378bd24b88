"""flannel's registry in a real etcd: what flanneld has written is found, and what it would write is written."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from nodes.registries.flannel_etcd import FlannelEtcdRegistry
from nodes.registry import RegistryError, Wish
from plugins.node.records import Node
from spec.config import Section
from tests.netns.etcd_server import Etcd
from tests.netns.node import wait_until
from tests.netns.seen import watching

CONF = {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}
MAC = "12:c6:65:89:b4:e3"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """An etcd; each test uses a prefix of its own."""
    etcd = Etcd(tmp_path_factory.mktemp("etcd"))
    yield etcd
    etcd.close()


class Network:
    """flannel's network of one test."""

    def __init__(self, server: Etcd, prefix: str) -> None:
        self._server, self._prefix = server, prefix
        self._opened = ExitStack()
        self.configure()

    def configure(self, **keys: object) -> None:
        """Write flannel's configuration, with these keys in place of the usual ones."""
        self._server.ctl("put", f"{self._prefix}/config", json.dumps(CONF | keys))

    def join(self, name: str, **options: object) -> FlannelEtcdRegistry:
        """The registry, for a node."""
        url = f"flannel+etcd://{self._server.hosts}{self._prefix}"
        registry = FlannelEtcdRegistry(url, name, Section(options, "etcd"))
        self._opened.callback(registry.close)
        return registry

    def put(self, key: str, value: str) -> None:
        """Write a record."""
        self._server.ctl("put", f"{self._prefix}/subnets/{key}", value)

    def delete(self, key: str) -> None:
        """Delete a record."""
        self._server.ctl("del", f"{self._prefix}/subnets/{key}")

    def records(self) -> dict[str, dict]:
        """All records by their keys."""
        found = self._server.keys(f"{self._prefix}/subnets/")
        return {key.rpartition("/")[2]: json.loads(value) for key, value in found.items()}

    def close(self) -> None:
        """Close all registries."""
        self._opened.close()


@pytest.fixture
def network(server: Etcd, request: pytest.FixtureRequest) -> Iterator[Network]:
    """A network with flannel's defaults."""
    made = Network(server, f"/{request.node.name}")
    yield made
    made.close()


def wish(number: int = 1, **keys: object) -> Wish:
    """That of a node with the address 192.0.2.NUMBER."""
    return Wish(**{"cluster": ("10.244.0.0/16",), "addresses": (f"192.0.2.{number}",), **keys})


def node(name: str, number: int, **keys: object) -> Node:
    """The record of that node."""
    return Node(name, (f"192.0.2.{number}",), (), **{"vtep_mac": MAC, "vni": 1, "port": 8472, **keys})


def lease(number: int) -> str:
    """What flanneld writes for that node."""
    data = {"VNI": 1, "VtepMAC": f"12:c6:65:89:b4:{number:02x}"}
    value = {"PublicIP": f"192.0.2.{number}", "PublicIPv6": None, "BackendType": "vxlan", "BackendData": data}
    return json.dumps(value, separators=(",", ":"))


def test_a_new_node(network: Network) -> None:
    """It reserves a subnet that flannel could have given it, and announces itself as flanneld would."""
    registry = network.join("a")
    grant = registry.lease(wish())
    assert grant.subnets != ("10.244.0.0/24",)
    key = grant.subnets[0].replace("/", "-")
    assert network.records() == {key: {"PublicIP": "192.0.2.1", "PublicIPv6": None}}
    registry.publish(node("a", 1))
    data = {"VNI": 1, "VtepMAC": MAC}
    assert network.records()[key] == json.loads(lease(1)) | {"BackendData": data}
    assert registry.lease(wish()) == grant


def test_a_node_that_flannel_served(network: Network) -> None:
    """It finds the lease by its address, although others are between."""
    network.put("10.244.7.0-24", lease(2))
    network.put("10.244.9.0-24", lease(1))
    registry = network.join("a")
    assert registry.lease(wish()).subnets == ("10.244.9.0/24",)
    registry.publish(node("a", 1))
    assert set(network.records()) == {"10.244.7.0-24", "10.244.9.0-24"}


def test_forty_nodes_at_once(network: Network) -> None:
    """All get different subnets."""
    joined = [network.join(f"n{number}") for number in range(40)]
    with ThreadPoolExecutor(40) as pool:
        grants = list(pool.map(lambda pair: pair[1].lease(wish(pair[0])), enumerate(joined, 1)))
    assert len({grant.subnets for grant in grants}) == 40


def test_a_range(network: Network) -> None:
    """Only subnets of flannel's range are leased; one that is not of it any more is given up, as in flannel."""
    network.configure(SubnetMin="10.244.8.0", SubnetMax="10.244.9.0")
    network.put("10.244.20.0-24", lease(1))
    found = {network.join(f"n{number}").lease(wish(number)).subnets for number in (1, 2)}
    assert found == {("10.244.8.0/24",), ("10.244.9.0/24",)}
    assert "10.244.20.0-24" not in network.records()
    with pytest.raises(RegistryError, match="the cluster is full"):
        network.join("n3").lease(wish(3))


def test_a_subnet_that_the_node_had(network: Network) -> None:
    """It gets it again, if it is free."""
    assert network.join("a").lease(wish(preferred=("10.244.33.0/24",))).subnets == ("10.244.33.0/24",)
    assert network.join("b").lease(wish(2, preferred=("10.244.33.0/24",))).subnets != ("10.244.33.0/24",)


def test_both_families(network: Network) -> None:
    """The key has both subnets; MAC and address are announced for both tunnels of flannel."""
    network.configure(EnableIPv6=True, IPv6Network="fd00:244::/48")
    registry = network.join("a")
    both = ("192.0.2.1", "2001:db8:1::1")
    grant = registry.lease(wish(cluster=("10.244.0.0/16", "fd00:244::/48"), addresses=both))
    assert [subnet.partition("/")[2] for subnet in grant.subnets] == ["24", "64"]
    with pytest.raises(RegistryError, match="flannel needs an address of IPv6, and this node has none"):
        registry.publish(node("a", 1))
    registry.publish(Node("a", both, (), MAC, vni=1, port=8472))
    ((key, record),) = network.records().items()
    assert key == "&".join(subnet.replace("/", "-") for subnet in grant.subnets)
    assert (record["PublicIPv6"], record["BackendV6Data"]) == (both[1], {"VNI": 1, "VtepMAC": MAC})


def test_records_of_flannel_are_watched(network: Network) -> None:
    """By their keys, and this node's own by its name; what is not usable is told and stops nobody."""
    network.put("10.244.7.0-24", lease(7))
    network.put("10.244.8.0-24", '{"PublicIP":"192.0.2.8","BackendType":"host-gw"}')
    registry = network.join("a")
    grant = registry.lease(wish())
    registry.publish(node("a", 1))
    own = grant.subnets[0].replace("/", "-")
    with watching(registry) as seen:
        found = {key: entry.node and entry.node.name for key, entry in seen.entries.items()}
        assert found == {"10.244.7.0-24": "10.244.7.0-24", "10.244.8.0-24": None, own: "a"}
        assert seen.entries["10.244.8.0-24"].problem == 'its backend is "host-gw", not "vxlan"'
        network.put("10.244.7.0-24", lease(9))
        assert seen.becomes(lambda seen: seen.entries["10.244.7.0-24"].node.addresses == ("192.0.2.9",))
        network.delete("10.244.7.0-24")
        assert seen.becomes(lambda seen: "10.244.7.0-24" not in seen.entries)


def test_an_address_that_changes(network: Network) -> None:
    """The subnet stays the node's while its daemon runs."""
    registry = network.join("a")
    grant = registry.lease(wish())
    registry.publish(node("a", 1))
    registry.publish(node("a", 5))
    assert registry.lease(wish(5)) == grant
    assert [record["PublicIP"] for record in network.records().values()] == ["192.0.2.5"]


def test_a_lease_is_renewed(network: Network) -> None:
    """And ends when the daemon has been gone for so long."""
    registry = network.join("a", reserve="5s", ttl="5s")
    registry.lease(wish())
    assert not wait_until(lambda: not network.records(), timeout=7)
    registry.close()
    assert wait_until(lambda: not network.records())


def test_withdrawing(network: Network) -> None:
    """The subnet stays reserved for the node, by a record that flannel ignores."""
    registry = network.join("a")
    grant = registry.lease(wish())
    registry.publish(node("a", 1))
    registry.withdraw()
    assert list(network.records().values()) == [{"PublicIP": "192.0.2.1", "PublicIPv6": None}]
    assert network.join("a").lease(wish()).subnets == grant.subnets


@pytest.mark.parametrize(
    ("keys", "asked", "why"),
    [
        ({"Backend": {"Type": "host-gw"}}, {}, 'the backend is "host-gw", but slash24 can only join "vxlan"'),
        ({"Network": "10.5.0.0/16"}, {}, r'is not in "cluster"; set it to \["10.5.0.0/16"\]'),
        ({}, {"cluster": ()}, r'is not in "cluster"; set it to \["10.244.0.0/16"\]'),
        ({}, {"addresses": ()}, "flannel needs an IPv4 address of this node"),
        ({}, {"addresses": ("2001:db8::1",)}, "flannel needs an IPv4 address of this node"),
    ],
    ids=["backend", "network", "cluster", "no-address", "IPv6"],
)
def test_what_does_not_fit(network: Network, keys: dict, asked: dict, why: str) -> None:
    """The sentence says what to change."""
    network.configure(**keys)
    with pytest.raises(RegistryError, match=why):
        network.join("a").lease(wish(**asked))


def test_other_parameters_of_the_tunnel(network: Network) -> None:
    """A node whose tunnel has another VNI or port is not announced."""
    network.configure(Backend={"Type": "vxlan", "VNI": 7, "Port": 4789})
    registry = network.join("a")
    with pytest.raises(RegistryError, match="no lease of flannel's yet"):
        registry.publish(node("a", 1))
    registry.lease(wish())
    with pytest.raises(RegistryError, match="VNI 7 and port 4789, but the tunnel of this node has VNI 1 and port 8472"):
        registry.publish(node("a", 1))


def test_without_flannels_configuration(server: Etcd) -> None:
    """The sentence names the key."""
    registry = FlannelEtcdRegistry(f"flannel+etcd://{server.hosts}", "a", Section({}))
    with pytest.raises(RegistryError, match='etcd has no "/coreos.com/network/config"'):
        registry.lease(wish())
    registry.close()
