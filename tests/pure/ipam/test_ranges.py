"""Ranges: defaults, errors, and the order in which addresses are tried."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam.ranges import membership, parse_range_sets
from spec.addresses import parse_ip, text_of
from spec.config import Section
from spec.errors import CNIError, Code
from tests.pure.ipam.support import range_sets


def parse(config: dict, *, one_per_family: bool = False):
    return parse_range_sets(Section(config), one_per_family=one_per_family)


def order(*sets, last: str = "") -> list[str]:
    (ranges,) = range_sets(*sets)
    candidates = ranges.candidates(parse_ip(last) if last else None)
    return [text for _, texts in candidates for text in texts]


@pytest.mark.parametrize(
    ("subnet", "span", "gateway"),
    [
        ("10.1.2.0/24", "10.1.2.1-10.1.2.254", "10.1.2.1"),
        ("10.0.0.0/30", "10.0.0.1-10.0.0.2", "10.0.0.1"),
        ("fd00:1::/64", "fd00:1::1-fd00:1::ffff:ffff:ffff:ffff", "fd00:1::1"),
        ("fd00:1::/126", "fd00:1::1-fd00:1::3", "fd00:1::1"),
    ],
)
def test_defaults(subnet, span, gateway):
    """By default the first address is the gateway, and the IPv4 broadcast address is excluded."""
    (ranges,) = range_sets(subnet)
    (only,) = ranges.ranges
    assert (str(ranges), text_of(only.version, only.gateway)) == (span, gateway)


def test_order_of_sets():
    """Sets of the runtime come first, then the single range of the old form, then those of `ranges`."""
    config = {
        "runtimeConfig": {"ipRanges": [[{"subnet": "10.3.0.0/24"}]]},
        "ipam": {"subnet": "10.1.0.0/24", "ranges": [[{"subnet": "10.2.0.0/24"}], [{"subnet": "fd00::/64"}]]},
    }
    firsts = [str(each).partition("-")[0] for each in parse(config)]
    assert firsts == ["10.3.0.1", "10.1.0.1", "10.2.0.1", "fd00::1"]


def test_old_form_needs_its_subnet():
    """`gateway` and `rangeStart` beside `ranges` belong to the old form and are ignored without its `subnet`."""
    config = {"ipam": {"gateway": "10.9.9.9", "rangeStart": "x", "ranges": [[{"subnet": "10.1.0.0/24"}]]}}
    assert len(parse(config)) == 1


@pytest.mark.parametrize("gateway", ["192.0.2.1", "10.0.0.200", "::ffff:192.0.2.1"])
def test_gateway_outside(gateway):
    """A gateway outside of the subnet is allowed; the first address is then assigned like any other."""
    assert order([{"subnet": "10.0.0.0/29", "gateway": gateway}])[0] == "10.0.0.1"


def test_mapped_members_are_ipv4():
    """An IPv4 address written as IPv6 is that IPv4 address, as the start of a range too."""
    assert order([{"subnet": "10.0.0.0/29", "rangeStart": "::ffff:10.0.0.4"}])[0] == "10.0.0.4"


@pytest.mark.parametrize(
    ("given", "phrase", "key"),
    [
        ({}, "IP <nil> not v4 nor v6", '"ipam.ranges[0][0].subnet"'),
        ({"subnet": "zz"}, "invalid CIDR address: zz", '"ipam.ranges[0][0].subnet"'),
        ({"subnet": ""}, "invalid CIDR address: ", '"ipam.ranges[0][0].subnet"'),
        ({"subnet": "10.0.0.0"}, "invalid CIDR address: 10.0.0.0", "a network like"),
        ({"subnet": "10.0.0.0/255.255.255.0"}, "invalid CIDR address: ", "a network like"),
        ({"subnet": "10.0.0.0/33"}, "invalid CIDR address: 10.0.0.0/33", "a network like"),
        ({"subnet": "10.0.0.0/+24"}, "invalid CIDR address: ", "a network like"),
        ({"subnet": "010.0.0.0/24"}, "invalid CIDR address: 010.0.0.0/24", "a network like"),
        ({"subnet": "fe80::%eth0/64"}, "invalid CIDR address: ", "a network like"),
        ({"subnet": 7}, "expected a string, got 7", '"ipam.ranges[0][0].subnet"'),
        ({"subnet": "::ffff:10.0.0.0/120"}, "IPNet IP and Mask version mismatch", "a network like"),
        (
            {"subnet": "10.0.0.1/32", "gateway": "10.0.0.1"},
            "Network 10.0.0.1/32 too small to allocate from",
            "besides that of the gateway",
        ),
        ({"gateway": "0.0.0.0"}, "Gateway 0.0.0.0 is the unspecified address", '"ipam.ranges[0][0].gateway"'),
        ({"subnet": "fd00::/64", "gateway": "::"}, "Gateway :: is the unspecified address", "a router can have"),
        ({"gateway": "224.0.0.1"}, "Gateway 224.0.0.1 is a multicast address", "a router can have"),
        ({"subnet": "fd00::/64", "gateway": "ff02::1"}, "Gateway ff02::1 is a multicast address", "a router can have"),
        ({"gateway": "127.0.0.1"}, "Gateway 127.0.0.1 is a loopback address", "a router can have"),
        ({"gateway": "255.255.255.255"}, "Gateway 255.255.255.255 is the broadcast address", "a router can have"),
        ({"gateway": "10.0.0.0"}, "Gateway 10.0.0.0 is the address of the subnet itself", "a router can have"),
        ({"gateway": "10.0.0.255"}, "Gateway 10.0.0.255 is the broadcast address of the subnet", "a router can have"),
        (
            {"subnet": "10.0.0.5/24"},
            "Network has host bits set. For a subnet mask of length 24 the network address is 10.0.0.0",
            '"10.0.0.0/24"',
        ),
        ({"rangeStart": "10.0.1.5"}, "RangeStart 10.0.1.5 not in network 10.0.0.0/24", "10.0.0.0 to 10.0.0.255"),
        ({"rangeEnd": "10.0.1.5"}, "RangeEnd 10.0.1.5 not in network 10.0.0.0/24", "10.0.0.0 to 10.0.0.255"),
        (
            {"rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.5"},
            "RangeStart 10.0.0.9 not in network 10.0.0.0/24",
            "10.0.0.0 to 10.0.0.5",
        ),
        ({"rangeStart": "10.0.0.255"}, "RangeStart is after the end 10.0.0.254", "up to 10.0.0.254"),
        ({"rangeStart": "fd00::1"}, "RangeStart fd00::1 not in network 10.0.0.0/24", "an IPv4 address"),
        ({"rangeEnd": "zz"}, "invalid IP address: zz", '"ipam.ranges[0][0].rangeEnd"'),
        ({"gateway": "zz"}, "invalid IP address: zz", '"ipam.ranges[0][0].gateway"'),
        ({"gateway": "fd00::1"}, "Gateway fd00::1 not in network 10.0.0.0/24", "an IPv4 address"),
    ],
)
def test_refused(given, phrase, key):
    """An invalid range is error 7 with the reference's message, the key, the value and what is allowed."""
    section = given if not given or "subnet" in given else {"subnet": "10.0.0.0/24", **given}
    with pytest.raises(CNIError) as caught:
        range_sets([section])
    assert caught.value.code == Code.INVALID_NETWORK_CONFIG
    assert caught.value.msg.startswith("invalid range set 0: ")
    assert phrase in caught.value.msg
    assert key in caught.value.msg


