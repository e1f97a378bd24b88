"""Typed reads of a configuration: an error names the key, the value, and the values that are allowed."""

import pytest

from spec.config import NetConf, Section, decode
from spec.errors import CNIError

NOT_INTEGERS = [1500.0, 1e3, True, "1500", [], {}, 67, 65536, 10**400]


def message(read: object, *args: object, **kwargs: object) -> str:
    """The message of the error (code 7) that the read raises."""
    with pytest.raises(CNIError) as caught:
        read(*args, **kwargs)
    assert caught.value.code == 7
    return caught.value.msg


def test_the_error_of_an_integer() -> None:
    """Key, value and bounds."""
    section = Section({"mtu": "big"})
    expected = '"mtu": expected an integer of 68 to 65535, got "big"'
    assert message(section.integer, "mtu", 0, low=68, high=65535) == expected


@pytest.mark.parametrize("value", NOT_INTEGERS)
def test_other_values_than_integers_in_range_are_refused(value: object) -> None:
    """1500.0, 1e3 and true are not integers."""
    assert message(Section({"mtu": value}).integer, "mtu", low=68, high=65535).startswith('"mtu": expected an integer')


@pytest.mark.parametrize("text", [b"1500.0", b"1e3", b"15E2", b"-0.0"])
def test_a_number_with_a_fraction_or_exponent_is_not_an_integer(text: bytes) -> None:
    """Whatever its value."""
    assert "expected an integer" in message(Section(decode(b'{"mtu": ' + text + b"}")).integer, "mtu")


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({"low": 1, "high": 2}, "an integer of 1 to 2"),
        ({"low": 1}, "an integer of at least 1"),
        ({"high": 2}, "an integer of at most 2"),
        ({}, "an integer"),
    ],
)
def test_the_error_states_the_bounds(bounds: dict, expected: str) -> None:
    """The lower one, the upper one, both or none."""
    assert message(Section({"n": False}).integer, "n", **bounds) == f'"n": expected {expected}, got false'


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a" * 100, '"' + "a" * 80 + '…"'),
        ("é\n", '"é\\n"'),
        ([1], "a list"),
        ([], "[]"),
        ({"a": 1}, "an object"),
        ({}, "{}"),
        (True, "true"),
        (1.5, "1.5"),
        (10**200, "1" + "0" * 79 + "…"),
    ],
)
def test_an_invalid_value_is_truncated_to_one_line(value: object, shown: str) -> None:
    """Whatever its size and type."""
    assert Section({"k": value}).error("k", "x").msg == f'"k": expected x, got {shown}'


def test_a_missing_value_is_shown_as_nothing() -> None:
    """In the error for a required key."""
    assert Section({}, "ipam").error("subnet", "a subnet").msg == '"ipam.subnet": expected a subnet, got nothing'


@pytest.mark.parametrize("value", ["true", 1, 0, "", [], {}])
def test_only_true_and_false_are_booleans(value: object) -> None:
    """1, 0, strings and empty values are refused."""
    assert message(Section({"isGateway": value}).boolean, "isGateway", False).startswith('"isGateway": expected true')


def test_the_error_of_a_choice_lists_all_choices() -> None:
    """And an absent key returns the default."""
    section = Section({"ipMasqBackend": "zz"})
    expected = '"ipMasqBackend": expected one of "iptables", "nftables", got "zz"'
    assert message(section.string, "ipMasqBackend", choices=("iptables", "nftables")) == expected
    assert Section({}).string("ipMasqBackend", None, choices=("iptables",)) is None


def test_null_is_absent() -> None:
    """For every type; a default applies."""
    names = ("boolean", "integer", "string", "strings", "sections", "groups")
    section = Section(dict.fromkeys(names))
    found = [section.boolean("boolean", True), section.integer("integer", 7), section.string("string", "x")]
    assert found == [True, 7, "x"]
    assert [section.strings("strings"), section.sections("sections"), section.groups("groups")] == [None] * 3
    assert list(section.section("boolean").names()) == []
    assert not section.has("boolean")
    assert section.mentions("boolean")
    assert not section.mentions("other")


def test_keys_match_in_any_case_and_the_last_one_wins() -> None:
    """In the order of the document; null does not override a value."""
    assert Section(decode(b'{"mtu": 1, "MTU": 2}')).integer("mtu") == 2
    assert Section(decode(b'{"MTU": 1, "mtu": 2}')).integer("Mtu") == 2
    assert Section(decode(b'{"mtu": 1, "MTU": 2, "mtu": 3}')).integer("mtu") == 3
    assert Section(decode(b'{"mtu": 1, "mtu": null}')).integer("mtu") == 1
    assert Section(decode(b'{"mtu": 1, "MTU": null}')).integer("mtu") == 1


def test_lists_are_checked_element_by_element() -> None:
    """The error names the index of the element."""
    assert (
        message(Section({"search": ["a", 1]}, "dns").strings, "search") == '"dns.search[1]": expected a string, got 1'
    )
    assert message(Section({"routes": [{}, 1]}).sections, "routes") == '"routes[1]": expected an object, got 1'
    expected = '"ranges[0]": expected a list of objects, got an object'
    assert message(Section({"ranges": [{"a": 1}]}).groups, "ranges") == expected
    assert message(Section({"ranges": [[1]]}).groups, "ranges") == '"ranges[0][0]": expected an object, got 1'


def test_the_error_has_the_path_to_the_key() -> None:
    """Through objects and lists of lists."""
    groups = Section({"ipam": {"ranges": [[], [{"subnet": 1}]]}}).section("ipam").groups("ranges")
    assert message(groups[1][0].string, "subnet") == '"ipam.ranges[1][0].subnet": expected a string, got 1'


@pytest.mark.parametrize(
    ("dns", "overrides"),
    [
        (None, False),
        ({}, False),
        ({"domain": ""}, False),
        ({"nameservers": None}, False),
        ({"nameservers": []}, True),
        ({"options": []}, True),
        ({"search": ["x"]}, True),
        ({"domain": "x"}, True),
    ],
)
def test_dns_overrides_if_it_has_any_value(dns: dict | None, overrides: bool) -> None:
    """An empty list is a value; an empty object or string is not."""
    conf = NetConf.parse(Section({"name": "n", "dns": dns}))
    assert (conf.dns is not None) is overrides


@pytest.mark.parametrize(
    "keys",
    [
        {"type": 1},
        {"ipam": []},
        {"ipam": {"type": 1}},
        {"dns": "x"},
        {"dns": {"domain": 1}},
        {"dns": {"search": [None]}},
        {"capabilities": {"mac": "true"}},
        {"capabilities": []},
    ],
)
def test_the_common_keys_are_type_checked(keys: dict) -> None:
    """In every plugin, whether it uses them or not; code 7."""
    assert "expected" in message(NetConf.parse, Section({"name": "n", **keys}))


def test_unknown_keys_may_have_any_value() -> None:
    """They belong to other plugins."""
    conf = NetConf.parse(Section({"name": "n", "x": [None, {"y": 1e999}], "args": 5, "runtimeConfig": "z"}))
    assert (conf.cni_version, conf.type, conf.ipam_type, conf.prev_result) == ("0.1.0", "", "", None)
