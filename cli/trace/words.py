"""Rules in words: those of our tables by what they mean, others as `nft` prints them."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cli.trace.runs import Run
from linux.nftables.listing import FoundRule
from linux.nftables.messages import FAMILY_NAMES, TableName
from linux.nftables.trace import Step

_PREFIX = "slash24_"
_TITLES = {
    "antispoof": "anti-spoofing",
    "source_validation": "source validation",
    "policy": "network policies",
    "masquerade": "masquerade",
    "egress": "cluster masquerade",
    "portmap": "host ports",
    "vtep": "filter of the tunnel",
    "firewall": "firewall",
    "untracked": "datagrams of the tunnel",
    "dedup": "duplicates of the bridge",
}
_VERSION = re.compile(r",? (IP)?v[46](_spare)?$")
_DECISIVE = ("accept", "drop", "return")
_DIRECTIONS = {"eg": "egress", "in": "ingress", "tn": "egress"}
_NFT_SECONDS = 5
_RULE = re.compile(r"^\s*(.+?) # handle (\d+)$")

_PHRASES = {
    ("antispoof", "prerouting", "spoofed"): "its MAC is not that of the pod",
    ("source_validation", "prerouting", "own"): "it is from an address of the pod",
    ("source_validation", "prerouting", "own TCP over"): "it is from an address of the pod",
    ("source_validation", "prerouting", "not bound"): "the link is not checked",
    ("source_validation", "prerouting", ""): "its source is not an address of the pod",
    ("source_validation", "delivery", "own"): "it is for an address of the pod",
    ("source_validation", "delivery", "not bound"): "",
    ("source_validation", "delivery", ""): "it is for an address that the pod does not have",
    ("policy", "forward", "open"): "it belongs to an open connection",
    ("policy", "forward_ingress", "open"): "",
    ("policy", "output", "open"): "it belongs to an open connection",
    ("policy", "output", "own"): "the node itself sends it",
    ("policy", "output_ingress", "open"): "",
    ("policy", "output_ingress", "own"): "",
    ("policy", "input", "open"): "it belongs to an open connection",
    ("policy", "by_another_link", "forged"): "it comes in the name of a pod, by a link where no pod is",
    ("policy", "prerouting", "forged"): "it has the MAC of the gateway",
    ("policy", "prerouting", ""): "the node routes it, the bridge does not switch it",
    ("policy", "not_ipv4", ""): "the node routes it, the bridge does not switch it",
    ("policy", "forward", "astray"): "the gateway's MAC is not where it should be",
    ("policy", "switched", "others"): "a pod with policies exchanges only routed packets",
    ("policy", "to_ingress", "allowed"): "",
    ("policy", "to_bridge", "pods"): "",
    ("policy", "to_bridge", "vacant"): "no pod has its destination",
    ("policy", "refuse", "reset"): "",
    ("policy", "refuse", "refused"): "",
    ("masquerade", "postrouting", "multicast"): "",
    ("portmap", "any", "forward"): "the port leads to a pod",
    ("portmap", "exact", "forward"): "the port leads to a pod",
    ("portmap", "postrouting", "sent on"): "",
    ("portmap", "loopback", "from loopback"): "it comes from outside with a loopback address",
    ("portmap", "loopback", "to loopback"): "it comes from outside for a loopback address",
    ("vtep", "strangers", "strangers"): "it is not from a node of the network",
}
"""By table, chain and comment, without the IP version; "" if there is nothing to say."""


@dataclass(frozen=True)
class Rule:
    """A rule that matched, or (`handle` 0) the end of a base chain; `text`: its comment, or what `nft` prints."""

    chain: str
    handle: int
    text: str
    verdict: str


@dataclass(frozen=True)
class Passage:
    """A packet in a base chain. `title`: what the chain is, in words if it is ours. `phrases`: what it did there."""

    table: str
    chain: str
    title: str
    phrases: tuple[str, ...]
    rules: tuple[Rule, ...]
    is_dropped: bool

    def __str__(self) -> str:
        return f"{self.title}: {'; '.join(self.phrases) or ('dropped' if self.is_dropped else 'passed')}"


def feature_of(table: TableName) -> str:
    """Which of our tables it is ("policy", "egress", ...); "" if it is another program's."""
    rest = table.name.removeprefix(_PREFIX)
    if rest == table.name:
        return ""
    return next((one for one in _TITLES if rest == one or rest.startswith(f"{one}_")), rest)


