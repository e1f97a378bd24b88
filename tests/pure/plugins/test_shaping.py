"""Token buckets: the values that the kernel gets for a limit, and their bytes."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linux.netlink.attributes import attributes_of
from linux.rtnl import tc
from linux.rtnl.tc import Bucket
from plugins.bandwidth.shaping import bucket, ticks_per_microsecond
from tests.pure.fake_netlink import FakeNetlink

TICKS = 15.625  # per microsecond, on every kernel since 2.6.31
LARGEST = (1 << 32) - 1
MBIT = 1_000_000
TCA_AT, TCA_OPTIONS = 36, 2  # the offset of a message's attributes; an attribute's type


@pytest.mark.parametrize(
    ("rate", "burst", "expected"),
    [
        # What the reference plugin v1.9.1 has sent for these.
        (1 * MBIT, 800_000, Bucket(125_000, 103_125, 12_500_000)),
        (2 * MBIT, 1_600_000, Bucket(250_000, 206_250, 12_500_000)),
        (8, 8, Bucket(1, 1, 15_625_000)),
        (12_345, 10_000, Bucket(1_543, 1_288, 12_657_968)),
        (10_000 * MBIT, 80 * MBIT, Bucket(1_250_000_000, 41_250_000, 125_000)),
        # Values limited to 32 bits: the largest buffer, and a limit with room for 25 ms or for one packet.
        (10 * MBIT, 34359738345, Bucket(1_250_000, 1 << 16, LARGEST - 14)),
        (100 * MBIT, 34359738345, Bucket(12_500_000, 312_500, LARGEST - 14)),
        (40_000 * MBIT, 34359738345, Bucket(5_000_000_000, 125_000_000, 13_421_765)),
    ],
)
def test_buckets(rate: int, burst: int, expected: Bucket) -> None:
    """The rate is in bytes/s, the buffer is the burst's duration, the limit is the burst and 25 ms."""
    made = bucket(rate, burst, TICKS)
    assert (made.rate, made.limit) == (expected.rate, expected.limit)
    assert made.buffer == expected.buffer


@pytest.mark.parametrize(("rate", "burst"), [(100, 8), (10 * MBIT, 8), (10 * MBIT, 7), (40_000 * MBIT, 10_000)])
def test_a_burst_below_the_clock_s_precision_is_refused(rate: int, burst: int) -> None:
    """The kernel refuses a bucket into which not one byte fits; so do we, before the request."""
    with pytest.raises(ValueError, match="nothing pass"):
        bucket(rate, burst, TICKS)


@given(st.integers(8, (1 << 64) - 1), st.integers(1, (LARGEST * 8) - 1))
def test_all_values_of_a_bucket_fit_their_fields(rate: int, burst: int) -> None:
    """For any limit; the bucket never holds more than the burst that was configured."""
    try:
        made = bucket(rate, burst, TICKS)
    except ValueError:
        return
    assert 0 < made.rate == rate // 8
    assert 0 < made.limit <= LARGEST
    assert 0 < made.buffer <= LARGEST
    held = made.buffer / TICKS / 1e6 * made.rate
    assert held * (1 + 1e-9) >= 1
    assert held <= (burst // 8) * (1 + 1e-9)


def test_the_clock(tmp_path) -> None:
    """/proc/net/psched has ticks, microseconds and resolution in hexadecimal."""
    file = tmp_path / "psched"
    file.write_text("000003e8 00000040 000f4240 3b9aca00\n")
    assert ticks_per_microsecond(str(file)) == TICKS
    with pytest.raises(FileNotFoundError):
        ticks_per_microsecond(str(tmp_path / "none"))


# The reference plugin's request for 1 Mbit/s and 800 kbit on the link with index 2, after the header.
REFERENCE_BUCKET = (
    "00000000 02000000 00000100 ffffffff 00000000 "
    "08000100 74626600 "
    "2c000200 28000100 0000000000000000 48e80100 0000000000000000 00000000 d5920100 20bcbe00 00000000"
)


def test_the_request_is_that_of_the_reference() -> None:
    """Byte for byte."""
    wire = FakeNetlink()
    tc.put_bucket(wire, 2, bucket(1 * MBIT, 800_000, TICKS))
    assert wire.sent[0][16:] == bytes.fromhex(REFERENCE_BUCKET)


@pytest.mark.parametrize("rate", [LARGEST, LARGEST + 1, 1 << 60])
def test_rates_of_64_bits(rate: int) -> None:
    """A rate of 2^32 bytes/s or more is sent in its own attribute; the 32-bit field then has its maximum."""
    wire = FakeNetlink()
    tc.put_bucket(wire, 2, Bucket(rate, 1000, 1000))
    options = attributes_of(attributes_of(wire.sent[0], TCA_AT)[TCA_OPTIONS])
    assert options.get(4) == (rate.to_bytes(8, sys.byteorder) if rate > LARGEST else None)
    assert int.from_bytes(options[1][8:12], sys.byteorder) == LARGEST
    (shown,) = tc.list_qdiscs(wire)
    assert (shown.kind, shown.bucket) == ("tbf", Bucket(rate, 1000, 1000))
