"""linux/nftables/monitor.py: whose transactions are reported."""

from threading import Thread

from linux.nftables.messages import BRIDGE
from linux.nftables.monitor import ANYTHING, ELEMENTS, LOSS, NOTHING, TableMonitor
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
    """Whatever PID namespace it is in, the kernel says who it is."""
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


def test_elements_are_told_from_everything_else(node: Node) -> None:
    """Pods come and go as elements; a transaction that changes more than elements may have taken rules away."""
    node.run(["nft", "add table bridge slash24_dedup_net; add set bridge slash24_dedup_net s { type ipv4_addr; }"])
    node.run(["nft", "add table inet other; add set inet other s { type ipv4_addr; }"])
    with node.inside():
        monitor = TableMonitor(TABLES)
    with monitor:
        node.run(["nft", "add element bridge slash24_dedup_net s { 192.0.2.1 }"])
        assert monitor.changes() == ELEMENTS
        node.run(["nft", "delete element bridge slash24_dedup_net s { 192.0.2.1 }; add chain inet other c"])
        assert monitor.changes() == ELEMENTS
        node.run(["nft", "add element bridge slash24_dedup_net s { 192.0.2.1 }; add chain bridge slash24_dedup_net c"])
        assert monitor.changes() == ANYTHING
        node.run(["nft", "add element inet other s { 192.0.2.1 }"])
        assert monitor.changes() == NOTHING


def test_elements_of_few_sets_are_expected(node: Node) -> None:
    """Of other sets, any change is one of everything."""
    made = "add table bridge slash24_dedup_net; {0} pods {1}; {0} peers {1}"
    node.run(["nft", made.format("add set bridge slash24_dedup_net", "{ type ipv4_addr; }")])
    with node.inside():
        monitor = TableMonitor(TABLES, {b"pods\0"})
    with monitor:
        node.run(["nft", "add element bridge slash24_dedup_net pods { 192.0.2.1 }"])
        assert monitor.changes() == ELEMENTS
        node.run(["nft", "add element bridge slash24_dedup_net peers { 192.0.2.1 }"])
        assert monitor.changes() == ANYTHING


def test_elements_that_are_taken_away_without_a_sign_are_a_loss(node: Node) -> None:
    """One of those who do that by right adds an element to another set, in the same transaction."""
    table = "bridge slash24_dedup_net"
    made = "; ".join(f"add set {table} {name} {{ type ipv4_addr; }}" for name in ("pods", "left", "other"))
    node.run(["nft", f"add table {table}; {made}"])
    with node.inside():
        monitor = TableMonitor(TABLES, {b"pods\0", b"left\0", b"other\0"}, kept={b"pods\0"}, signs={b"left\0"})
    with monitor:
        gone = f"delete element {table} pods {{ 192.0.2.1 }}"
        for change, meaning in (
            (f"add element {table} pods {{ 192.0.2.1 }}; add element {table} other {{ 192.0.2.1 }}", ELEMENTS),
            (f"{gone}; add element {table} left {{ 192.0.2.1 }}", ELEMENTS),
            (f"delete element {table} left {{ 192.0.2.1 }}; delete element {table} other {{ 192.0.2.1 }}", ELEMENTS),
            (f"add element {table} pods {{ 192.0.2.1 }}", ELEMENTS),
            (f"{gone}; add element {table} other {{ 192.0.2.1 }}", LOSS),
            (f"add element {table} pods {{ 192.0.2.1 }}", ELEMENTS),
            (f"flush set {table} pods", LOSS),
            (f"flush set {table} left; add chain {table} c", ANYTHING),
        ):
            node.run(["nft", change])
            assert monitor.changes() == meaning, change


def test_whichever_thread_commits_is_known(node: Node) -> None:
    """What several threads change together is one transaction, of one of them; some threads live shortly."""

    def change(number: int) -> None:
        with node.inside():
            hairpin_duplicates.ensure(f"net{number}", "02:00:00:00:00:01", ["10.244.1.1/24"])

    names = [f"slash24_dedup_net{number}\0".encode() for number in range(200)]
    with node.inside():
        monitor = TableMonitor(names)
    with monitor:
        for first in range(0, len(names), 10):
            threads = [Thread(target=change, args=(number,)) for number in range(first, first + 10)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert monitor.changes() == NOTHING
        assert "slash24_dedup_net199" in node.ruleset()
        node.run(["nft", "delete table bridge slash24_dedup_net0"])
        assert monitor.changes() == ANYTHING
