"""The VTEP as the kernel has it, told by `ip`: made, corrected in place, replaced, and left alone."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from linux.ethtool import has_tx_checksum, set_tx_checksum
from linux.netlink.socket import Netlink, NetlinkError
from linux.rtnl.links import find_link
from linux.rtnl.vxlan import OWNER, delete_vtep, differences, ensure_vtep
from tests.netns.node import Node
from tests.netns.overlay_tools import (
    DEVICE,
    UNDERLAY_V4,
    UNDERLAY_V6,
    give_underlay,
    inside,
    own_addresses,
    shell,
    vtep,
)

ADDRESSES = own_addresses(1)


@pytest.fixture
def netlink(node: Node) -> Iterator[Netlink]:
    """A socket on a node with an underlay; the test's thread is there too."""
    shell(node, "ip link add wan0 type veth peer name wan1; ip link set wan1 up")
    give_underlay(node, 1)
    with inside(node) as made:
        yield made


@pytest.mark.parametrize(("underlay", "mtu"), [(UNDERLAY_V4, 1450), (UNDERLAY_V6, 1430)])
def test_the_device_is_made_as_flannel_makes_it(netlink: Netlink, node: Node, underlay: str, mtu: int) -> None:
    """VNI, port, addresses, no learning, no default destination; up, with its own MAC, and ours by its alias."""
    wanted = vtep(node, 1, underlay)
    link, replaced = ensure_vtep(netlink, wanted, ADDRESSES)
    assert not replaced
    shown = node.links()[DEVICE]
    assert (link.index, link.mac, link.up) == (shown["ifindex"], "02:24:0a:f4:01:00", True)
    assert (shown["mtu"], shown["address"], shown["ifalias"]) == (mtu, "02:24:0a:f4:01:00", OWNER)
    data = shown["linkinfo"]["info_data"]
    assert (data["id"], data["port"], data["link"], data["learning"]) == (1, 4789, "wan0", False)
    assert data.get("local", data.get("local6")) == underlay.format(1)
    assert not {"group", "remote", "group6", "remote6", "external", "gbp", "gpe"} & data.keys()
    assert node.addresses(DEVICE) == set(ADDRESSES)
    assert "fe80" not in node.run(["ip", "addr", "show", "dev", DEVICE]).stdout
    assert node.sysctl(f"ipv6/conf/{DEVICE}/accept_ra") == "0"
    assert node.run(["bridge", "fdb", "show", "dev", DEVICE]).stdout == ""


def test_udev_takes_the_mac_for_given(netlink: Netlink, node: Node) -> None:
    """The kernel says NET_ADDR_SET (3): udev's MACAddressPolicy=persistent leaves such a device alone."""
    ensure_vtep(netlink, vtep(node, 1), ADDRESSES)
    assert node.run(["cat", f"/sys/class/net/{DEVICE}/addr_assign_type"]).stdout == "3\n"


def test_a_device_that_is_right_is_left_alone(netlink: Netlink, node: Node) -> None:
    """The same once more: the same device, nothing to tell."""
    wanted = vtep(node, 1)
    link, _ = ensure_vtep(netlink, wanted, ADDRESSES)
    assert ensure_vtep(netlink, wanted, ADDRESSES) == (link, False)
    assert differences(netlink, wanted, ADDRESSES) == []


def test_no_device_is_told_by_one_sentence(netlink: Netlink, node: Node) -> None:
    """CHECK before any ADD."""
    assert differences(netlink, vtep(node, 1), ADDRESSES) == ["slash24.1 is missing"]


REPLACEMENTS = {
    "VNI": (f"ip link add {DEVICE} type vxlan id 2 dev wan0 local 192.0.2.1 dstport 4789 nolearning", "VNI 2, not 1"),
    "port": (f"ip link add {DEVICE} type vxlan id 1 dev wan0 local 192.0.2.1 dstport 8472 nolearning", "port 8472"),
    "parent": (f"ip link add {DEVICE} type vxlan id 1 dev wan1 local 192.0.2.1 dstport 4789 nolearning", "parent"),
    "no parent": (f"ip link add {DEVICE} type vxlan id 1 local 192.0.2.1 dstport 4789 nolearning", "parent None"),
    "local": (f"ip link add {DEVICE} type vxlan id 1 dev wan0 local 192.0.2.9 dstport 4789 nolearning", "192.0.2.9"),
    "family": (
        f"ip link add {DEVICE} type vxlan id 1 dev wan0 local 2001:db8:1::1 dstport 4789 nolearning",
        "local 2001:db8:1::1, not 192.0.2.1",
    ),
    "learning": (f"ip link add {DEVICE} type vxlan id 1 dev wan0 local 192.0.2.1 dstport 4789", "learning 1, not 0"),
    "group": (
        f"ip link add {DEVICE} type vxlan id 1 dev wan0 local 192.0.2.1 dstport 4789 nolearning group 239.1.1.1",
        "group 239.1.1.1",
    ),
    "metadata": (f"ip link add {DEVICE} type vxlan external dstport 4789", "external 1"),
    "policy": (f"ip link add {DEVICE} type vxlan id 1 dev wan0 local 192.0.2.1 dstport 4789 nolearning gbp", "gbp"),
}


