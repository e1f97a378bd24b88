"""The VTEP in the kernel, checked with `ip`: created, corrected in place, replaced, and left alone."""

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
    """A socket on a node with an underlay; the test's thread enters that node too."""
    shell(node, "ip link add wan0 type veth peer name wan1; ip link set wan1 up")
    give_underlay(node, 1)
    with inside(node) as made:
        yield made


@pytest.mark.parametrize(("underlay", "mtu"), [(UNDERLAY_V4, 1450), (UNDERLAY_V6, 1430)])
def test_the_device_is_made_as_flannel_makes_it(netlink: Netlink, node: Node, underlay: str, mtu: int) -> None:
    """VNI, port, addresses, no learning, no default destination; up, with its computed MAC and our alias."""
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


def test_udev_leaves_the_mac_alone(netlink: Netlink, node: Node) -> None:
    """addr_assign_type is NET_ADDR_SET (3), so udev's MACAddressPolicy=persistent does not apply."""
    ensure_vtep(netlink, vtep(node, 1), ADDRESSES)
    assert node.run(["cat", f"/sys/class/net/{DEVICE}/addr_assign_type"]).stdout == "3\n"


def test_a_correct_device_is_left_alone(netlink: Netlink, node: Node) -> None:
    """A second call returns the same device, and there are no differences to report."""
    wanted = vtep(node, 1)
    link, _ = ensure_vtep(netlink, wanted, ADDRESSES)
    assert ensure_vtep(netlink, wanted, ADDRESSES) == (link, False)
    assert differences(netlink, wanted, ADDRESSES) == []


def test_a_missing_device_is_the_only_difference_reported(netlink: Netlink, node: Node) -> None:
    """This is what CHECK reports before any ADD."""
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
    """A parameter that is fixed at creation is reported if it differs; the new device takes over the name only."""
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
def test_mtu_mac_state_and_addresses_are_corrected_in_place(netlink: Netlink, node: Node, case: str) -> None:
    """They are reported and corrected; the device stays, and its FDB entries with it."""
    command, told = CORRECTIONS[case]
    wanted = vtep(node, 1)
    link, _ = ensure_vtep(netlink, wanted, ADDRESSES)
    shell(node, f"bridge fdb add 02:00:00:00:00:02 dev {DEVICE} self permanent dst 192.0.2.2; {command}")
    assert told in differences(netlink, wanted, ADDRESSES)
    corrected, replaced = ensure_vtep(netlink, wanted, ADDRESSES)
    assert (corrected, replaced) == (link, False)
    assert differences(netlink, wanted, ADDRESSES) == []
    assert "02:00:00:00:00:02" in node.run(["bridge", "fdb", "show", "dev", DEVICE]).stdout


def test_a_foreign_device_with_our_parameters_is_adopted(netlink: Netlink, node: Node) -> None:
    """A device that another program created with the same parameters is kept, and gets our alias."""
    shell(node, f"ip link add {DEVICE} type vxlan id 1 dev wan0 local 192.0.2.1 dstport 4789 nolearning")
    before = node.links()[DEVICE]["ifindex"]
    link, replaced = ensure_vtep(netlink, vtep(node, 1), ADDRESSES)
    assert (link.index, link.alias, replaced) == (before, OWNER, False)


def test_a_link_of_another_kind_is_not_deleted(netlink: Netlink, node: Node) -> None:
    """A bridge whose name was configured by mistake stays."""
    shell(node, f"ip link add {DEVICE} type bridge")
    with pytest.raises(NetlinkError, match='link "slash24.1" is of kind bridge, not vxlan'):
        ensure_vtep(netlink, vtep(node, 1), ADDRESSES)
    assert differences(netlink, vtep(node, 1), ADDRESSES) == ["slash24.1 is not a vxlan device"]
    assert not delete_vtep(netlink, DEVICE)
    assert node.links()[DEVICE]["linkinfo"]["info_kind"] == "bridge"


def test_another_device_with_the_same_vni_and_port_is_named(netlink: Netlink, node: Node) -> None:
    """For example, flannel is still running: the error names its device, and nothing is left behind."""
    shell(node, "ip link add flannel.1 type vxlan id 1 dev wan0 local 192.0.2.1 dstport 4789 nolearning")
    with pytest.raises(NetlinkError, match="VNI 1 on UDP port 4789 is taken by .flannel.1"):
        ensure_vtep(netlink, vtep(node, 1), ADDRESSES)
    assert DEVICE not in node.links()


def test_an_mtu_that_the_parent_cannot_carry_is_an_error(netlink: Netlink, node: Node) -> None:
    """The kernel does not silently choose a smaller one."""
    with pytest.raises(NetlinkError, match="Invalid argument"):
        ensure_vtep(netlink, vtep(node, 1, mtu=1451), ADDRESSES)


def test_only_our_own_device_is_deleted(netlink: Netlink, node: Node) -> None:
    """It is recognised by its alias; deleting it again is not an error."""
    ensure_vtep(netlink, vtep(node, 1), ADDRESSES)
    shell(node, "ip link add flannel.2 type vxlan id 2 dev wan0 local 192.0.2.1 dstport 4789 nolearning")
    assert not delete_vtep(netlink, "flannel.2")
    assert delete_vtep(netlink, DEVICE)
    assert not delete_vtep(netlink, DEVICE)
    assert "flannel.2" in node.links()


def test_tx_checksumming_is_disabled_but_never_enabled(netlink: Netlink, node: Node) -> None:
    """`tx_checksum` False disables the offload; True leaves it as it is, so only an administrator enables it again."""
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


def test_concurrent_calls_make_one_device(netlink: Netlink, node: Node) -> None:
    """Eight concurrent ADDs while a device with other parameters exists: all succeed, with the same device."""
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


def test_the_device_of_an_earlier_configuration_is_deleted(netlink: Netlink, node: Node) -> None:
    """It is ours and has the same addresses under another name; a foreign one, or ours of another network, stays."""
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


def test_the_guard_runs_before_the_device_is_up(netlink: Netlink, node: Node) -> None:
    """It sees a new device with its final parameters, but down; an existing device as it is."""
    seen = []

    def guard() -> None:
        link = node.links()[DEVICE]
        seen.append((link["linkinfo"]["info_data"]["id"], "UP" in link["flags"]))

    for vni in (1, 1, 2):
        ensure_vtep(netlink, replace(vtep(node, 1), vni=vni), ADDRESSES, guard)
    assert seen == [(1, False), (1, True), (2, False)]
