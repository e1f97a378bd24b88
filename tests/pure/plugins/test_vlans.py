"""The VLANs that a pod's bridge port should have, and the changes that set them."""

from types import SimpleNamespace

import pytest

from plugins.pod import vlans
from plugins.pod.conf import PodConf

NATIVE = 0x2 | 0x4
PLAIN = {"bridge": "b0", "ipam_type": ""}


def bridge(default_vlan: int = 1) -> SimpleNamespace:
    """The part of a bridge that is read: the default VLAN of new ports."""
    return SimpleNamespace(default_vlan=default_vlan)


@pytest.mark.parametrize(
    ("conf", "default", "wanted"),
    [
        ({}, 1, {}),
        ({"vlan": 100}, 1, {100: True}),
        ({"trunk": (5, 7)}, 1, {5: False, 7: False, 1: True}),
        ({"vlan": 7, "trunk": (5, 7)}, 1, {5: False, 7: True}),
        ({"trunk": ()}, 1, {1: True}),
        ({"trunk": ()}, 5, {5: True}),
        ({"trunk": (5, 7)}, 5, {5: True, 7: False}),
        ({"trunk": (7,)}, 0, {7: False, 1: True}),
        ({"vlan": 7}, 5, {7: True}),
    ],
)
def test_wanted_vlans(conf: dict, default: int, wanted: dict[int, bool]) -> None:
    """`vlan` is native, `vlanTrunk` tagged; with a trunk alone the bridge's default VLAN, or VLAN 1, is native."""
    assert vlans.desired(PodConf(**PLAIN, **conf), default) == wanted


class Port:
    """A bridge port's VLANs, which change as in the kernel."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, has: dict[int, int]) -> None:
        self.has, self.listed = has, 0
        monkeypatch.setattr(vlans, "list_vlans", self.list)
        monkeypatch.setattr(vlans, "delete_vlan", lambda _, __, vlan: self.has.pop(vlan, None))
        monkeypatch.setattr(vlans, "add_vlan", self.add)

    def list(self, _: object) -> dict[int, dict[int, int]]:
        """The VLANs of all ports."""
        self.listed += 1
        return {3: dict(self.has)}

    def add(self, _: object, __: int, vlan: int, *, native: bool) -> None:
        """Like the kernel's br_vlan_add: adding a VLAN again changes it."""
        self.has[vlan] = NATIVE if native else 0


@pytest.mark.parametrize("default", [1, 5])
def test_the_default_vlan_is_removed_unless_it_is_preserved(monkeypatch: pytest.MonkeyPatch, default: int) -> None:
    """The VLAN that the kernel gives every port is removed; preserveDefaultVlan keeps it.

    The VLANs of all ports are not listed: there may be many ports.
    """
    port = Port(monkeypatch, {default: NATIVE})
    vlans.set_port(None, 3, bridge(default), PodConf(**PLAIN, vlan=100))
    assert port.has == {100: NATIVE}
    port.has = {default: NATIVE}
    vlans.set_port(None, 3, bridge(default), PodConf(**PLAIN, vlan=100, preserve_default_vlan=True))
    assert port.has == {default: NATIVE, 100: NATIVE}
    assert port.listed == 0


def test_a_gateway_s_port_has_only_the_vlan_of_its_pods(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pods' trunk and a preserved default VLAN are not added to it, and are removed if present."""
    port = Port(monkeypatch, {1: NATIVE, 42: 0})
    vlans.set_gateway_port(None, 3, PodConf(**PLAIN, vlan=100, trunk=(42,), preserve_default_vlan=True))
    assert port.has == {100: NATIVE}
    port.has = {100: 0}
    vlans.set_gateway_port(None, 3, PodConf(**PLAIN, vlan=100))
    assert port.has == {100: NATIVE}


def test_check_reports_missing_and_unexpected_vlans(monkeypatch: pytest.MonkeyPatch) -> None:
    """A VLAN that is missing, one that is tagged instead of native, and one that is not configured."""
    port = Port(monkeypatch, {1: NATIVE, 7: 0, 9: 0})
    conf = PodConf(**PLAIN, vlan=7, trunk=(5,))
    assert vlans.differences(None, 3, bridge(), conf) == [
        "VLAN 5 is not tagged on the port",
        "VLAN 7 is not native on the port",
        "VLAN 1 is on the port, but not configured",
        "VLAN 9 is on the port, but not configured",
    ]
    port.has = {1: 0x4, 7: NATIVE, 5: 0}
    kept = PodConf(**PLAIN, vlan=7, trunk=(5,), preserve_default_vlan=True)
    assert vlans.differences(None, 3, bridge(), kept) == []
    assert vlans.differences(None, 3, bridge(), PodConf(**PLAIN)) == []
