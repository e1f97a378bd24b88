"""Which VLANs a pod's port is to have, and what is done to make it so."""

from types import SimpleNamespace

import pytest

from plugins.pod import vlans
from plugins.pod.conf import PodConf

NATIVE = 0x2 | 0x4
PLAIN = {"bridge": "b0", "ipam_type": ""}


def bridge(default_vlan: int = 1) -> SimpleNamespace:
    """What counts of a bridge: the VLAN that it gives new ports."""
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
    """`vlan` is native, `vlanTrunk` tagged; a trunk without `vlan` has the bridge's default VLAN native, or VLAN 1."""
    assert vlans.desired(PodConf(**PLAIN, **conf), default) == wanted


class Port:
    """A bridge port's VLANs, changed as the kernel would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, has: dict[int, int]) -> None:
        self.has, self.listed = has, 0
        monkeypatch.setattr(vlans, "list_vlans", self.list)
        monkeypatch.setattr(vlans, "delete_vlan", lambda _, __, vlan: self.has.pop(vlan, None))
        monkeypatch.setattr(vlans, "add_vlan", self.add)

    def list(self, _: object) -> dict[int, dict[int, int]]:
        """Of all ports."""
        self.listed += 1
        return {3: dict(self.has)}

    def add(self, _: object, __: int, vlan: int, *, native: bool) -> None:
        """As the kernel's br_vlan_add: again is a change."""
        self.has[vlan] = NATIVE if native else 0


@pytest.mark.parametrize("default", [1, 5])
def test_the_default_vlan_goes_unless_it_is_preserved(monkeypatch: pytest.MonkeyPatch, default: int) -> None:
    """The VLAN that the kernel gives every port is taken from it; with preserveDefaultVlan it stays.

    No list of all ports is asked for: there may be many.
    """
    port = Port(monkeypatch, {default: NATIVE})
    vlans.set_port(None, 3, bridge(default), PodConf(**PLAIN, vlan=100))
    assert port.has == {100: NATIVE}
    port.has = {default: NATIVE}
    vlans.set_port(None, 3, bridge(default), PodConf(**PLAIN, vlan=100, preserve_default_vlan=True))
    assert port.has == {default: NATIVE, 100: NATIVE}
    assert port.listed == 0


def test_a_gateways_port_has_the_vlan_of_its_pods_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the trunk of the pods nor a preserved default VLAN is the gateway's; what it has of them goes."""
    port = Port(monkeypatch, {1: NATIVE, 42: 0})
    vlans.set_gateway_port(None, 3, PodConf(**PLAIN, vlan=100, trunk=(42,), preserve_default_vlan=True))
    assert port.has == {100: NATIVE}
    port.has = {100: 0}
    vlans.set_gateway_port(None, 3, PodConf(**PLAIN, vlan=100))
    assert port.has == {100: NATIVE}


def test_check_tells_what_the_port_lacks_and_has_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """CHECK names a VLAN that is gone, one that changed from native to tagged, and one that nobody configured."""
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
