"""The IPAM plugin `host-local`: the addresses that it leases, and the lease files."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conformance.support import NETWORKS, V4, V6, Refused, addresses, host_local, leases, network
from tests.netns.cni import CNI
from tests.netns.node import Node, Pod

SMALL = {"subnet": "10.1.2.0/29"}  # the gateway .1, and .2 to .6


def given(ipam: CNI, conf: Mapping, node: Node, count: int) -> list[str]:
    """The first address of each of `count` new pods."""
    return [addresses(ipam.add(conf, Pod(node, f"pod{i}"), netns="/run/netns/any"))[0] for i in range(count)]


def test_addresses_are_given_in_order(ipam: CNI, node: Node) -> None:
    """From the first address of the range to the last before the broadcast address, without the gateway."""
    assert given(ipam, network(host_local(SMALL)), node, 5) == [f"10.1.2.{i}" for i in range(2, 7)]


def test_released_address_rests_until_the_range_is_through(ipam: CNI, node: Node) -> None:
    """A released address is not leased to the next pod while others are free."""
    conf = network(host_local(SMALL))
    given(ipam, conf, node, 2)
    ipam.delete(conf, Pod(node, "pod1"))
    assert addresses(ipam.add(conf, Pod(node, "next"))) == ["10.1.2.4"]


def test_range_is_gone_round(ipam: CNI, node: Node) -> None:
    """After the last address of the range, released addresses are leased again."""
    conf = network(host_local(SMALL))
    given(ipam, conf, node, 5)
    for name in ("pod1", "pod3"):
        ipam.delete(conf, Pod(node, name))
    assert given(ipam, conf, node, 0) == []
    assert [addresses(ipam.add(conf, Pod(node, f"late{i}")))[0] for i in range(2)] == ["10.1.2.3", "10.1.2.5"]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"rangeStart": "10.1.2.10", "rangeEnd": "10.1.2.12"}, ["10.1.2.10", "10.1.2.11", "10.1.2.12"]),
        ({"rangeStart": "10.1.2.253"}, ["10.1.2.253", "10.1.2.254"]),
        ({"rangeEnd": "10.1.2.2", "gateway": "10.1.2.200"}, ["10.1.2.1", "10.1.2.2"]),
        ({"rangeStart": "10.1.2.10", "rangeEnd": "10.1.2.12", "gateway": "10.1.2.11"}, ["10.1.2.10", "10.1.2.12"]),
    ],
)
def test_range_within_the_subnet(ipam: CNI, node: Node, limits: dict, expected: list[str], refused: Refused) -> None:
    """rangeStart and rangeEnd (inclusive) limit the addresses, the gateway is never leased; then the range is full."""
    conf = network(host_local(V4 | limits))
    assert given(ipam, conf, node, len(expected)) == expected
    with refused():
        ipam.add(conf, Pod(node, "one-too-many"))


def test_ranges_of_one_set_follow_each_other(ipam: CNI, node: Node) -> None:
    """When the first range of a set is exhausted, addresses come from the second, with its prefix and gateway."""
    conf = network({"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/30"}, {"subnet": "10.1.8.0/24"}]]})
    assert given(ipam, conf, node, 3) == ["10.1.2.2", "10.1.8.2", "10.1.8.3"]
    result = ipam.add(conf, Pod(node, "next"))
    assert result["ips"] == [{"address": "10.1.8.4/24", "gateway": "10.1.8.1"}]


def test_every_set_gives_one_address(ipam: CNI, pod: Pod) -> None:
    """Three sets of two families give three addresses, in the order of the sets."""
    result = ipam.add(network(host_local(V6, V4, {"subnet": "10.1.8.0/24"})), pod)
    assert [ip["address"] for ip in result["ips"]] == ["fd00:1::2/64", "10.1.2.2/24", "10.1.8.2/24"]


def test_subnet_without_ranges(ipam: CNI, pod: Pod) -> None:
    """The short form: `subnet` in the ipam section itself, with its own rangeStart and gateway."""
    conf = {"type": "host-local", "subnet": "10.1.2.0/24", "rangeStart": "10.1.2.50", "gateway": "10.1.2.254"}
    assert ipam.add(network(conf), pod)["ips"] == [{"address": "10.1.2.50/24", "gateway": "10.1.2.254"}]


def test_routes_are_returned(ipam: CNI, pod: Pod) -> None:
    """The result has the routes of the configuration, with every attribute of 1.1.0."""
    routes = [
        {"dst": "0.0.0.0/0"},
        {"dst": "10.9.0.0/16", "gw": "10.1.2.9", "mtu": 1300, "advmss": 1200, "priority": 7, "table": 100, "scope": 0},
    ]
    assert ipam.add(network(host_local(routes=routes)), pod)["routes"] == routes


def test_resolv_conf_is_the_dns_of_the_result(ipam: CNI, pod: Pod, tmp_path: Path) -> None:
    """Nameservers, domain, search and options are read from the file resolvConf; comments are ignored."""
    file = tmp_path / "resolv.conf"
    file.write_text("# ours\nnameserver 10.1.2.53\nnameserver fd00:1::53\ndomain example.org\nsearch a.org b.org\n"
                    "options ndots:5 rotate\n;nameserver 192.0.2.1\n")  # fmt: skip
    dns = ipam.add(network(host_local(resolvConf=str(file))), pod)["dns"]
    assert dns["nameservers"] == ["10.1.2.53", "fd00:1::53"]
    assert (dns["domain"], dns["search"], dns["options"]) == ("example.org", ["a.org", "b.org"], ["ndots:5", "rotate"])


@pytest.mark.parametrize(
    "request_",
    [
        {"runtimeConfig": {"ips": ["10.1.2.77/24"]}},
        {"runtimeConfig": {"ips": ["10.1.2.77"]}},
        {"args": {"cni": {"ips": ["10.1.2.77"]}}},
        "IP=10.1.2.77",
        "IgnoreUnknown=1;IP=10.1.2.77/24;K8S_POD_NAME=a",
    ],
    ids=["capability", "capability without prefix", "args", "CNI_ARGS", "CNI_ARGS with prefix"],
)
def test_requested_address_is_given(ipam: CNI, pod: Pod, request_: dict | str) -> None:
    """An address requested with the ips capability, args.cni.ips or CNI_ARGS is leased."""
    keys, args = ({}, request_) if isinstance(request_, str) else (request_, "")
    assert ipam.add(network() | keys, pod, args=args)["ips"][0]["address"] == "10.1.2.77/24"


def test_requested_addresses_of_both_families(ipam: CNI, pod: Pod) -> None:
    """One address can be requested in each set; a set without a request gives its next address."""
    conf = network(host_local(V4, V6, {"subnet": "10.1.8.0/24"}))
    result = ipam.add(conf | {"runtimeConfig": {"ips": ["fd00:1::77", "10.1.2.77"]}}, pod)
    assert addresses(result) == ["10.1.2.77", "fd00:1::77", "10.1.8.2"]


@pytest.mark.parametrize("address", ["10.1.2.1", "10.1.2.2", "10.200.0.9", "10.1.2.255", "10.1.2.0", "no-address"])
def test_requested_address_that_can_not_be_had_is_an_error(
    ipam: CNI, pod: Pod, other: Pod, address: str, refused: Refused
) -> None:
    """A gateway, leased, out-of-range, broadcast, network or invalid address is an error, and nothing is leased."""
    ipam.add(network(), other)
    with refused():
        ipam.add(network() | {"runtimeConfig": {"ips": [address]}}, pod)
    assert leases(pod.node) == {"10.1.2.2": f"{other.name}\r\neth0"}


def test_ranges_by_capability(ipam: CNI, pod: Pod) -> None:
    """The range sets of the ipRanges capability come before those of the configuration."""
    ranges = [[{"subnet": "10.1.9.0/24", "rangeStart": "10.1.9.9", "gateway": "10.1.9.254"}]]
    result = ipam.add(network() | {"runtimeConfig": {"ipRanges": ranges}}, pod)
    assert [ip["address"] for ip in result["ips"]] == ["10.1.9.9/24", "10.1.2.2/24"]
    assert result["ips"][0]["gateway"] == "10.1.9.254"


def test_second_lease_of_the_same_attachment_is_refused(ipam: CNI, node: Node, pod: Pod, refused: Refused) -> None:
    """A second ADD for the same container and ifname is an error, and the first lease stays; eth1 gets its own."""
    ipam.add(network(), pod)
    with refused():
        ipam.add(network(), pod)
    ipam.add(network(), pod, ifname="eth1")
    assert leases(node) == {"10.1.2.2": f"{pod.name}\r\neth0", "10.1.2.3": f"{pod.name}\r\neth1"}


def test_failed_request_leaves_earlier_leases(ipam: CNI, node: Node, pod: Pod, refused: Refused) -> None:
    """A failed ADD releases only what it leased itself: an earlier lease of the attachment stays."""
    conf = network(host_local(V4, SMALL | {"subnet": "10.1.8.0/30"}))
    result = ipam.add(conf, pod)
    with refused():
        ipam.add(conf | {"runtimeConfig": {"ips": ["10.1.2.77", "10.1.8.1"]}}, pod)
    assert set(leases(node)) == set(addresses(result))


def test_lease_files(ipam: CNI, node: Node, pod: Pod) -> None:
    """A lease is a file named after the address, with container id and ifname as content: other tools read it."""
    ipam.add(network(host_local(V4, V6)), pod)
    owner = f"{pod.name}\r\neth0"
    assert leases(node) == {"10.1.2.2": owner, "fd00:1::2": owner}
    assert node.path(f"{NETWORKS}/net/last_reserved_ip.0").read_text().strip() == "10.1.2.2"


def test_data_dir(ipam: CNI, node: Node, pod: Pod) -> None:
    """dataDir is where the leases are, in one folder per network."""
    ipam.add(network(host_local(dataDir="/run/leases")), pod)
    assert set(leases(node, "/run/leases/net")) == {"10.1.2.2"}
    assert leases(node) == {}


def test_networks_are_separate(ipam: CNI, node: Node, pod: Pod, other: Pod) -> None:
    """Two networks with the same range lease the same addresses independently."""
    assert addresses(ipam.add(network(), pod)) == ["10.1.2.2"]
    assert addresses(ipam.add(network(name="net2"), other)) == ["10.1.2.2"]
    ipam.delete(network(name="net2"), other)
    assert set(leases(node)) == {"10.1.2.2"}


def test_release_is_by_owner(ipam: CNI, node: Node, pod: Pod) -> None:
    """DEL releases what the attachment owns and nothing else, even if the configured range has changed since."""
    given(ipam, network(), node, 2)
    ipam.delete(network(host_local({"subnet": "10.5.0.0/16"})), Pod(node, "pod0"))
    assert leases(node) == {"10.1.2.3": "pod1\r\neth0"}


def test_similar_container_ids_are_told_apart(ipam: CNI, node: Node) -> None:
    """DEL of a container id that is a prefix of another does not release the other's lease."""
    for name in ("pod1", "pod11", "pod"):
        ipam.add(network(), Pod(node, name))
    ipam.delete(network(), Pod(node, "pod1"))
    assert set(leases(node).values()) == {"pod\r\neth0", "pod11\r\neth0"}


