"""The tier with several nodes: namespaces joined by one underlay."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.fixtures import untouched_machine  # noqa: F401 (fixture)
from tests.system.daemons import Cluster, cluster_on
from tests.system.underlay import Underlay


@pytest.fixture
def underlay(bin_dir: Path) -> Iterator[Underlay]:
    """Two links and a router between them, without nodes."""
    made = Underlay(bin_dir)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def cluster(underlay: Underlay, tmp_path: Path, bin_dir: Path, reference_bin: Path) -> Iterator[Cluster]:
    """A cluster on the underlay, without nodes, whose registry is a folder."""
    with cluster_on(underlay, tmp_path, bin_dir, reference_bin) as made:
        yield made
