"""What holds for each table that is written as a whole: egress, duplicates, VTEP filter, untracked datagrams."""

import os
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import pytest

from linux.netlink.socket import NETLINK_NETFILTER, Netlink
from linux.nftables import messages
from linux.rtnl.vxlan import Vtep
from rules import cluster_masquerade, hairpin_duplicates, notrack, vtep_filter
from rules.cluster_masquerade import Scope
from rules.vtep_filter import Tunnel
from tests.netns.nft_tools import at_once, chain, on, table
from tests.netns.nft_tools import nft as nft_program
from tests.netns.node import Node


@dataclass(frozen=True)
class Feature:
    """A feature, two variants of its arguments, its table for network "net1", a chain, and an IPv4 set if it has one.

    `reader`: the chain whose rules use the set.
    """

    module: ModuleType
    wanted: tuple
    other: tuple
    table: str
    chain: str
    set: str = ""
    element: str = ""
    reader: str = "postrouting"

    def __str__(self) -> str:
        return self.table.split("_")[1]

    def ensure(self, node: Node, *arguments: object, network: str = "net1") -> None:
        """Ensure the rules for `wanted`, or for `arguments`."""
        on(node, self.module.ensure, network, *(arguments or self.wanted))

    def problems(self, node: Node, *arguments: object, network: str = "net1") -> list[str]:
        """The problems that CHECK reports for `wanted`, or for `arguments`."""
        return on(node, self.module.problems, network, *(arguments or self.wanted))


FEATURES = [
    Feature(
        cluster_masquerade,
        (Scope(["10.244.1.0/24", "fd00:1::/64"], ["10.0.0.0/8", "fd00::/32"], ["192.0.2.1", "192.0.2.2"], "vx"),),
        (Scope(["10.244.1.0/24"], ["10.0.0.0/9"], ["192.0.2.7"], "vy"),),
        "inet slash24_egress_net1",
        "postrouting",
        "nodes4",
        "192.0.2.1",
    ),
    Feature(
        hairpin_duplicates,
        ("0a:58:0a:f4:01:01", ["10.244.1.1/24", "fd00:1::1/64"]),
        ("0a:58:0a:f4:01:02", ["10.244.1.1/24"]),
        "bridge slash24_dedup_net1",
        "output",
    ),
    Feature(
        vtep_filter,
        (Tunnel(1, 4789, ["192.0.2.2", "192.0.2.3", "2001:db8:1::2"], "eth0", "vx", "cbr0"),),
        (Tunnel(7, 8472, ["192.0.2.2"], "eth1", "vy", "cbr1"),),
        "inet slash24_vtep_net1",
        "input",
        "peers4",
        "192.0.2.2",
        "strangers",
    ),
    Feature(
        notrack,
        (Vtep("vx", 1, 4789, 1, "192.0.2.1", "02:24:00:00:00:01", 1450, tx_checksum=True),),
        (Vtep("vx", 7, 8472, 1, "2001:db8:1::1", "02:24:00:00:00:01", 1430, tx_checksum=True),),
        "inet slash24_untracked_net1",
        "prerouting",
    ),
]


@pytest.fixture(params=FEATURES, ids=str)
def feature(request: pytest.FixtureRequest) -> Feature:
    """Each of the features."""
    return request.param


def generation(node: Node) -> int:
    """The generation ID of the node's ruleset."""

    def read() -> int:
        with Netlink(NETLINK_NETFILTER) as netlink:
            return messages.generation(netlink)

    return on(node, read)


# -- changes --------------------------------------------------------------------------------------------------------


def test_second_ensure_changes_nothing(node: Node, feature: Feature) -> None:
    """If everything is in place, `ensure` commits no transaction."""
    feature.ensure(node)
    before = generation(node)
    feature.ensure(node)
    assert feature.problems(node) == []
    assert generation(node) == before