@pytest.mark.parametrize("subnet", ["10.0.0.0/31", "10.0.0.0/32", "fd00::/127", "fd00::/128"])
def test_small_subnets_have_no_room_for_a_gateway(subnet):
    """If a gateway is required but not configured, a subnet of one or two addresses is too small."""
    config = Section({"ipam": {"subnet": subnet}})
    (only,) = parse_range_sets(config, one_per_family=False)
    assert only.ranges[0].gateway == -1
    with pytest.raises(CNIError, match=f"Network {subnet} too small to allocate from .*at most /(30|126), or"):
        parse_range_sets(config, one_per_family=False, needs_gateway=True)


@given(
    spans=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6)), min_size=2, max_size=8),
    in_sets=st.booleans(),
)
def test_an_overlap_is_found_whatever_the_order(spans, in_sets):
    """The result is that of comparing all pairs, in one set and in different sets."""
    ranges = [
        {"subnet": "10.0.0.0/24", "rangeStart": f"10.0.0.{10 + first}", "rangeEnd": f"10.0.0.{10 + first + more}"}
        for first, more in spans
    ]
    groups = [[each] for each in ranges] if in_sets else [ranges]
    pairs = combinations([(first, first + more) for first, more in spans], 2)
    overlaps = any(one[0] <= other[1] and other[0] <= one[1] for one, other in pairs)
    try:
        range_sets(*groups)
    except CNIError as error:
        assert overlaps and "overlap" in error.msg  # noqa: PT017,PT018  (both outcomes are judged)
    else:
        assert not overlaps


