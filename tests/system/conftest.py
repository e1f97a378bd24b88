"""The tier with several nodes: namespaces joined by one underlay, the real cnitool on each."""

from tests.netns.fixtures import untouched_machine  # noqa: F401 (fixture)
