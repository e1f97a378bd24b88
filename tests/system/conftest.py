"""The tier with several nodes: namespaces joined by one underlay."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.fixtures import untouched_machine  # noqa: F401 (fixture)
from tests.system.underlay import Underlay


@pytest.fixture
def underlay(bin_dir: Path) -> Iterator[Underlay]:
    """Two links and a router between them, without nodes."""
    made = Underlay(bin_dir)
    try:
        yield made
    finally:
        made.close()