@pytest.mark.parametrize("case", REPLACEMENTS)
def test_a_device_with_other_parameters_is_replaced(netlink: Netlink, node: Node, case: str) -> None:
    """What a device is made with is told if it differs; another device takes its name and nothing else."""
    command, told = REPLACEMENTS[case]
    shell(node, f"{command}; ip link set {DEVICE} up")
    before = node.links()[DEVICE]["ifindex"]
    wanted = vtep(node, 1)
    assert any(told in sentence for sentence in differences(netlink, wanted, ADDRESSES))
    link, replaced = ensure_vtep(netlink, wanted, ADDRESSES)
    assert replaced
    assert link.index != before
    assert differences(netlink, wanted, ADDRESSES) == []


CORRECTIONS = {
    "MTU": (f"ip link set {DEVICE} mtu 1400", "slash24.1 has mtu 1400, not 1450"),
    "MAC": (
        f"ip link set {DEVICE} address 02:00:00:00:00:01",
        "slash24.1 has MAC 02:00:00:00:00:01, not 02:24:0a:f4:01:00",
    ),
    "down": (f"ip link set {DEVICE} down", "slash24.1 has state down, not up"),
    "IPv4 address gone": (f"ip addr del 10.244.1.0/32 dev {DEVICE}", "slash24.1 lacks the address 10.244.1.0/32"),
    "IPv6 address gone": (
        f"ip addr del fd00:244:0:1::/128 dev {DEVICE}",
        "slash24.1 lacks the address fd00:244:0:1::/128",
    ),
    "address of yesterday": (
        f"ip addr add 10.99.1.0/32 dev {DEVICE}",
        "slash24.1 has the address 10.99.1.0/32, which is not its own",
    ),
}


@pytest.mark.parametrize("case", CORRECTIONS)
def test_what_can_be_corrected_in_place_is(netlink: Netlink, node: Node, case: str) -> None:
    """MTU, MAC, state and addresses are told and put right; the device stays, and its entries with it."""
    command, told = CORRECTIONS[case]
    wanted = vtep(node, 1)
    link, _ = ensure_vtep(netlink, wanted, ADDRESSES)
    shell(node, f"bridge fdb add 02:00:00:00:00:02 dev {DEVICE} self permanent dst 192.0.2.2; {command}")
    assert told in differences(netlink, wanted, ADDRESSES)
    corrected, replaced = ensure_vtep(netlink, wanted, ADDRESSES)
    assert (corrected, replaced) == (link, False)
    assert differences(netlink, wanted, ADDRESSES) == []
    assert "02:00:00:00:00:02" in node.run(["bridge", "fdb", "show", "dev", DEVICE]).stdout


def test_a_device_like_ours_is_adopted(netlink: Netlink, node: Node) -> None:
    """One that another program made with the same parameters goes on, and is ours from then on."""
    shell(node, f"ip link add {DEVICE} type vxlan id 1 dev wan0 local 192.0.2.1 dstport 4789 nolearning")
    before = node.links()[DEVICE]["ifindex"]
    link, replaced = ensure_vtep(netlink, vtep(node, 1), ADDRESSES)
    assert (link.index, link.alias, replaced) == (before, OWNER, False)


def test_a_link_of_another_kind_keeps_its_name(netlink: Netlink, node: Node) -> None:
    """A bridge that has the name by mistake of the configuration is not deleted."""
    shell(node, f"ip link add {DEVICE} type bridge")
    with pytest.raises(NetlinkError, match='link "slash24.1" is of kind bridge, not vxlan'):
        ensure_vtep(netlink, vtep(node, 1), ADDRESSES)
    assert differences(netlink, vtep(node, 1), ADDRESSES) == ["slash24.1 is not a vxlan device"]
    assert not delete_vtep(netlink, DEVICE)
    assert node.links()[DEVICE]["linkinfo"]["info_kind"] == "bridge"


