"""Objects of rtnetlink as text."""

import pytest

from linux.rtnl.describe import likely_owner


@pytest.mark.parametrize(
    ("protocol", "link", "owner"),
    [
        (12, "eth0", "bird"),
        (16, "eth0", "a DHCP client"),
        (11, "", "zebra, of FRR"),
        (4, "flannel.1", "flannel"),
        (2, "cali12ab", "Calico"),
        (80, "eth0", "Calico"),
        (2, "lxcbr0", "LXC"),
        (2, "lxc12ab", "Cilium"),
        (4, "eth0", ""),
        (3, "", ""),
        (24, "slash24.1", ""),
    ],
)
def test_the_likely_owner_of_a_route(protocol: int, link: str, owner: str) -> None:
    """By the link's name, else by the protocol; nothing is said about what anybody uses."""
    assert likely_owner(protocol, link) == owner