@given(starts=st.sets(st.integers(0, 12), min_size=1), number=st.integers(0, 255))
def test_membership_is_that_of_any_set(starts, number):
    """The result is that of trying every range, for addresses between, before and after the ranges."""
    pieces = [{"rangeStart": f"10.0.0.{19 * each}", "rangeEnd": f"10.0.0.{19 * each + 9}"} for each in starts]
    sets = range_sets(*([{"subnet": "10.0.0.0/24", **piece}] for piece in pieces), [{"subnet": "fd00::/64"}])
    is_member = membership(sets)
    for address in (parse_ip(f"10.0.0.{number}"), parse_ip(f"fd00::{number:x}"), parse_ip("fe80::1")):
        assert is_member(address) == any(each.find(address) is not None for each in sets)


@pytest.mark.parametrize("key", ["ranges", "ipRanges"])
def test_a_call_has_so_many_ranges_at_most(key):
    """More range sets, or ranges in all, are refused by their number, before they are parsed."""
    one = {"subnet": "10.0.0.0/24"}
    for groups, text in (
        ([[one]] * 257, "expected at most 256 range sets, got 257"),
        ([[one] * 4097], "expected at most 4096 ranges in all, got 4097"),
    ):
        section = {"ipam": {"ranges": groups}} if key == "ranges" else {"runtimeConfig": {"ipRanges": groups}}
        with pytest.raises(CNIError, match=f'{key}": {text}') as caught:
            parse(section)
        assert caught.value.code == Code.INVALID_NETWORK_CONFIG


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "no IP ranges specified"),
        ({"ipam": {"ranges": []}}, "no IP ranges specified"),
        ({"ipam": {"rangeStart": "10.0.0.5"}}, "no IP ranges specified"),
        ({"ipam": {"ranges": [[]]}}, "invalid range set 0: empty range set"),
        (
            {"ipam": {"ranges": [[{"subnet": "10.0.0.0/24"}, {"subnet": "fd00::/64"}]]}},
            "invalid range set 0: mixed address families",
        ),
        (
            {"ipam": {"ranges": [[{"subnet": "10.0.0.0/24"}, {"subnet": "10.0.0.128/25"}]]}},
            "invalid range set 0: subnets 10.0.0.1-10.0.0.254 and 10.0.0.129-10.0.0.254 overlap",
        ),
        (
            {
                "ipam": {
                    "ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.1.0.0/24"}], [{"subnet": "10.0.0.0/25"}]]
                }
            },
            "range set 0 overlaps with 2",
        ),
        ({"ipam": {"ranges": [{"subnet": "10.0.0.0/24"}]}}, '"ipam.ranges[0]": expected a list of objects'),
        ({"runtimeConfig": {"ipRanges": "x"}}, '"runtimeConfig.ipRanges": expected a list of lists'),
    ],
)
def test_refused_sets(config, message):
    """Sets that are empty, mixed or overlapping are error 7."""
    with pytest.raises(CNIError, match=".*") as caught:
        parse(config)
    assert (caught.value.code, message in caught.value.msg) == (Code.INVALID_NETWORK_CONFIG, True)


