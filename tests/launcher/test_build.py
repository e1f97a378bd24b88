"""The built launchers: static, hardened executables for both architectures."""

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
    """Flags and content of the segments of an ELF file by type; if a type is repeated, the last one."""
    (offset,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    found = {}
    for index in range(count):
        kind, flags, at, _, _, length = struct.unpack_from("<IIQQQQ", data, offset + index * size)
        found[kind] = (flags, data[at : at + length])
    return found


@pytest.mark.parametrize("machine", MACHINES)
def test_launcher_is_static_and_hardened(shipped: tuple[Path, tuple[str, ...]], machine: str) -> None:
    """No interpreter, no library; position-independent, without executable stack, relocations read-only; small."""
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
def test_launcher_contains_the_mark_of_its_protocol(shipped: tuple[Path, tuple[str, ...]], machine: str) -> None:
    """Plugins recognize a launcher by a mark with the protocol version, which is the agent's."""
    launcher = shipped[0].parent.parent / machine / "launcher"
    assert is_launcher(str(launcher))
    assert f"slash24 launcher, protocol {wire.VERSION}\0".encode() in launcher.read_bytes()


def test_sanitized_launcher_is_instrumented(sanitized: Path) -> None:
    """The sanitized launcher contains calls into both sanitizers, so a test that passes with it is meaningful."""
    data = (sanitized / "launcher").read_bytes()
    assert b"__asan_report_load" in data
    assert b"__ubsan_handle" in data
