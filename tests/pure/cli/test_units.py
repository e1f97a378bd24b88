"""Numbers as people read them."""

import pytest

from cli.units import size, span


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (7300, "2 h"), (86_400, "1 d"), (9e7, "1041 d")],
)
def test_spans(seconds: float, text: str) -> None:
    """In the largest unit that fits."""
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("octets", "text"), [(0, "0 B"), (999, "999 B"), (1234, "1.2 kB"), (35_999_999, "35 MB"), (2 * 10**15, "2000 TB")]
)
def test_sizes(octets: int, text: str) -> None:
    """In the largest unit that fits."""
    assert size(octets) == text
