"""Interface names against the kernel: a name that is accepted is a valid link name, and the link gets exactly it."""

import string

from hypothesis import example, given, settings
from hypothesis import strategies as st

from linux.netlink.socket import Netlink, NetlinkError
from linux.rtnl.links import delete_link, find_link
from plugins.bandwidth.shaping import create_ifb
from spec.errors import CNIError
from spec.identifiers import check_new_ifname, is_link_name
from tests.netns.node import Node
from tests.netns.overlay_tools import inside

_ODD = "/:%. \t\n\x0b\x0c\r\x1f\x7f\x85\xa0\xc0\xe0\u2003\u2028\u3000d"
_NAMES = st.text(st.sampled_from(_ODD + string.ascii_lowercase) | st.characters(exclude_categories=["Cs"]), max_size=16)


def makes(netlink: Netlink, name: str) -> bool:
    """Whether the kernel creates a link with exactly this name."""
    try:
        made = create_ifb(netlink, name, mtu=1500)
    except NetlinkError:
        return False
    link = find_link(netlink, name)
    if made and link is None:  # with another name
        return False
    delete_link(netlink, link.index)
    return True


def is_taken(name: str) -> bool:
    """Whether CNI_IFNAME accepts the name."""
    try:
        check_new_ifname(name)
    except CNIError:
        return False
    return bool(name)


def test_accepted_names_are_valid_link_names(node: Node) -> None:
    """Refused names are invalid for the kernel too, except those with white space of other alphabets."""

    @settings(max_examples=300)
    @given(_NAMES.filter(lambda name: "\0" not in name and name != "lo"))
    @example("eth%d")
    @example("%")
    @example("à")
    @example("all")
    @example("default")
    @example("a" * 15)
    @example("a" * 16)
    def compare(name: str) -> None:
        if is_link_name(name):
            assert is_taken(name)
            assert makes(netlink, name)
        elif not any(char.isspace() for char in name):
            assert not is_taken(name)
            assert not makes(netlink, name)

    with inside(node), Netlink() as netlink:
        compare()
