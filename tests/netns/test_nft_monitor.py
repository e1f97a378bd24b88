"""linux/nftables/monitor.py: whose transactions are reported."""

from linux.nftables.messages import BRIDGE
from linux.nftables.monitor import TableMonitor
from linux.nftables.static_table import delete, table_name
from rules import hairpin_duplicates
from tests.netns.node import Node

TABLES = (b"slash24_dedup_net\0",)


def test_transactions_of_others_are_reported_once(node: Node) -> None:
    """If they change one of the tables."""
    with node.inside():
        monitor = TableMonitor(TABLES)
    with monitor:
        node.run(["nft", "add table bridge slash24_dedup_net2"])
        node.run(["nft", "add table inet other; add set inet other s { type ipv4_addr; }"])
        assert not monitor.has_changed()
        node.run(["nft", "add table bridge slash24_dedup_net"])
        assert monitor.has_changed()
        assert not monitor.has_changed()
        node.run(["nft", "delete table bridge slash24_dedup_net"])
        assert monitor.has_changed()


def test_own_transactions_are_not_reported(node: Node) -> None:
    """Those of the thread that opened it; the author is known also in another PID namespace."""
    with node.inside():
        monitor = TableMonitor(TABLES)
        hairpin_duplicates.ensure("net", "02:00:00:00:00:01", ["10.244.1.1/24"])
        assert "slash24_dedup_net" in node.ruleset()
        assert not monitor.has_changed()
        delete(table_name(BRIDGE, "dedup", "net"))
    with monitor:
        assert not monitor.has_changed()
        node.run(["nft", "add table bridge slash24_dedup_net"])
        assert monitor.has_changed()
