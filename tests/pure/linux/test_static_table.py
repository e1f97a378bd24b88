"""Names of tables that follow from the name of a network."""

from hypothesis import given
from hypothesis import strategies as st

from linux.nftables.messages import INET
from linux.nftables.static_table import comment_name, table_name


def test_readable_where_it_fits() -> None:
    """Any name of a network that the specification allows is spelled out, dots and hyphens too."""
    assert table_name(INET, "egress", "Net-1.0_x").name == "slash24_egress_Net-1.0_x"
    assert table_name(INET, "egress", "n" * 128).name == f"slash24_egress_{'n' * 128}"


def test_digest_where_it_does_not() -> None:
    """What is too long, or what nft could not read again, is replaced by its begin and a digest."""
    for network in ("n" * 129, "net 1", "net/1", "nét", 'net"', "net;drop"):
        name = table_name(INET, "egress", network).name
        assert name.startswith(f"slash24_egress_{network[0]}")
        assert name.count("/") == 1
        assert len(name) < 128


@given(st.lists(st.text(min_size=1), unique=True, max_size=20))
def test_no_two_networks_share_a_table(networks: list[str]) -> None:
    """Different networks have different names, even if they differ only in what is replaced."""
    names = {table_name(INET, "egress", network).name for network in [*networks, "a_b", "a b", "a/b"]}
    assert len(names) == len({*networks, "a_b", "a b", "a/b"})


@given(st.text(min_size=1))
def test_a_comment_has_room(network: str) -> None:
    """What is comment_name in a comment is short and plain."""
    assert len(comment_name(network)) <= 48
    assert set(comment_name(network)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
