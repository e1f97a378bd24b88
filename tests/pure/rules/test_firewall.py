"""Which iptables rules belong to which pod."""

import pytest

from linux.nftables import listing
from linux.nftables.listing import FoundRule
from rules import iptables
from rules.firewall import rule_addresses, rule_deletions


def found(expressions: list[bytes]) -> FoundRule:
    """A rule as the kernel lists it."""
    return FoundRule(1, "CNI-FORWARD", "", b"".join(expressions))


def test_the_address_of_a_rule() -> None:
    """Rules of a pod have its address; the jump to the administrator's chain has none."""
    for version, address in ((4, bytes([10, 1, 2, 5])), (6, bytes(15) + b"\5")):
        for make in (iptables.accept_from, iptables.accept_replies_to, iptables.accept_translated_to):
            assert list(rule_addresses(found(make(address)), version)) == [address]
    assert list(rule_addresses(found(iptables.jump("CNI-ADMIN", "x")), 4)) == []
    assert list(rule_addresses(found([]), 4)) == []


def test_many_pods_are_removed_in_one_pass_over_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GC on a full node does not check every rule for every pod, which would take minutes."""
    pods = [bytes([10, 1, 2, number]) for number in range(200)]
    rules = [found(iptables.accept_from(pod)) for pod in pods]
    looks, look = [], listing.source_network
    monkeypatch.setattr(listing, "list_rules", lambda *_: rules)
    monkeypatch.setattr(listing, "source_network", lambda *given: looks.append(given) or look(*given))
    assert len(rule_deletions(None, 4, pods[:150])) == 150
    assert len(looks) == len(rules)
