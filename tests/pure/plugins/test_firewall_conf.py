"""What `firewall` reads of its configuration, and how it refuses the rest."""

import pytest

from linux.attributes import attributes_of
from linux.iptables import accept_answers_to, accept_from, jump
from plugins.firewall import PLUGIN, FirewallConf, parse
from spec.config import Section
from spec.errors import CNIError


def test_defaults() -> None:
    """Nothing given, and empty strings."""
    expected = FirewallConf(backend="", admin_chain="CNI-ADMIN", policy="open")
    assert parse(Section({})) == expected
    assert parse(Section({"backend": "", "iptablesAdminChainName": "", "ingressPolicy": ""})) == expected


def test_values() -> None:
    """Everything given."""
    keys = {"backend": "iptables", "iptablesAdminChainName": "MINE", "ingressPolicy": "isolated", "firewalldZone": "z"}
    assert parse(Section(keys)) == FirewallConf("iptables", "MINE", "isolated")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"backend": "firewalld"}, '"backend": expected "iptables" or "nftables": there is no way to firewalld'),
        ({"backend": "zz"}, 'expected one of "", "iptables", "nftables", got "zz"'),
        ({"ingressPolicy": "zz"}, 'expected one of "", "open", "same-bridge", "isolated", got "zz"'),
        ({"iptablesAdminChainName": "x" * 29}, "at most 28 characters"),
        ({"iptablesAdminChainName": "a b"}, "without white space"),
        ({"iptablesAdminChainName": "-j"}, '"iptablesAdminChainName"'),
        ({"iptablesAdminChainName": 5}, "expected a string"),
        ({"firewalldZone": 5}, "expected a string"),
    ],
)
def test_wrong_values(keys: dict, said: str) -> None:
    """Each error names the key and what would do."""
    with pytest.raises(CNIError) as caught:
        parse(Section(keys))
    assert caught.value.code == 7
    assert said in caught.value.msg


def test_versions() -> None:
    """As the reference: from the first version on that knows CHECK."""
    assert PLUGIN.versions == ("0.4.0", "1.0.0", "1.1.0")


def test_rules_of_iptables_count_packets() -> None:
    """Every rule has a counter before its verdict, as iptables' own have, and matches in their order."""

    def names(expressions: list[bytes]) -> list[str]:
        return [attributes_of(attributes_of(one)[1])[1].rstrip(b"\0").decode() for one in expressions]

    assert names(jump("X", "why")) == ["match", "counter", "immediate"]
    assert names(accept_from(bytes(4))) == ["payload", "cmp", "counter", "immediate"]
    assert names(accept_answers_to(bytes(16))) == ["payload", "cmp", "match", "counter", "immediate"]
