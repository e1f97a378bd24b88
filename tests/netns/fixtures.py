"""Fixtures for every tier that needs namespaces; a conftest imports them by name."""

from collections.abc import Iterator

import pytest

from tests.netns.node import Node, leave_machine, machine_state


@pytest.fixture(scope="session", autouse=True)
def untouched_machine() -> Iterator[None]:
    """The tests leave no link, namespace, mount, rule, sysctl, file or process on the machine.

    The check runs in network and mount namespaces of the test run, in which no other program makes changes.
    """
    leave_machine()
    before = machine_state()
    yield
    after = machine_state()
    changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    assert not changed, f"the tests changed the machine, each before and after: {changed}"


@pytest.fixture
def node() -> Iterator[Node]:
    """A node for this test alone."""
    made = Node()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def vlan_filtering(node: Node) -> None:
    """Skips the test if the kernel lacks bridge VLAN filtering."""
    made = node.run(["ip", "link", "add", "probe", "type", "bridge", "vlan_filtering", "1"], check=False)
    if made.returncode != 0:
        pytest.skip("kernel lacks bridge VLAN filtering")
    node.run(["ip", "link", "del", "probe"])