def test_transactions_of_each_change(node: Node, feature: Feature) -> None:
    """The first `ensure` and a delete take one transaction each, a change with sets five, a second delete none."""
    for change, transactions in (
        (partial(feature.ensure, node), 1),
        (partial(feature.ensure, node, *feature.other), 5 if feature.set else 1),
        (partial(on, node, feature.module.delete, "net1"), 1),
        (partial(on, node, feature.module.delete, "net1"), 0),
    ):
        before = generation(node)
        change()
        assert generation(node) == before + transactions
    assert node.ruleset() == ""


def test_a_change_leaves_no_old_elements_or_rules(node: Node, feature: Feature) -> None:
    """After a change the table equals one created with the new arguments."""
    feature.ensure(node, *feature.other)
    fresh = table(node, feature.table)
    on(node, feature.module.delete, "net1")
    feature.ensure(node)
    assert feature.problems(node, *feature.other) != []
    feature.ensure(node, *feature.other)
    assert table(node, feature.table) == fresh
    assert feature.problems(node, *feature.other) == []


@pytest.mark.parametrize("transactions", range(1, 5))
@pytest.mark.parametrize("feature", [feature for feature in FEATURES if feature.set], ids=str)
def test_killed_during_a_change(node: Node, feature: Feature, transactions: int) -> None:
    """If a change is killed after some transactions, all rules exist; CHECK reports the rest, `ensure` completes it."""
    feature.ensure(node, *feature.other)
    right = table(node, feature.table)
    rules = len(chain(right, feature.chain))
    feature.ensure(node)
    assert at_once(node, [partial(ensure_until_killed, feature, transactions)]) == 1
    held = chain(table(node, feature.table), feature.chain)
    assert len(held) == rules
    assert (feature.problems(node, *feature.other) == []) == (transactions == 4)
    feature.ensure(node, *feature.other)
    assert feature.problems(node, *feature.other) == []
    assert {line for line in right.splitlines() if line.strip()} <= set(table(node, feature.table).splitlines())
    feature.ensure(node)
    feature.ensure(node, *feature.other)
    assert table(node, feature.table) == right


def ensure_until_killed(feature: Feature, transactions: int) -> None:
    """Ensure `other` in a process that exits after `transactions` transactions."""
    commit, done = messages.commit, 0

    def commit_or_die(*args: object, **kwargs: object) -> None:
        nonlocal done
        if done == transactions:
            os._exit(9)
        commit(*args, **kwargs)
        done += 1

    messages.commit = commit_or_die
    feature.module.ensure("net1", *feature.other)


def test_networks_are_independent(node: Node, feature: Feature) -> None:
    """Each network has its own table, even if names share a prefix."""
    feature.ensure(node)
    saved = node.ruleset()
    for network in ("net11", "net1.", "net-1"):
        feature.ensure(node, *feature.other, network=network)
    for network in ("net11", "net1.", "net-1"):
        assert feature.problems(node, *feature.other, network=network) == []
        on(node, feature.module.delete, network)
    assert node.ruleset() == saved


@pytest.mark.parametrize("network", ["net1", "a.b-c_d", "9.-", "n" * 128, "n" * 300, 'no "name"; of {ours}'])
def test_round_trip(node: Node, feature: Feature, network: str) -> None:
    """`nft -f` restores the output of `nft list ruleset` exactly, and CHECK passes afterwards."""
    feature.ensure(node, network=network)
    saved = node.ruleset()
    assert network[:1] in saved
    nft_program(node, "-f", "-", stdin=f"flush ruleset\n{saved}")
    assert node.ruleset() == saved
    before = generation(node)
    assert feature.problems(node, network=network) == []
    feature.ensure(node, network=network)
    assert generation(node) == before
    on(node, feature.module.delete, network)
    assert node.ruleset() == ""


# -- drift ----------------------------------------------------------------------------------------------------------

