"""The tier with real namespaces: every test runs on a node of its own, which is destroyed with all in it."""

from pathlib import Path

import pytest

from tests.netns.cni import CNI
from tests.netns.fixtures import node, untouched_machine, vlan_filtering  # noqa: F401 (fixtures)
from tests.netns.node import Node


@pytest.fixture
def cni(node: Node, bin_dir: Path) -> CNI:  # noqa: F811 (the fixture, not the import)
    """The plugins under test, called on the test's node."""
    return CNI(node, bin_dir)


@pytest.fixture
def reference(node: Node, reference_bin: Path) -> CNI:  # noqa: F811 (the fixture, not the import)
    """The reference suite's plugins, called on the test's node."""
    return CNI(node, reference_bin)