class Words:
    """Tells what a run was. `rules`: lists those of a chain. `name_at`: the name of the pod with a packed address."""

    def __init__(self, rules: Callable[[TableName, str], Iterable[FoundRule]], name_at: Callable[[bytes], str]) -> None:
        self._list, self._name_at = rules, name_at
        self._rules: dict[tuple[TableName, str], dict[int, FoundRule]] = {}
        self._texts: dict[tuple[TableName, str], Mapping[int, str]] = {}

    def passage(self, run: Run) -> Passage:
        """The run in words."""
        feature, where = feature_of(run.table), f"{run.table} {run.chain}"
        title = f"{_TITLES[feature]} ({where})" if feature in _TITLES else where
        phrases = self._ours(run, feature) if feature else self._foreign(run)
        rules = tuple(self._rule(run.table, step, is_ours=bool(feature)) for step in run.steps)
        kept = tuple(dict.fromkeys(filter(None, phrases)))
        return Passage(str(run.table), run.chain, title, kept, rules, run.is_dropped)

    # -- ours ---------------------------------------------------------------------------------------------------------

    def _ours(self, run: Run, feature: str) -> Iterator[str]:
        allowing, direction = "", ""
        for step in run.steps:
            comment = _VERSION.sub("", self._comment(run.table, step))
            if feature == "policy" and comment in ("egress", "ingress", "to the node"):
                direction = "ingress" if comment == "ingress" else "egress"
            prefix = step.chain.partition("-")[0]
            if feature == "policy" and "-" in step.chain:
                direction = _DIRECTIONS.get(prefix, direction)
                pod = self._name_at(run.ends.destination if direction == "ingress" else run.ends.source)
                yield _of_policies(prefix, comment, step, f"{direction} of {pod}", allowing)
                allowing = comment if step.verdict == "jump" else allowing
            elif feature == "policy" and step.chain == "held":
                pod = self._name_at(run.ends.destination if direction == "ingress" else run.ends.source)
                yield f"{pod} is held until slash24-node says which policies it has"
            elif step.rule:
                yield _phrase(feature, step, comment)

    def _comment(self, table: TableName, step: Step) -> str:
        found = self._found(table, step.chain).get(step.rule)
        return found.comment if found else ""

    def _found(self, table: TableName, chain: str) -> dict[int, FoundRule]:
        place = (table, chain)
        if place not in self._rules:
            self._rules[place] = {rule.handle: rule for rule in self._list(table, chain)}
        return self._rules[place]

    # -- others -------------------------------------------------------------------------------------------------------

    def _foreign(self, run: Run) -> Iterator[str]:
        for step in run.steps:
            rule = self._rule(run.table, step, is_ours=False)
            where = f"{step.chain} " if step.chain != run.chain else ""
            if step.rule:
                yield f"{where}rule {step.rule}: {rule.text or _verdict(step)}"
            elif step.is_dropped:
                yield f"no rule of {step.chain} decides, its policy is drop"

    def _rule(self, table: TableName, step: Step, *, is_ours: bool) -> Rule:
        text = self._comment(table, step) if is_ours else self._text(table, step)
        return Rule(step.chain, step.rule, text, _verdict(step))

    def _text(self, table: TableName, step: Step) -> str:
        place = (table, step.chain)
        if not step.rule:
            return ""
        if place not in self._texts:
            self._texts[place] = _printed_by_nft(table, step.chain)
        return self._texts[place].get(step.rule, "") or self._comment(table, step)


def _verdict(step: Step) -> str:
    return f"{step.verdict} {step.target}".rstrip()


def _of_policies(prefix: str, comment: str, step: Step, whose: str, allowing: str) -> str:
    """What a rule in a chain of the daemon's means. `whose`: "egress of default/a"."""
    is_denied = step.target.startswith("denied_") or step.is_dropped
    if comment.startswith("isolated by "):
        names = comment.removeprefix("isolated by ")
        return f"{whose} is isolated by {_named(names, 'NetworkPolicy', 'NetworkPolicies')}, and no rule allows this"
    if prefix in ("admin", "baseline"):
        if step.verdict == "return":
            return ""
        return f"{whose} is {'denied' if is_denied else 'allowed'} by ClusterNetworkPolicy {comment}"
    if prefix == "r":
        if step.verdict not in ("accept", "goto"):
            return ""
        names = _named(allowing, "NetworkPolicy", "NetworkPolicies")
        return f"{whose} is allowed by {names}{f' ({comment})' if comment else ''}"
    return f"no policy isolates {whose}" if comment == "not isolated" else ""


def _named(names: str, one: str, several: str) -> str:
    return f"{several if ', ' in names else one} {names}"


def _phrase(feature: str, step: Step, comment: str) -> str:
    chain = step.chain
    for known in (comment, comment.rpartition(" ")[0] if comment.startswith("own ") else comment):
        if (feature, chain, known) in _PHRASES:
            return _PHRASES[feature, chain, known]
    if comment in ("IPv4", "IPv6"):
        return _PHRASES.get((feature, chain, ""), comment)
    if feature == "policy" and comment in ("denied", "log", "denied egress", "denied ingress"):
        return ""
    if feature == "policy" and comment == "not isolated":
        return "no policy isolates an end of it" if chain != "incoming" else "no policy isolates its destination"
    if feature == "masquerade" and chain.startswith("subnet-"):
        subnet = chain.removeprefix("subnet-").replace("_", ":")
        return f"it {'stays in' if comment == 'own subnet' else 'leaves'} the pod's subnet, {subnet}"
    if feature == "portmap" and chain.startswith("from-"):
        return "it gets the node's address, so that the answer comes back here"
    if feature == "egress":
        return f"{comment}: it gets the node's address"
    if step.is_dropped or step.verdict in _DECISIVE:
        return f'rule "{comment}"' if comment else ""
    return ""


def _printed_by_nft(table: TableName, chain: str) -> Mapping[int, str]:
    """The rules of a chain by handle; none without `nft`, which is not needed otherwise."""
    nft = shutil.which("nft")
    if not nft:
        return {}
    argv = [nft, "-a", "-s", "list", "chain", FAMILY_NAMES[table.family], table.name, chain]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_NFT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return rules_printed(done.stdout.decode("utf-8", "replace").splitlines())


def rules_printed(lines: Sequence[str]) -> Mapping[int, str]:
    """The rules in what `nft -a list chain` prints, by handle."""
    found = (_RULE.match(line) for line in lines)
    return {int(one[2]): one[1] for one in found if one and not one[1].endswith("{")}