def test_another_device_with_the_same_vni_and_port_is_told(netlink: Netlink, node: Node) -> None:
    """flannel is still running, say: the device is named, and nothing is left behind."""
    shell(node, "ip link add flannel.1 type vxlan id 1 dev wan0 local 192.0.2.1 dstport 4789 nolearning")
    with pytest.raises(NetlinkError, match="VNI 1 on UDP port 4789 is taken by .flannel.1"):
        ensure_vtep(netlink, vtep(node, 1), ADDRESSES)
    assert DEVICE not in node.links()


def test_an_mtu_that_the_parent_can_not_carry_is_an_error(netlink: Netlink, node: Node) -> None:
    """Not the kernel's silent choice of a smaller one."""
    with pytest.raises(NetlinkError, match="Invalid argument"):
        ensure_vtep(netlink, vtep(node, 1, mtu=1451), ADDRESSES)


def test_only_a_device_of_ours_is_deleted(netlink: Netlink, node: Node) -> None:
    """By its alias; once more is no error."""
    ensure_vtep(netlink, vtep(node, 1), ADDRESSES)
    shell(node, "ip link add flannel.2 type vxlan id 2 dev wan0 local 192.0.2.1 dstport 4789 nolearning")
    assert not delete_vtep(netlink, "flannel.2")
    assert delete_vtep(netlink, DEVICE)
    assert not delete_vtep(netlink, DEVICE)
    assert "flannel.2" in node.links()


def test_checksums_are_taken_from_the_device_and_by_hand_given_back(netlink: Netlink, node: Node) -> None:
    """`tx_checksum` False switches the offload off; True leaves what somebody has switched by hand."""
    with_offload, without = vtep(node, 1), vtep(node, 1, tx_checksum=False)
    link, _ = ensure_vtep(netlink, with_offload, ADDRESSES)
    assert has_tx_checksum(DEVICE)
    assert differences(netlink, without, ADDRESSES) == ["slash24.1 has tx-checksumming enabled"]
    assert ensure_vtep(netlink, without, ADDRESSES)[0].index == link.index
    assert not has_tx_checksum(DEVICE)
    assert differences(netlink, without, ADDRESSES) == []
    ensure_vtep(netlink, with_offload, ADDRESSES)
    assert not has_tx_checksum(DEVICE)
    set_tx_checksum(DEVICE, on=True)
    assert has_tx_checksum(DEVICE)


def test_many_at_once_make_one_device(netlink: Netlink, node: Node) -> None:
    """Eight ADDs while a device with other parameters stands there: all succeed, with the same device."""
    shell(node, f"ip link add {DEVICE} type vxlan id 2 dev wan0 local 192.0.2.1 dstport 4789")
    wanted, seen, failures = vtep(node, 1), [], []

    def one() -> None:
        try:
            with inside(node) as own:
                seen.append(ensure_vtep(own, wanted, ADDRESSES)[0].index)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert set(seen) == {find_link(netlink, DEVICE).index}
    assert differences(netlink, wanted, ADDRESSES) == []
    assert differences(netlink, replace(wanted, vni=2), ADDRESSES) == ["slash24.1 has VNI 1, not 2"]


def test_the_device_of_an_earlier_configuration_goes(netlink: Netlink, node: Node) -> None:
    """Ours with the same addresses, under another name; not somebody else's, nor ours of another network."""
    ensure_vtep(netlink, vtep(node, 1), ADDRESSES)
    other = replace(vtep(node, 1), name="slash24.9", vni=9)
    ensure_vtep(netlink, other, ["10.9.1.0/32"])
    shell(node, f"ip link add foreign type bridge\nip addr add {ADDRESSES[0]} dev foreign")
    link, replaced = ensure_vtep(netlink, replace(vtep(node, 1), name="slash24.2", vni=2), ADDRESSES)
    assert (link.name, replaced) == ("slash24.2", True)
    assert {name for name in node.links() if name.startswith(("slash24", "foreign"))} == {
        "slash24.2",
        "slash24.9",
        "foreign",
    }


def test_the_guard_is_up_before_the_device(netlink: Netlink, node: Node) -> None:
    """It finds the device with the right parameters, and down; or, if it is there already, as it is."""
    seen = []

    def guard() -> None:
        link = node.links()[DEVICE]
        seen.append((link["linkinfo"]["info_data"]["id"], "UP" in link["flags"]))

    for vni in (1, 1, 2):
        ensure_vtep(netlink, replace(vtep(node, 1), vni=vni), ADDRESSES, guard)
    assert seen == [(1, False), (1, True), (2, False)]
