"""The owner tag of nftables elements, and names of links."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linux.ownership import group_of, host_veth_name, is_of_network, owner_tag, stale_predicate
from spec.attachment import Attachment

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=90)
attachments = st.builds(Attachment, names, names, names)


def test_a_tag_that_fits_is_readable() -> None:
    """It consists of the network, the container and the interface."""
    assert owner_tag(Attachment("net1", "c" * 64, "eth0")) == f"v1:net1:{'c' * 64}:eth0"


def test_a_tag_that_would_be_too_long_has_digests() -> None:
    """One of the network, and one of container and interface."""
    assert (
        owner_tag(Attachment("n" * 60, "c" * 64, "eth0"))
        == "v1#fb886b452111b2ed:71913188ed2eeb30044895f6482fc285f88c49d0"
    )


@given(attachments)
def test_a_tag_is_valid_as_a_comment(attachment: Attachment) -> None:
    """It has at most 127 printable ASCII characters, which nft can print in quotes and parse again."""
    tag = owner_tag(attachment)
    assert len(tag) <= 127
    assert tag.isascii()
    assert tag.isprintable()
    assert '"' not in tag
    assert "\\" not in tag


@given(attachments, attachments)
def test_different_owners_have_different_tags(one: Attachment, other: Attachment) -> None:
    """Two attachments have the same tag only if they are equal."""
    assert (owner_tag(one) == owner_tag(other)) == (one == other)


@given(attachments, names)
def test_a_tag_shows_its_network(attachment: Attachment, network: str) -> None:
    """The tag alone shows that an attachment belongs to its network and to no other."""
    tag = owner_tag(attachment)
    assert is_of_network(tag, attachment.network)
    assert is_of_network(tag, network) == (network == attachment.network)


@pytest.mark.parametrize(
    ("tag", "gone"),
    [
        ("v1:net1:c1:eth0", False),
        ("v1:net1:c1:eth1", True),
        ("v1:net10:c1:eth1", False),
        ("v2:net1:c1:eth1", False),
        ("somebody's", False),
        ("", False),
    ],
)
def test_stale_tags(tag: str, gone: bool) -> None:
    """A tag is stale if it is of the network and not of a valid attachment; a foreign tag never is."""
    assert stale_predicate("net1", [Attachment("net1", "c1", "eth0")])(tag) is gone


def test_names_of_links_do_not_change() -> None:
    """A link is found by the name that an ADD of any release gave it, so the hash must stay the same."""
    assert host_veth_name(Attachment("net", "c1", "eth0")) == "vethce558de1777"
    assert group_of("net") == 0x24259991


@given(attachments, attachments)
def test_different_owners_have_different_link_names(one: Attachment, other: Attachment) -> None:
    """Two attachments have the same name only if they are equal; every name is valid for a link."""
    assert (host_veth_name(one) == host_veth_name(other)) == (one == other)
    assert len(host_veth_name(one)) == 15
    assert host_veth_name(one).isascii()
