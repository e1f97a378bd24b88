"""Rules in words: what matched of ours is a sentence, what matched of others the rule."""

from cli.trace.runs import Run, runs_of
from cli.trace.words import Words, feature_of, rules_printed
from linux.nftables.listing import FoundRule
from linux.nftables.messages import BRIDGE, INET, IP, TableName
from linux.nftables.trace import Step
from tests.pure.cli.test_trace_probe import PROBES, sent

POLICY = TableName(INET, "slash24_policy")
NAMES = {b"\x0a\1\2\2": "shop/web", b"\x0a\1\2\3": "shop/db"}
PROBE = PROBES[0]


def passage(table: TableName, *steps: tuple[str, str, str], others: str = "") -> str:
    """A run in words; `steps`: chain, comment, verdict and its target."""
    found: dict[str, list[FoundRule]] = {}
    made = []
    for number, (chain, comment, verdict) in enumerate(steps, 1):
        found.setdefault(chain, []).append(FoundRule(number, chain, comment, b""))
        word, _, target = verdict.partition(" ")
        handle = number if comment or others else 0
        made.append(Step(table, chain, handle, word, target, b"" if made else sent(PROBE), 1, 0, 0, 0))
    (run,) = runs_of(PROBE, made)
    return str(Words(lambda _, chain: found.get(chain, []), NAMES.__getitem__).passage(run))


def test_policies() -> None:
    """Whose they are, and which."""
    start = ("forward", "by another link", "jump by_another_link"), ("forward", "new", "goto connection")
    isolated = passage(
        POLICY,
        *start,
        ("connection", "egress IPv4", "goto eg-1"),
        ("eg-1", "shop/dns, shop/b", "jump r-1"),
        ("r-1", "", "return"),
        ("eg-1", "isolated by shop/dns, shop/b", "goto denied_egress"),
        ("denied_egress", "denied egress IPv4", "continue"),
        ("denied_egress", "log", "jump log_egress"),
        ("denied_egress", "denied", "drop"),
    )
    names = "NetworkPolicies shop/dns, shop/b"
    where = "network policies (inet slash24_policy forward): "
    assert isolated == f"{where}egress of shop/web is isolated by {names}, and no rule allows this"
    incoming = (("forward_ingress", "new", "goto incoming"), ("incoming", "ingress IPv4", "goto in-1"))
    allowed = passage(POLICY, *incoming, ("in-1", "shop/db", "jump r-2"), ("r-2", "ingress[0]", "accept"))
    assert allowed.endswith(": ingress of shop/db is allowed by NetworkPolicy shop/db (ingress[0])")
    admin = passage(
        POLICY, *incoming, ("in-1", "", "jump admin-in-1"), ("admin-in-1", "no-web ingress[0]", "goto denied_ingress")
    )
    assert admin.endswith(": ingress of shop/db is denied by ClusterNetworkPolicy no-web ingress[0]")
    held = passage(POLICY, *start, ("connection", "egress IPv4", "goto held"), ("held", "held", "drop"))
    assert held.endswith(": shop/web is held until slash24-node says which policies it has")
    free = passage(POLICY, *incoming, ("in-1", "not isolated", "accept"))
    assert free.endswith(": no policy isolates ingress of shop/db")


def test_other_tables_of_ours() -> None:
    """The name of a network in a table's name does not matter, nor does the IP version in a comment."""
    spoofed = passage(TableName(BRIDGE, "slash24_antispoof"), ("prerouting", "spoofed", "drop"))
    assert spoofed == "anti-spoofing (bridge slash24_antispoof prerouting): its MAC is not that of the pod"
    validation = TableName(BRIDGE, "slash24_source_validation")
    assert "is not an address of the pod" in passage(validation, ("prerouting", "IPv4", "drop"))
    assert "is from an address of the pod" in passage(validation, ("prerouting", "own IPv4", "return"))
    egress = passage(TableName(INET, "slash24_egress_net_1"), ("postrouting", "beyond the cluster, v4", "accept"))
    assert egress.endswith("beyond the cluster: it gets the node's address")
    strangers = passage(TableName(INET, "slash24_vtep_net"), ("strangers", "strangers, v6_spare", "drop"))
    assert strangers.endswith("it is not from a node of the network")
    assert passage(TableName(INET, "slash24_new"), ("x", "some rule", "drop")).endswith('x: rule "some rule"')
    assert passage(POLICY, ("forward", "", "accept")).endswith(": passed")
    assert (feature_of(TableName(IP, "nat")), feature_of(TableName(INET, "slash24_vtep_a"))) == ("", "vtep")


def test_rules_of_others() -> None:
    """With their comments if `nft` does not print them, else with handle and verdict; and a policy that drops."""
    table = TableName(IP, "test_that_is_not_there")
    found = passage(table, ("FORWARD", "to kube", "jump KUBE"), ("KUBE", "", "drop"), others="yes")
    assert found == f"ip {table.name} FORWARD: rule 1: to kube; KUBE rule 2: drop"
    assert passage(table, ("FORWARD", "", "drop")).endswith("no rule of FORWARD decides, its policy is drop")


def test_what_nft_prints() -> None:
    """Rules have handles at their ends; so have chains and tables."""
    lines = [
        "table inet t { # handle 1",
        "\tchain c { # handle 2",
        "\t\ttype filter hook forward priority filter; policy accept;",
        '\t\ttcp dport 80 counter drop comment "a # handle 9" # handle 3',
        "\t}",
        "}",
    ]
    assert rules_printed(lines) == {3: 'tcp dport 80 counter drop comment "a # handle 9"'}


def test_runs_are_of_the_probe() -> None:
    """Steps about other packets, and those of the tables that trace, are left out."""
    mine, other = sent(PROBE), sent(PROBES[2])
    steps = [
        Step(POLICY, "forward", 1, "accept", "", mine, 1, 0, 0, 0),
        Step(POLICY, "forward", 1, "drop", "", other, 2, 0, 0, 0),
        Step(POLICY, "forward", 2, "drop", "", b"", 2, 0, 0, 0),
        Step(TableName(INET, "slash24_trace"), "prerouting", 2, "accept", "", mine, 1, 0, 0, 0),
    ]
    (run,) = runs_of(PROBE, steps)
    assert isinstance(run, Run)
    assert (run.chain, run.steps, run.is_dropped) == ("forward", steps[:1], False)
