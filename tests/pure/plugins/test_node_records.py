"""Node records in the configuration and in files."""

import json
from pathlib import Path

import pytest

from plugins.node.records import Node, Records, parse_node, read_peers_file, read_subnet_file
from spec.config import Section
from spec.errors import CNIError

FLANNEL = """FLANNEL_NETWORK=10.244.0.0/16
FLANNEL_SUBNET=10.244.1.1/24
FLANNEL_IPV6_NETWORK=fd00:244::/48
FLANNEL_IPV6_SUBNET=fd00:244:0:1::1/64
FLANNEL_MTU=1450
FLANNEL_IPMASQ=true
"""


def test_flannel_s_subnet_env(tmp_path: Path) -> None:
    """FLANNEL_SUBNET is the subnet's first address; the subnet, the cluster's networks and the MTU are read."""
    path = tmp_path / "subnet.env"
    path.write_text(FLANNEL)
    found = read_subnet_file(str(path))
    assert found.subnets == ("10.244.1.0/24", "fd00:244:0:1::/64")
    assert found.cluster == ("10.244.0.0/16", "fd00:244::/48")
    assert found.mtu == 1450


def test_the_agent_s_record(tmp_path: Path) -> None:
    """A JSON record has the node's subnets, and may have the cluster's networks and an MTU."""
    path = tmp_path / "node.json"
    path.write_text(json.dumps({"name": "a", "podCIDRs": ["10.244.1.0/24"], "clusterCIDRs": ["10.244.0.0/16"]}))
    found = read_subnet_file(str(path))
    assert (found.subnets, found.cluster, found.mtu) == (("10.244.1.0/24",), ("10.244.0.0/16",), 0)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"podCIDRs": "all"}', "FLANNEL_MTU=x", "FLANNEL_SUBNET=10.0.0.1"])
def test_an_invalid_subnet_file_is_an_error(tmp_path: Path, text: str) -> None:
    """Error 11 with the file's path: the file may be complete a moment later."""
    path = tmp_path / "node.json"
    path.write_text(text)
    with pytest.raises(CNIError) as caught:
        read_subnet_file(str(path))
    assert caught.value.code == 11
    assert f'the subnet file "{path}" cannot be used' in caught.value.msg


def test_a_missing_subnet_file_is_an_error(tmp_path: Path) -> None:
    """Error 11 with the file's path."""
    with pytest.raises(CNIError) as caught:
        read_subnet_file(str(tmp_path / "none"))
    assert caught.value.code == 11
    assert "none" in caught.value.msg


def test_only_the_default_peers_file_may_be_missing(tmp_path: Path) -> None:
    """Without it there are no peers; a file that the configuration names must exist."""
    path = str(tmp_path / "peers.json")
    assert read_peers_file(path, required=False) == Records()
    with pytest.raises(CNIError) as caught:
        read_peers_file(path, required=True)
    assert caught.value.code == 11


def test_a_parsed_record_is_canonical() -> None:
    """Addresses and networks are canonical, the MAC is lower case."""
    raw = {"name": "b", "addresses": ["2001:DB8::2"], "podCIDRs": "10.244.2.0/24", "vtepMAC": "02:24:0A:F4:02:00"}
    wanted = Node("b", ("2001:db8::2",), ("10.244.2.0/24",), "02:24:0a:f4:02:00")
    assert parse_node(Section(raw)) == wanted


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"addresses": ["192.0.2.2"], "podCIDRs": ["10.244.2.1/24"]}, "without host bits"),
        ({"addresses": ["node-b"], "podCIDRs": ["10.244.2.0/24"]}, '"peers[0].addresses": expected an address'),
        ({"addresses": [2], "podCIDRs": ["10.244.2.0/24"]}, '"peers[0].addresses[0]": expected a string'),
    ],
)
def test_the_error_of_a_record_has_its_index(raw: dict, message: str) -> None:
    """And the key that is wrong."""
    with pytest.raises(CNIError) as caught:
        parse_node(Section(raw, "peers[0]"))
    assert caught.value.code == 7
    assert message in caught.value.msg


@pytest.mark.parametrize("nothing", [None, [], [None]])
def test_a_record_without_addresses_and_subnets_is_valid(nothing: list | None) -> None:
    """A node that has just joined has none; tools write [null] where they find nothing."""
    raw = {"name": "b", "addresses": nothing, "podCIDRs": nothing}
    assert parse_node(Section(raw)) == Node("b", (), ())


GOOD = {"name": "b", "addresses": ["192.0.2.2"], "podCIDRs": ["10.244.2.0/24"]}


@pytest.mark.parametrize(
    "bad",
    [
        None,
        7,
        "b",
        [],
        {"name": 7},
        {**GOOD, "podCIDRs": ["10.244.2.1/24"]},
        {**GOOD, "podCIDRs": ["10.244.2.0"]},
        {**GOOD, "podCIDRs": {"0": "10.244.2.0/24"}},
        {**GOOD, "podCIDRs": "10.244.2.0/24,fd00::/64"},
        {**GOOD, "addresses": ["192.0.2.256"]},
        {**GOOD, "addresses": ["fe80::1%eth0"]},
        {**GOOD, "addresses": 3221225986},
        {**GOOD, "vtepMAC": "01:00:5e:00:00:01"},
        {**GOOD, "vtepMAC": 7},
    ],
    ids=json.dumps,
)
def test_an_invalid_record_in_a_file_does_not_affect_the_others(tmp_path: Path, bad: object) -> None:
    """It is left out, and the reason has its index."""
    path = tmp_path / "peers.json"
    path.write_text(json.dumps({"peers": [GOOD, bad, {**GOOD, "name": "c"}]}))
    found = read_peers_file(str(path), required=True)
    assert [node.name for node in found.nodes] == ["b", "c"]
    assert len(found.left_out) == 1
    assert "peers[1]" in found.left_out[0]


@pytest.mark.parametrize(
    "text", ["", "{", "{}", "[]", "null", '{"peers": null}', '{"peers": {}}', '{"peers": [{}', "{}{}"]
)
def test_a_file_without_a_list_of_peers_is_an_error(tmp_path: Path, text: str) -> None:
    """Error 11: it does not show which peers were removed, so no route may be deleted because of it."""
    path = tmp_path / "peers.json"
    path.write_text(text)
    with pytest.raises(CNIError) as caught:
        read_peers_file(str(path), required=False)
    assert caught.value.code == 11
    assert str(path) in caught.value.msg


@pytest.mark.parametrize(
    ("node", "label"),
    [
        (Node("b", ("192.0.2.2",), ()), 'peer "b"'),
        (Node("", ("192.0.2.2",), ("10.244.2.0/24",)), "peer 192.0.2.2"),
        (Node("", (), ("10.244.2.0/24",)), "peer 10.244.2.0/24"),
        (Node("", (), (), place="peers[3]"), "peer peers[3]"),
        (Node("b\nfatal: all lost", (), ()), 'peer "b\\nfatal: all lost"'),
    ],
)
def test_the_label_of_a_peer(node: Node, label: str) -> None:
    """Its name, address, subnet or index, on one line whatever the record contains."""
    assert node.label == label
