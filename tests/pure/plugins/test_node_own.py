"""The check that no other link of the node has an address in the node's own subnet."""

from errno import ENETUNREACH
from unittest.mock import Mock

import pytest

from linux.rtnl import describe
from linux.rtnl.addresses import InterfaceAddress
from linux.rtnl.links import Link
from plugins.node import reachability
from plugins.node.conf import NodeConf
from spec.errors import CNIError, Code

_SUBNET = "10.244.3.0/24"
_GATEWAY = InterfaceAddress(7, "10.244.3.1/24", 0, tentative=False, failed=False)
_NODE = NodeConf("cbr0", (_SUBNET,), 0, "", False, (), (), False)


class _Host:
    """A node on which another call creates a link with the gateway's address after the first query to the kernel."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self._asked, self._link = False, Mock(spec=Link, index=7, up=True)
        self._link.name = name
        later = {name: self._link}
        monkeypatch.setattr(reachability, "find_link", lambda _, asked: self._answer(later.get(asked), None))
        monkeypatch.setattr(reachability, "find_link_by_index", lambda *_: self._link)
        monkeypatch.setattr(reachability, "list_addresses", lambda _: self._answer([_GATEWAY], []))

    def _answer(self, later: object, first: object) -> object:
        asked, self._asked = self._asked, True
        return later if asked else first


def test_a_bridge_that_another_call_creates_meanwhile_is_not_an_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node's first pods come at once: one call creates the bridge while another checks the subnet."""
    reachability.check_subnets(_Host(monkeypatch, "cbr0"), _NODE)


def test_another_link_with_an_address_in_the_subnet_is_an_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the test above can fail."""
    host = _Host(monkeypatch, "eth1")
    reachability.list_addresses(host)
    with pytest.raises(CNIError, match=r'10\.244\.3\.0/24 overlaps 10\.244\.3\.1/24 of link "eth1"'):
        reachability.check_subnets(host, _NODE)


@pytest.mark.parametrize("is_created", [True, False])
def test_status_accepts_the_route_of_a_bridge_that_is_created_meanwhile(
    monkeypatch: pytest.MonkeyPatch, *, is_created: bool
) -> None:
    """The route to the subnet is the bridge's own then; if there is still no bridge, the route is in the way."""
    links: dict[str, Link] = {}

    def find_route(*_: object) -> tuple[str, str]:
        if is_created:
            links["cbr0"] = Mock(spec=Link, index=7)
        return f"{_SUBNET} dev cbr0", _SUBNET

    monkeypatch.setattr(reachability, "find_link", lambda _, name: links.get(name))
    monkeypatch.setattr(reachability, "list_addresses", lambda _: [])
    monkeypatch.setattr(reachability, "look_up", Mock(side_effect=OSError(ENETUNREACH, "")))
    monkeypatch.setattr(describe, "overriding", find_route)
    if is_created:
        reachability.check_ready(Mock(), _NODE)
    else:
        with pytest.raises(CNIError, match=r"in the way: 10\.244\.3\.0/24 dev cbr0") as raised:
            reachability.check_ready(Mock(), _NODE)
        assert raised.value.code == Code.PLUGIN_NOT_AVAILABLE
