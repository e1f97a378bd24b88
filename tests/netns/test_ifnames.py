"""Names of links against the kernel: what is taken is what a link can be called, and then is called."""

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
    """Whether the kernel makes a link of just this name."""
    try:
        made = create_ifb(netlink, name, mtu=1500)
    except NetlinkError:
        return False
    link = find_link(netlink, name)
    if made and link is None:  # under another name
        return False
    delete_link(netlink, link.index)
    return True


def is_taken(name: str) -> bool:
    """Whether CNI_IFNAME may hold it."""
    try:
        check_new_ifname(name)
    except CNIError:
        return False
    return bool(name)


def test_a_name_that_is_taken_is_what_the_kernel_calls_a_link(node: Node) -> None:
    """And one that is refused, but for the white space of other alphabets, is none to the kernel."""

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
