"""The choice of a node's subnets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.registry import RegistryError, Wish
from nodes.subnets import choose
from spec.addresses import parse_cidr

BOTH = Wish(("10.244.0.0/16", "fd00:244::/48"), (24, 64))
SMALL = Wish(("10.244.0.0/22",), (24,))
names = st.text(min_size=1)
cidrs = st.one_of(
    st.builds(lambda number, length: f"10.244.{number}.0/{length}", st.integers(0, 255), st.integers(20, 30)),
    st.builds(lambda number, length: f"fd00:244:0:{number:x}::/{length}", st.integers(0, 65535), st.integers(49, 64)),
)


def overlaps(one: str, other: str) -> bool:
    """Whether two networks have addresses in common."""
    return parse_cidr(one).overlaps(parse_cidr(other))


@given(names, st.lists(cidrs, max_size=20), st.lists(cidrs, max_size=3), st.lists(cidrs, max_size=3))
def test_a_subnet_is_in_the_cluster_and_free(
    name: str, taken: list[str], excluded: list[str], preferred: list[str]
) -> None:
    """Whatever is taken, excluded or preferred; preferred ones are kept if they are free."""
    wanted = tuple(parse_cidr(each).network.cidr for each in preferred)
    wish = Wish(BOTH.cluster, BOTH.lengths, tuple(excluded), wanted)
    try:
        chosen = choose(wish, taken, name)
    except RegistryError:
        return
    assert len(chosen) == 2
    for subnet, network, length in zip(chosen, BOTH.cluster, BOTH.lengths, strict=True):
        assert parse_cidr(network).contains(parse_cidr(subnet))
        assert not any(overlaps(subnet, busy) for busy in (*taken, *excluded))
        free = [each for each in wanted if not any(overlaps(each, busy) for busy in (*taken, *excluded))]
        of_family = [each for each in free if parse_cidr(each).version == parse_cidr(network).version]
        assert subnet == of_family[0] if of_family else subnet.endswith(f"/{length}")


def test_all_subnets_are_given_before_the_cluster_is_full() -> None:
    """256 nodes get all 256 subnets, the first included; the next is told how many there are."""
    taken: list[str] = []
    for number in range(256):
        taken += choose(Wish(("10.244.0.0/16",), (24,)), taken, f"node-{number}")
    assert sorted(map(parse_cidr, taken)) == [parse_cidr(f"10.244.{number}.0/24") for number in range(256)]
    with pytest.raises(RegistryError, match=r"none of the 256 subnets /24 of 10\.244\.0\.0/16 is free"):
        choose(Wish(("10.244.0.0/16",), (24,)), taken, "late")


def test_a_node_chooses_the_same_again() -> None:
    """The choice depends on the name and on nothing else, while that subnet is free."""
    first = choose(BOTH, (), "a")
    assert choose(BOTH, ["10.244.1.0/24"] if first[0] != "10.244.1.0/24" else [], "a") == first


def test_nodes_that_start_at_once_spread() -> None:
    """Of 200 nodes that all see an empty cluster of 65,536 IPv6 subnets, nearly all choose different ones."""
    wish = Wish(("fd00:244::/48",), (64,))
    assert len({choose(wish, (), f"node-{number}") for number in range(200)}) > 190


def test_networks_are_used_one_after_the_other_s_end() -> None:
    """A second network of a family gives the subnets that the first lacks; a narrower one has no room."""
    wish = Wish(("10.1.0.0/24", "10.2.0.0/23", "10.3.0.0/25"), (24,))
    taken: list[str] = []
    for _ in range(3):
        taken += choose(wish, taken, "a")
    assert sorted(taken) == ["10.1.0.0/24", "10.2.0.0/24", "10.2.1.0/24"]
    with pytest.raises(RegistryError, match="of the 3 subnets"):
        choose(wish, taken, "a")


@pytest.mark.parametrize("hostile", ["0.0.0.0/0", "10.0.0.0/8", "10.244.0.0/22"])
def test_a_record_that_takes_the_whole_cluster_is_ignored(hostile: str) -> None:
    """One wrong record must not leave all other nodes without a subnet."""
    assert choose(SMALL, [hostile], "a")


def test_a_network_of_one_subnet_can_be_taken() -> None:
    """A cluster network that is as long as a subnet is one."""
    with pytest.raises(RegistryError, match="of the 1 subnets"):
        choose(Wish(("10.244.3.0/24",), (24,)), ["10.244.3.0/24"], "a")


def test_a_family_that_the_cluster_lacks_is_an_error() -> None:
    """A length for IPv6 needs an IPv6 network, wide enough."""
    with pytest.raises(RegistryError, match='no IPv6 network of "cluster" has room for a /64'):
        choose(Wish(("10.244.0.0/16",), (24, 64)), (), "a")
    with pytest.raises(RegistryError, match='no IPv4 network of "cluster" has room for a /15'):
        choose(Wish(("10.244.0.0/16",), (15,)), (), "a")
