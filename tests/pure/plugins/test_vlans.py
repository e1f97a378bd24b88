"""Which VLANs a pod's port is to have, and what is done to make it so."""

import pytest

from plugins.pod import vlans
from plugins.pod.conf import PodConf

NATIVE = 0x2 | 0x4


@pytest.mark.parametrize(
    ("conf", "wanted"),
    [
        ({}, {}),
        ({"vlan": 100}, {100: True}),
        ({"trunk": (5, 7)}, {5: False, 7: False, 1: True}),
        ({"vlan": 7, "trunk": (5, 7)}, {5: False, 7: True}),
        ({"trunk": ()}, {1: True}),
    ],
)
def test_wanted_vlans(conf: dict, wanted: dict[int, bool]) -> None:
    """`vlan` is native, `vlanTrunk` tagged; a trunk without `vlan` has VLAN 1 native."""
    assert vlans.wanted(PodConf(bridge="b0", ipam_type="", **conf)) == wanted


class Port:
    """A bridge port's VLANs, changed as the kernel would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, has: dict[int, int]) -> None:
        self.has = has
        monkeypatch.setattr(vlans, "list_vlans", lambda _: {3: dict(self.has)})
        monkeypatch.setattr(vlans, "delete_vlan", lambda _, __, vlan: self.has.pop(vlan))
        monkeypatch.setattr(vlans, "add_vlan", self.add)

    def add(self, _: object, __: int, vlan: int, *, native: bool) -> None:
        """As the kernel's br_vlan_add: again is a change."""
        self.has[vlan] = NATIVE if native else 0


def test_the_default_vlan_goes_unless_it_is_preserved(monkeypatch: pytest.MonkeyPatch) -> None:
    """VLAN 1, which the kernel gives every port, is taken from it; with preserveDefaultVlan it stays."""
    conf = {"bridge": "b0", "ipam_type": "", "vlan": 100}
    port = Port(monkeypatch, {1: NATIVE})
    vlans.set_port(None, 3, PodConf(**conf))
    assert port.has == {100: NATIVE}
    port.has = {1: NATIVE}
    vlans.set_port(None, 3, PodConf(**conf, preserve_default_vlan=True))
    assert port.has == {1: NATIVE, 100: NATIVE}


def test_check_tells_what_the_port_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """CHECK names a VLAN that is gone and one that changed from native to tagged."""
    Port(monkeypatch, {7: 0})
    conf = PodConf(bridge="b0", ipam_type="", vlan=7, trunk=(5,))
    assert vlans.missing(None, 3, conf) == ["VLAN 5 is not tagged on the port", "VLAN 7 is not native on the port"]
