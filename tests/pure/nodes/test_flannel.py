"""flannel's records of nodes and its configuration of a network."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as some

from nodes import flannel
from nodes.flannel import NetConf, key_of, read_annotations, read_lease, read_net_conf, subnets_of, write_lease
from plugins.node.records import Node

# As flanneld v0.28.10 has written them.
LEASE = b'{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"%s"}}'
DUAL = (
    b'{"PublicIP":"192.0.2.1","PublicIPv6":"2001:db8:1::1","BackendType":"vxlan",'
    b'"BackendData":{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"},"BackendV6Data":{"VNI":1,"VtepMAC":"56:5a:bf:c9:5c:05"}}'
)
MAC = "12:c6:65:89:b4:e3"
OURS = Node("a", ("2001:db8:1::1", "192.0.2.1"), ("10.244.1.0/24",), MAC, vni=1)

KEYS = ("PublicIP", "PublicIPv6", "BackendType", "BackendData", "BackendV6Data", "VNI", "VtepMAC", "Network")
KEYS += ("SubnetLen", "SubnetMin", "SubnetMax", "Backend", "Type", "Port", "EnableIPv4", "EnableIPv6", "IPv6Network")
KEYS += ("IPv6SubnetLen", "IPv6SubnetMin", "IPv6SubnetMax")
TEXTS = ("vxlan", "10.244.0.0/16", "192.0.2.1", MAC, "fd00:244::/48", "10.244.3.0", "::", "0.0.0.0/0")
anything = some.recursive(
    some.none() | some.booleans() | some.integers() | some.text(max_size=9) | some.sampled_from(TEXTS),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.sampled_from(KEYS), inner, max_size=7),
    max_leaves=15,
)


def test_a_lease_is_read() -> None:
    """Its key has the subnets, its value the rest."""
    node = read_lease("10.244.1.0-24", LEASE % MAC.encode())
    assert node == Node("", ("192.0.2.1",), ("10.244.1.0/24",), MAC, vni=1)


def test_a_lease_is_written_as_flannel_does() -> None:
    """Byte for byte."""
    assert write_lease(OURS, 1) == LEASE % MAC.encode()


def test_a_mac_that_is_not_known_is_computed() -> None:
    """As everywhere."""
    node = Node("a", ("192.0.2.1",), ("10.244.1.0/24",))
    assert write_lease(node, 1) == LEASE % b"02:24:0a:f4:01:00"


def test_the_second_tunnel_of_flannel() -> None:
    """IPv6 of flannel's nodes is not reached through our tunnel; that of slash24's is."""
    assert read_lease("10.244.1.0-24&fd00:244:0:1::-64", DUAL).subnets == ("10.244.1.0/24",)
    both = Node("a", ("192.0.2.1", "2001:db8:1::1"), ("10.244.1.0/24", "fd00:244:0:1::/64"), MAC, vni=7)
    read = read_lease(key_of(both.subnets), write_lease(both, 7))
    assert (read.addresses, read.subnets, read.vtep_mac, read.vni) == (both.addresses, both.subnets, MAC, 7)


def test_an_address_is_missing() -> None:
    """Of the family of a subnet, or IPv4, by which flannel tells nodes apart."""
    with pytest.raises(ValueError, match="flannel needs an address of IPv4"):
        write_lease(Node("a", ("2001:db8::1",), ("10.244.1.0/24",)), 1)
    with pytest.raises(ValueError, match="flannel needs an address of IPv6"):
        write_lease(Node("a", ("192.0.2.1",), ("10.244.1.0/24", "fd00::/64")), 1)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b'{"PublicIP":"192.0.2.1","PublicIPv6":null}', "it has no backend yet"),
        (b'{"PublicIP":"192.0.2.1","BackendType":"host-gw","BackendData":null}', 'its backend is "host-gw"'),
        (LEASE % b"ff:ff:ff:ff:ff:ff", '"VtepMAC": expected a unicast MAC address'),
        (b'{"BackendType":"vxlan","BackendData":{"VtepMAC":"12:c6:65:89:b4:e3"}}', "it has no IPv4 address"),
        (b"[]", "expected a JSON object"),
        (b"{" * 20_000, "it has 20000 bytes"),
    ],
)
def test_wrong_leases(value: bytes, why: str) -> None:
    """The sentence says what is wrong."""
    with pytest.raises(ValueError, match=why):
        read_lease("10.244.1.0-24", value)


@pytest.mark.parametrize("key", ["config", "10.244.1.0", "10.244.1.0/24", "10.244.1.0-33", "10.244.1.0-24&", "1-2-3"])
def test_wrong_keys(key: str) -> None:
    """Are no leases."""
    with pytest.raises(ValueError, match="key like|invalid CIDR"):
        subnets_of(key)


@given(some.text(max_size=30), anything)
def test_any_lease_is_read_or_refused(key: str, value: object) -> None:
    """Whatever somebody has written."""
    for name in (key, "10.244.1.0-24", "10.244.1.0-24&fd00:1::-64"):
        with suppress(ValueError):
            assert read_lease(name, json.dumps(value).encode()).vtep_mac


@given(some.dictionaries(some.sampled_from(flannel.ANNOTATIONS), some.text(max_size=9) | anything.map(json.dumps)))
def test_any_annotations_are_read_or_refused(found: dict[str, str]) -> None:
    """Whatever somebody has written."""
    complete = dict.fromkeys(flannel.ANNOTATIONS, "") | {"kube-subnet-manager": "true", "backend-type": "vxlan"}
    with suppress(ValueError):
        assert read_annotations(complete | found, ("10.244.1.0/24",)).vtep_mac


def test_annotations() -> None:
    """Are read as they are written; the JSON has the form that flannel's own reader needs."""
    written = flannel.write_annotations(OURS, 1)
    assert written == {
        "kube-subnet-manager": "true",
        "backend-type": "vxlan",
        "backend-data": '{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}',
        "public-ip": "192.0.2.1",
    }
    node = read_annotations(dict.fromkeys(flannel.ANNOTATIONS, "") | written, ("10.244.1.0/24",))
    assert node == Node("", ("192.0.2.1",), ("10.244.1.0/24",), MAC, vni=1)
    with pytest.raises(ValueError, match="no annotations of flannel yet"):
        read_annotations(dict.fromkeys(flannel.ANNOTATIONS, ""), ("10.244.1.0/24",))


