"""Network policies: tables that somebody has changed, or that another version has made, are mended."""

import re

import pytest

from linux.netlink.socket import NETLINK_NETFILTER, Netlink
from linux.nftables import messages
from rules import policy
from tests.netns.nft_tools import chain, nft, on, table
from tests.netns.node import Node
from tests.netns.policy_tables import (
    ALICE,
    BOB,
    BRIDGE,
    EMPTY,
    EMPTY_BRIDGE,
    GATEWAY,
    HELD,
    INET,
    IPS,
    LINK,
    TAG,
    assert_alice_is_held,
    decide,
    hold,
    holding,
)

DRIFTS = {
    "rules flushed": f"flush chain {INET} connection",
    "a rule in front": f"insert rule {INET} forward accept",
    "a rule less": f"flush chain {BRIDGE} prerouting; add rule {BRIDGE} prerouting accept",
    "another hook": f"flush chain {INET} forward; delete chain {INET} forward;"
    f" add chain {INET} forward {{ type filter hook forward priority 5; }}",
    "another policy": f"add chain {INET} forward {{ policy drop; }}",
    "no hook": f"flush chain {INET} forward; delete chain {INET} forward; add chain {INET} forward",
    "dormant": f"add table {INET} {{ flags dormant; }}",
    "no configured chain": f"flush chain {INET} from_pod; flush chain {INET} connection; delete chain {INET} metadata",
}


ONE_MORE = f"""
add chain {INET} mangle {{ type filter hook postrouting priority 5; }}
add rule {INET} mangle drop
"""
OTHER_VERSION = f"""
flush chain {INET} connection
add rule {INET} connection ip saddr vmap @egress4 comment "egress IPv4"
add rule {INET} connection accept comment "version 0"
flush chain {INET} refuse
add rule {INET} refuse drop comment "refused"
add set {INET} later4 {{ type ipv4_addr; }}
add chain {INET} later {{ type filter hook postrouting priority 5; }}
"""
RETYPED = f"""
flush chain {INET} connection
delete set {INET} exempt4
add set {INET} exempt4 {{ type ipv6_addr; }}
add rule {INET} connection ip6 saddr @exempt4 accept
"""


@pytest.mark.parametrize("drift", DRIFTS)
@pytest.mark.parametrize("repair", ["daemon", "ADD"])
def test_drift_is_repaired(node: Node, drift: str, repair: str) -> None:
    """Whatever somebody changed in the base, CHECK reports it, and the daemon or an ADD mends it and keeps elements."""
    hold(node)
    nft(node, "-f", "-", stdin=DRIFTS[drift])
    assert on(node, policy.problems, ALICE, IPS, "vetha") != []
    if repair == "daemon":
        assert on(node, policy.ensure_base) is True
    else:
        hold(node)
    assert_mended(node)


def assert_mended(node: Node) -> None:
    """The tables hold what they should, chains in any order."""
    assert in_order(table(node, INET)) == in_order(holding(EMPTY, **HELD))
    assert in_order(table(node, BRIDGE)) == in_order(holding(EMPTY_BRIDGE, **GATEWAY, **LINK))
    assert on(node, policy.problems, ALICE, IPS, "vetha") == []


def in_order(text: str) -> list[str]:
    """The declarations of a table in order of their names."""
    return sorted(re.findall(r"^\t(?:set|map|chain) .*?^\t\}", text, re.MULTILINE | re.DOTALL))


def test_a_chain_at_one_more_hook_is_deleted(node: Node) -> None:
    """A base chain of another version, or of somebody else, in our table goes."""
    hold(node)
    nft(node, "-f", "-", stdin=ONE_MORE)
    assert on(node, policy.problems, ALICE, IPS, "vetha") != []
    assert on(node, policy.ensure_base) is True
    assert_alice_is_held(node)


def test_another_version_is_replaced(node: Node) -> None:
    """Rules of another version are replaced; sets that it has more of stay, and so do the daemon's chains."""
    hold(node)
    decide(node)
    nft(node, "-f", "-", stdin=OTHER_VERSION)
    assert on(node, policy.ensure_base) is True
    text = table(node, INET)
    assert chain(text, "connection") == chain(EMPTY, "connection")
    assert chain(text, "refuse") == chain(EMPTY, "refuse")
    assert chain(text, "in-1") == ["goto denied_ingress"]
    assert f"{IPS[0]} {TAG} : goto in-1" in text
    assert "set later4" in text
    assert on(node, policy.ensure_base) is False


def test_no_gap_while_rules_are_replaced(node: Node) -> None:
    """All changes of a repair are one transaction."""
    hold(node)
    nft(node, "-f", "-", stdin=OTHER_VERSION)
    before = generation(node)
    on(node, policy.ensure_base)
    assert generation(node) == before + 1


def generation(node: Node) -> int:
    """How many transactions there were."""

    def read() -> int:
        with Netlink(NETLINK_NETFILTER) as netlink:
            return messages.generation(netlink)

    return on(node, read)


def test_a_set_of_another_type_is_replaced(node: Node) -> None:
    """A set that has another type than it should have is made anew, empty; all others keep their elements."""
    hold(node)
    nft(node, "-f", "-", stdin=RETYPED)
    assert on(node, policy.problems, ALICE, IPS, "vetha") != []
    assert on(node, policy.ensure_base) is True
    assert_mended(node)


def test_what_cannot_be_mended_is_made_anew(node: Node) -> None:
    """If a foreign rule uses what must go, the tables are made anew; all pods are held until the daemon decides."""
    hold(node)
    decide(node)
    nft(node, "-f", "-", stdin=RETYPED)
    nft(node, "-f", "-", stdin=f"add rule {INET} in-1 ip6 saddr @exempt4 accept")
    assert on(node, policy.ensure_base) is True
    text = in_order(table(node, INET))
    assert text == in_order(holding(EMPTY, **HELD))


def test_an_add_makes_anew_what_it_cannot_mend(node: Node) -> None:
    """Neither does an ADD fail for that; the new pod is held, and so are the others."""
    hold(node, BOB, ("10.1.2.6",), "vethb")
    decide_nothing = f"add chain {INET} in-1; add rule {INET} in-1 ip6 saddr @exempt4 accept; flush chain {INET} held"
    nft(node, "-f", "-", stdin=f"{RETYPED}\n{decide_nothing}")
    hold(node)
    text = table(node, INET)
    assert text.count(": goto held") == 6
    assert chain(text, "held") == chain(EMPTY, "held")
