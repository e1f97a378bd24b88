"""What the documentation shows of commands is what they print."""

from pathlib import Path

import pytest

from tests.netns.transcripts import blocks, comparable, scene, transcript

pytestmark = pytest.mark.cold(reason="the node has an agent of its own")


def test_transcripts_are_true(bin_dir: Path) -> None:
    """All blocks of the language `console`, on one node, in the order of the pages."""
    with scene(bin_dir) as node:
        shown = [*blocks()]
        assert shown
        for block in shown:
            where = f"{block.page.name}:{block.first}"
            assert (where, comparable(transcript(node, block))) == (where, comparable(block.lines))