def test_ranges_of_one_subnet():
    """Ranges may not overlap, but subnets may: two parts of one subnet can be two sets."""
    pieces = [
        {"rangeStart": "10.0.0.10", "rangeEnd": "10.0.0.19"},
        {"rangeStart": "10.0.0.20", "rangeEnd": "10.0.0.29"},
    ]
    assert len(range_sets(*([{"subnet": "10.0.0.0/24", **piece}] for piece in pieces))) == 2


def test_old_versions_have_room_for_one_address_a_family():
    """Before CNI 0.3.0 a second set of a family is refused; one of each family is not."""
    sets = [[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/64"}]]
    assert len(parse({"ipam": {"ranges": sets}}, one_per_family=True)) == 2
    with pytest.raises(CNIError, match="CNI version 0.2.0 does not support more than 1 address per family"):
        parse(
            {"cniVersion": "0.2.0", "ipam": {"ranges": [*sets, [{"subnet": "10.1.0.0/24"}]]}},
            one_per_family=True,
        )


def test_order_starts_after_the_last():
    """The order starts after the last address assigned, wraps, and ends with that address."""
    assert order("10.0.0.0/29", last="10.0.0.4") == ["10.0.0.5", "10.0.0.6", "10.0.0.2", "10.0.0.3", "10.0.0.4"]


def test_order_over_several_ranges():
    """After a range comes the next one of the set; each address comes once, and no gateway."""
    two = [{"subnet": "10.0.0.0/29", "rangeEnd": "10.0.0.4"}, {"subnet": "10.0.1.0/30", "gateway": "10.0.1.2"}]
    assert order(two) == ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.1.1"]
    assert order(two, last="10.0.0.3") == ["10.0.0.4", "10.0.1.1", "10.0.0.2", "10.0.0.3"]
    assert order(two, last="10.0.0.4") == ["10.0.1.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]


def test_no_range_gives_away_the_gateway_of_another():
    """Neither in the same set nor in another, and a request for it is refused."""
    low = {"subnet": "10.0.0.0/28", "rangeStart": "10.0.0.2", "rangeEnd": "10.0.0.4", "gateway": "10.0.0.9"}
    high = {"subnet": "10.0.0.0/28", "rangeStart": "10.0.0.8", "rangeEnd": "10.0.0.11", "gateway": "10.0.0.3"}
    assert order([low, high]) == ["10.0.0.2", "10.0.0.4", "10.0.0.8", "10.0.0.10", "10.0.0.11"]
    sets = range_sets([low], [high])
    found = [[text for _, texts in each.candidates(None) for text in texts] for each in sets]
    assert found == [["10.0.0.2", "10.0.0.4"], ["10.0.0.8", "10.0.0.10", "10.0.0.11"]]
    assert [each.ranges[0].gateways for each in sets] == [
        (parse_ip("10.0.0.3").number,),
        (parse_ip("10.0.0.9").number,),
    ]


@pytest.mark.parametrize("last", ["10.0.0.128", "10.9.0.1", "fd00::5"])
def test_order_without_a_useful_last(last):
    """If the last address is not in the set, the order starts at the first."""
    assert order("10.0.0.0/29", last=last) == order("10.0.0.0/29")


def test_a_gigantic_range_is_walked_lazily():
    """The order of an IPv6 /64 is computed lazily."""
    (ranges,) = range_sets("fd00::/64")
    assert next(text for _, texts in ranges.candidates(parse_ip("fd00::ff")) for text in texts) == "fd00::100"
