"""The configuration of `firewall`, its errors, and its rules for iptables."""

import pytest

from linux.netlink.attributes import attributes_of
from plugins.firewall import PLUGIN
from plugins.firewall.conf import FirewallConf, firewalld_zone, parse
from rules.iptables import accept_from, accept_replies_to, jump
from spec.config import Section
from spec.errors import CNIError

NO_CHAINS = [
    "a b",
    "-j",
    "!x",
    "a;b",
    "a\n",
    "ä",
    "0",
    "ACCEPT",
    "DROP",
    "REJECT",
    "LOG",
    "FORWARD",
    "INPUT",
    "CNI-FORWARD",
]


def test_defaults() -> None:
    """Without keys, and with empty strings."""
    expected = FirewallConf(backend="", admin_chain="CNI-ADMIN", policy="open", zone="trusted")
    assert parse(Section({})) == expected
    assert parse(Section({"backend": "", "iptablesAdminChainName": "", "ingressPolicy": ""})) == expected


def test_values() -> None:
    """All keys are read."""
    keys = {"backend": "iptables", "iptablesAdminChainName": "MINE", "ingressPolicy": "isolated", "firewalldZone": "z"}
    assert parse(Section(keys)) == FirewallConf("iptables", "MINE", "isolated", "z")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"backend": "zz"}, 'expected one of "", "iptables", "nftables", "firewalld", got "zz"'),
        ({"ingressPolicy": "zz"}, 'expected one of "", "open", "same-bridge", "isolated", got "zz"'),
        ({"iptablesAdminChainName": "x" * 29}, "at most 28 letters"),
        *(({"iptablesAdminChainName": name}, "a chain of your own") for name in NO_CHAINS),
        ({"iptablesAdminChainName": 5}, "expected a string"),
        ({"firewalldZone": 5}, "expected a string"),
        *(({"firewalldZone": zone}, "a zone of firewalld") for zone in ("a b", "a;b", "-'", "a\n", "trusted\0")),
    ],
)
def test_errors_name_the_key(keys: dict, said: str) -> None:
    """Each has the key and the allowed values."""
    with pytest.raises(CNIError) as caught:
        parse(Section(keys))
    assert caught.value.code == 7
    assert said in caught.value.msg


def test_versions() -> None:
    """As in the reference: from the first version that has CHECK."""
    assert PLUGIN.versions == ("0.4.0", "1.0.0", "1.1.0")


def test_iptables_rules_count_packets() -> None:
    """Every rule has a counter before its verdict and matches in the same order, as rules made by iptables have."""

    def names(expressions: list[bytes]) -> list[str]:
        return [attributes_of(attributes_of(one)[1])[1].rstrip(b"\0").decode() for one in expressions]

    assert names(jump("X", "why")) == ["match", "counter", "immediate"]
    assert names(accept_from(bytes(4))) == ["payload", "cmp", "counter", "immediate"]
    assert names(accept_replies_to(bytes(16))) == ["payload", "cmp", "match", "counter", "immediate"]


@pytest.mark.parametrize(
    ("keys", "zone"),
    [
        ({}, "trusted"),
        ({"firewalldZone": "work"}, "work"),
        ({"backend": "firewalld", "firewalldZone": 7, "ingressPolicy": 7}, "trusted"),
        ({"backend": [], "firewalldZone": "a b"}, "trusted"),
        ({"backend": "iptables", "firewalldZone": "work"}, ""),
    ],
)
def test_a_del_reads_the_zone_leniently(keys: dict, zone: str) -> None:
    """An invalid zone is replaced by the default; with another backend there is no zone."""
    assert firewalld_zone(Section(keys)) == zone
