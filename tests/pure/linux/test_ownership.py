"""The mark of an owner on nftables elements."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linux.ownership import group_of, host_veth_name, is_of_network, owner_tag, stale_predicate
from spec.attachment import Attachment

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=90)
attachments = st.builds(Attachment, names, names, names)


def test_readable_where_it_fits() -> None:
    """A mark that fits into a comment spells the network, the container and the interface out."""
    assert owner_tag(Attachment("net1", "c" * 64, "eth0")) == f"v1:net1:{'c' * 64}:eth0"


def test_digests_where_it_does_not() -> None:
    """A mark that would not fit is the digest of the network and that of the rest."""
    assert (
        owner_tag(Attachment("n" * 60, "c" * 64, "eth0"))
        == "v1#fb886b452111b2ed:71913188ed2eeb30044895f6482fc285f88c49d0"
    )


@given(attachments)
def test_fits_a_comment(attachment: Attachment) -> None:
    """Every mark is at most 127 plain characters, which nft can print in quotes and read again."""
    tag = owner_tag(attachment)
    assert len(tag) <= 127
    assert tag.isascii()
    assert tag.isprintable()
    assert '"' not in tag
    assert "\\" not in tag


@given(attachments, attachments)
def test_different_owners_differ(one: Attachment, other: Attachment) -> None:
    """Two attachments have the same mark only if they are the same."""
    assert (owner_tag(one) == owner_tag(other)) == (one == other)


@given(attachments, names)
def test_network_can_be_told(attachment: Attachment, network: str) -> None:
    """From its mark alone an attachment is known to be of its network, and of no other."""
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
def test_forfeited(tag: str, gone: bool) -> None:
    """Forfeit is what is of the network and not valid; a foreign mark never is."""
    assert stale_predicate("net1", [Attachment("net1", "c1", "eth0")])(tag) is gone


def test_names_of_links_stay_as_they_are() -> None:
    """A link is looked for by the name that an ADD of any release gave it: the hash must not change."""
    assert host_veth_name(Attachment("net", "c1", "eth0")) == "vethce558de1777"
    assert group_of("net") == 0x24259991


@given(attachments, attachments)
def test_names_of_links_differ(one: Attachment, other: Attachment) -> None:
    """Two attachments have the same name only if they are the same, and every name is one that a link can have."""
    assert (host_veth_name(one) == host_veth_name(other)) == (one == other)
    assert len(host_veth_name(one)) == 15
    assert host_veth_name(one).isascii()
