"""The names of tables that are derived from the network's name."""

from hypothesis import given
from hypothesis import strategies as st

from linux.nftables.messages import INET
from linux.nftables.static_table import comment_name, table_name


def test_a_valid_name_of_a_network_is_readable() -> None:
    """Every name that the specification allows is kept, dots and hyphens too."""
    assert table_name(INET, "egress", "Net-1.0_x").name == "slash24_egress_Net-1.0_x"
    assert table_name(INET, "egress", "n" * 128).name == f"slash24_egress_{'n' * 128}"


def test_other_names_have_a_digest() -> None:
    """A name that is too long, or that nft could not parse, is replaced by its beginning and a digest."""
    for network in ("n" * 129, "net 1", "net/1", "nét", 'net"', "net;drop"):
        name = table_name(INET, "egress", network).name
        assert name.startswith(f"slash24_egress_{network[0]}")
        assert name.count("/") == 1
        assert len(name) < 128


@given(st.lists(st.text(min_size=1), unique=True, max_size=20))
def test_different_networks_have_different_tables(networks: list[str]) -> None:
    """Even if they differ only in replaced characters."""
    names = {table_name(INET, "egress", network).name for network in [*networks, "a_b", "a b", "a/b"]}
    assert len(names) == len({*networks, "a_b", "a b", "a/b"})


@given(st.text(min_size=1))
def test_the_name_in_a_comment_is_short(network: str) -> None:
    """It has at most 48 characters, all of them plain."""
    assert len(comment_name(network)) <= 48
    assert set(comment_name(network)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