def conf(**keys: object) -> NetConf:
    """A configuration with the backend vxlan."""
    return read_net_conf(json.dumps({"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}} | keys).encode())


def test_the_defaults_of_a_network() -> None:
    """As in flannel: the first subnet is skipped, the port is the kernel's; keys are case-insensitive."""
    assert conf() == NetConf(("10.244.0.0/16",), (24,), ("10.244.0.0/24",), 1, 8472)
    spelled = conf(network="10.5.0.0/23", backend={"type": "vxlan", "vni": 9, "PORT": 4789})
    assert spelled == NetConf(("10.5.0.0/23",), (25,), ("10.5.0.0/25",), 9, 4789)


def test_a_range_of_subnets() -> None:
    """What is before the first subnet and after the last one is no node's."""
    found = conf(SubnetLen=20, SubnetMin="10.244.16.0", SubnetMax="10.244.192.0")
    assert found.outside == ("10.244.0.0/20", "10.244.208.0/20", "10.244.224.0/19")
    assert found.fits(("10.244.192.0/20",))
    for subnets in (
        ("10.244.208.0/20",),
        ("10.244.16.0/24",),
        ("10.245.16.0/20",),
        (),
        ("10.244.16.0/20", "fd00::/64"),
    ):
        assert not found.fits(subnets)


def test_two_families() -> None:
    """With EnableIPv6 there is a network of each."""
    found = conf(EnableIPv6=True, IPv6Network="fd00:244::/48")
    assert found == NetConf(("10.244.0.0/16", "fd00:244::/48"), (24, 64), ("10.244.0.0/24", "fd00:244::/64"), 1, 8472)
    assert found.fits(("10.244.1.0/24", "fd00:244:0:1::/64"))


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"Backend": None}, 'the backend is "udp"'),
        ({"Backend": {"Type": "host-gw"}}, 'the backend is "host-gw"'),
        ({"EnableIPv4": False}, '"EnableIPv4" is false'),
        ({"Network": None}, "invalid CIDR"),
        ({"Network": "fd00::/48"}, "has no room for four subnets"),
        ({"SubnetLen": 17}, "has no room for four subnets of /17"),
        ({"SubnetMin": "10.244.0.1"}, '"SubnetMin": 10.244.0.1 is not the first address of a subnet'),
        ({"SubnetMax": "10.245.0.0"}, '"SubnetMax"'),
        ({"EnableIPv6": True}, "invalid CIDR"),
    ],
)
def test_wrong_networks(keys: dict, why: str) -> None:
    """The sentence says what is wrong."""
    with pytest.raises(ValueError, match=why):
        conf(**keys)


@given(anything)
def test_any_network_is_read_or_refused(value: object) -> None:
    """Whatever somebody has written."""
    base = {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}
    for each in (value, base | value if isinstance(value, dict) else value):
        with suppress(ValueError):
            read_net_conf(json.dumps(each).encode())