def test_empty_lease_file_does_not_block_its_address_for_ever(ipam: CNI, node: Node) -> None:
    """A crash can leave a lease file without an owner: its address is leased before the range counts as exhausted."""
    conf = network(host_local({"subnet": "10.1.2.0/30"}))
    node.path(f"{NETWORKS}/net").mkdir(parents=True, exist_ok=True)
    node.path(f"{NETWORKS}/net/10.1.2.2").write_bytes(b"")
    assert addresses(ipam.add(conf, Pod(node, "pod1"))) == ["10.1.2.2"]


@pytest.mark.parametrize(
    "section",
    [
        {"type": "host-local"},
        host_local({}),
        host_local({"subnet": "10.1.2.0"}),
        host_local({"subnet": "10.1.2.3/24"}),
        host_local({"subnet": "10.1.2.0/31"}),
        host_local({"subnet": "10.1.2.0/32"}),
        host_local({"subnet": "300.1.2.0/24"}),
        host_local(V4 | {"rangeStart": "10.1.3.1"}),
        host_local(V4 | {"rangeEnd": "10.1.3.1"}),
        host_local(V4 | {"rangeStart": "10.1.2.9", "rangeEnd": "10.1.2.5"}),
        host_local(V4 | {"gateway": "not-an-address"}),
        host_local(V4, V4),
        {"type": "host-local", "ranges": [[V4, V6]]},
        {"type": "host-local", "ranges": [[V4, V4]]},
        {"type": "host-local", "ranges": [[]]},
        host_local(routes=[{"dst": "nowhere"}]),
        host_local(resolvConf="/run/no-such-file"),
    ],
    ids=["no range", "no subnet", "no prefix", "host bits", "31 bits", "32 bits", "no address", "start outside",
         "end outside", "end before start", "gateway", "sets overlap", "families mixed", "ranges overlap",
         "empty set", "route", "resolvConf"],
)  # fmt: skip
def test_impossible_configuration_is_refused(ipam: CNI, node: Node, pod: Pod, section: dict, refused: Refused) -> None:
    """An invalid ipam section is an error, and nothing is leased."""
    with refused():
        ipam.add(network(section), pod)
    assert leases(node) == {}


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_two_addresses_of_a_family_do_not_fit_old_versions(
    ipam: CNI, node: Node, pod: Pod, version: str, refused: Refused
) -> None:
    """Results before 0.3.0 have room for one address of each family: more is an error instead of a silent loss."""
    with refused():
        ipam.add(network(host_local(V4, {"subnet": "10.1.8.0/24"}), version=version), pod)
    assert leases(node) == {}
