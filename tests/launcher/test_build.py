"""What the build makes: static, hardened executables for both machines."""

import struct
from pathlib import Path

import pytest

from agent import wire
from spec.delegate import is_launcher

MACHINES = {"x86_64": 62, "aarch64": 183}  # elf(5), e_machine
DYN = 3  # position-independent
DYNAMIC, INTERP, GNU_STACK, GNU_RELRO = 2, 3, 0x6474E551, 0x6474E552
NEEDED, FLAGS, BIND_NOW, EXECUTABLE = 1, 30, 8, 1
LARGEST = 64 << 10


def segments(data: bytes) -> dict[int, tuple[int, bytes]]:
    """Flags and content of the segments of an ELF file, by type; of several, the last."""
    (offset,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    found = {}
    for index in range(count):
        kind, flags, at, _, _, length = struct.unpack_from("<IIQQQQ", data, offset + index * size)
        found[kind] = (flags, data[at : at + length])
    return found


@pytest.mark.parametrize("machine", MACHINES)
def test_it_needs_nothing_and_gives_nothing_away(shipped: tuple[Path, tuple[str, ...]], machine: str) -> None:
    """No interpreter, no library; at random addresses, with no writable code, stack or table of addresses; small."""
    data = (shipped[0].parent.parent / machine / "launcher").read_bytes()
    assert data[:6] == b"\x7fELF\x02\x01"
    assert struct.unpack_from("<HH", data, 16) == (DYN, MACHINES[machine])
    assert len(data) < LARGEST
    found = segments(data)
    assert INTERP not in found
    entries = dict(struct.iter_unpack("<QQ", found[DYNAMIC][1]))
    assert NEEDED not in entries
    assert entries[FLAGS] & BIND_NOW
    assert GNU_RELRO in found
    assert not found[GNU_STACK][0] & EXECUTABLE


@pytest.mark.parametrize("machine", MACHINES)
def test_plugins_know_it_by_its_mark(shipped: tuple[Path, tuple[str, ...]], machine: str) -> None:
    """That of the protocol which this suite's agent speaks."""
    launcher = shipped[0].parent.parent / machine / "launcher"
    assert is_launcher(str(launcher))
    assert f"slash24 launcher, protocol {wire.VERSION}\0".encode() in launcher.read_bytes()


def test_the_sanitized_one_would_tell(sanitized: Path) -> None:
    """It is instrumented, by both sanitizers: a test that passes with it says something."""
    data = (sanitized / "launcher").read_bytes()
    assert b"__asan_report_load" in data
    assert b"__ubsan_handle" in data