DRIFTS = {
    "table deleted": "delete table {table}",
    "table flushed": "flush table {table}",
    "table dormant": "add table {table} {{ flags dormant; }}",
    "chain flushed": "flush chain {table} {chain}",
    "chain deleted": "flush chain {table} {chain}; delete chain {table} {chain}",
    "chain at another hook": "flush chain {table} {chain}; delete chain {table} {chain}; "
    "add chain {table} {chain} {{ type filter hook forward priority 0; }}",
    "chain drops": "add chain {table} {chain} {{ policy drop; }}",
    "foreign rule in front": "insert rule {table} {chain} accept",
    "foreign rule behind": "add rule {table} {chain} drop",
    "table of somebody else": "delete table {table}; add table {table}; add chain {table} {chain}",
}
DRIFTS_OF_SETS = {
    "element deleted": "delete element {table} {set} {{ {element} }}",
    "element added": "add element {table} {set} {{ 203.0.113.9 }}",
    "set flushed": "flush set {table} {set}",
    "set deleted": "flush chain {table} {reader}; delete set {table} {set}",
    "set of another kind": "flush chain {table} {reader}; delete set {table} {set}; "
    "add set {table} {set} {{ type ether_addr; }}",
    "set in foreign use": "flush chain {table} {reader}; "
    "add chain {table} foreign; add rule {table} foreign ip saddr @{set} drop",
}


DAMAGE = DRIFTS | DRIFTS_OF_SETS
CASES = [(feature, drift) for feature in FEATURES for drift in DAMAGE if feature.set or drift in DRIFTS]
WORDS = {
    "table deleted": "table {table} does not exist",
    "table dormant": "table {table} is dormant",
    "chain flushed": "chain {chain} of table {table} does not hold its rules",
    "chain deleted": "chain {chain} of table {table} is not at its hook",
    "element deleted": "set {set} of table {table} lacks {element}",
    "element added": "set {set} of table {table} should not hold 203.0.113.9",
}


def inflict(node: Node, feature: Feature, drift: str) -> None:
    """Change the feature's table as `drift` says."""
    lines = DAMAGE[drift].format(**vars(feature)).replace("; ", "\n").replace("dormant\n", "dormant; ")
    nft_program(node, "-f", "-", stdin=lines)


@pytest.mark.parametrize(("feature", "drift"), CASES, ids=str)
def test_drift(node: Node, feature: Feature, drift: str) -> None:
    """CHECK reports any change to the table, and the next `ensure` repairs it."""
    feature.ensure(node)
    right = table(node, feature.table)
    inflict(node, feature, drift)
    assert feature.problems(node) != []
    feature.ensure(node)
    assert table(node, feature.table) == right
    assert feature.problems(node) == []


@pytest.mark.parametrize(("feature", "drift"), [case for case in CASES if case[1] in WORDS], ids=str)
def test_messages_of_check(node: Node, feature: Feature, drift: str) -> None:
    """The message says what is missing or wrong."""
    feature.ensure(node)
    inflict(node, feature, drift)
    assert feature.problems(node) == [WORDS[drift].format(**vars(feature))]


# -- concurrency ----------------------------------------------------------------------------------------------------


def test_sixteen_concurrent_processes(node: Node, feature: Feature) -> None:
    """Sixteen processes ensure the same rules concurrently: all succeed, and the rules exist once."""
    feature.ensure(node)
    right = table(node, feature.table)
    on(node, feature.module.delete, "net1")
    assert at_once(node, [partial(feature.module.ensure, "net1", *feature.wanted)] * 16) == 0
    assert table(node, feature.table) == right


def test_concurrent_processes_that_disagree(node: Node, feature: Feature) -> None:
    """Processes that ensure two variants or delete concurrently all succeed; the table is one variant or absent."""
    calls = [
        partial(feature.module.ensure, "net1", *feature.wanted),
        partial(feature.module.ensure, "net1", *feature.other),
        partial(feature.module.delete, "net1"),
        partial(feature.module.problems, "net1", *feature.wanted),
    ]
    assert at_once(node, calls * 4) == 0
    wholes = [feature.problems(node) == [], feature.problems(node, *feature.other) == [], node.ruleset() == ""]
    assert sum(wholes) == 1
