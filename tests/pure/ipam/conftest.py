"""Fixtures of the tests of the leases."""

from pathlib import Path

import pytest

from ipam.store import LeaseStore
from tests.pure.ipam.plugin_node import Node
from tests.pure.ipam.support import BOOT, disk_store


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "dir" / "net"


@pytest.fixture
def store(folder) -> LeaseStore:
    made = disk_store(str(folder), BOOT)
    made.create()
    return made


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A node whose dataDir does not exist yet."""
    return Node(tmp_path / "networks")
