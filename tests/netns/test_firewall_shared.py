"""`firewall` beside other tools: it interoperates with the reference plugin, and nft can save and restore its rules."""

# ruff: noqa: F811 (parameters are the imported fixtures)

import pytest

from tests.conftest import ROOT
from tests.netns.cni import CNI, CNIFailure
from tests.netns.nft_tools import nft
from tests.netns.node import Node
from tests.netns.test_firewall import (  # noqa: F401  (fixtures)
    POD_V4,
    POD_V6,
    Member,
    dropping,
    other,
    outside,
    pod,
    shown,
)


def test_either_adds_and_the_other_checks_and_deletes(
    pod: Member, other: Member, dropping: Node, reference: CNI
) -> None:
    """Both plugins create the same rules, so each recognises the other's."""
    pod.add()
    pod.check(reference)
    pod.delete(reference)
    assert [rule for rule in shown(dropping) if f"{POD_V4}/32" in rule and "--ctstate DNAT" not in rule] == []
    pod.cni.gc(pod.conf())
    assert f"{POD_V4}/32" not in "\n".join(shown(dropping))
    other.add(reference)
    other.check()
    other.delete()
    assert f"{other.v4}/32" not in "\n".join(shown(dropping))
    assert f"{other.v6}/128" not in "\n".join(shown(dropping, "ip6tables"))


def test_the_documented_commands_clean_up_after_a_change_back_to_the_reference(
    pod: Member, other: Member, dropping: Node, reference: CNI
) -> None:
    """They remove the rules of deleted pods and keep those of running pods; policies go with the table."""
    for member in (pod, other):
        member.add(ingressPolicy="isolated")
    pod.delete(reference)
    section = (ROOT / "docs/firewall.md").read_text().partition("## Changing back")[2]
    script, command = section.partition("```sh\n")[2].partition("```")[0], "nft delete table inet slash24_firewall"
    for _ in range(2):
        dropping.run(["sh", "-e", "-c", script])
    for program, gone, stays in (("iptables", POD_V4, other.v4), ("ip6tables", POD_V6, other.v6)):
        rules = "\n".join(shown(dropping, program))
        assert f" {gone}/" not in rules
        assert rules.count(f" {stays}/") == 3
    assert command in section
    dropping.run(command.split())
    assert "poda" not in dropping.ruleset()
    other.check(reference)


@pytest.mark.parametrize("policy", ["open", "same-bridge", "isolated"])
def test_check_accepts_rules_saved_and_restored_by_nft(pod: Member, other: Member, dropping: Node, policy: str) -> None:
    """As nftables.service does at a reboot: nft saves iptables matches in its own syntax."""
    for member in (pod, other):
        member.add(ingressPolicy=policy)
    saved = dropping.ruleset()
    dropping.run(["sh", "-ec", "nft flush ruleset; nft -f -"], stdin=saved)
    for member in (pod, other):
        member.check(ingressPolicy=policy)
        member.add(ingressPolicy=policy)
    assert dropping.ruleset().count("10.1.2.") == saved.count("10.1.2."), "an ADD made rules again that were there"
    nft(dropping, "delete rule ip filter CNI-FORWARD handle " + _handle(dropping, f"{POD_V4} ct status dnat"))
    with pytest.raises(CNIFailure, match=f"does not accept connections translated .DNAT. to {POD_V4}"):
        pod.check(ingressPolicy=policy)
    pod.delete()
    assert f" {POD_V4} " not in dropping.ruleset()


def _handle(node: Node, rule: str) -> str:
    """The handle of a rule in CNI-FORWARD."""
    listed = node.run(["nft", "-a", "list", "chain", "ip", "filter", "CNI-FORWARD"]).stdout
    return next(line.rpartition(" ")[2] for line in listed.splitlines() if rule in line)
