"""The times at which addresses were released, for networks with a `cooldown`.

One file in the hidden folder, one line per address: `10.1.2.7 <boot id> <seconds since boot>`. Wall-clock time is not
used. A line of another boot is older than this boot, so its cooldown counts from the start of this boot.
"""

import os
from collections.abc import Iterable

from state.boot import Boot
from state.files import make_folders, read_file, replace_file

_NAME = "released"
_RESOLUTION = 0.001  # seconds, of the times in the file


def read_cooling(hidden: str, boot: Boot, seconds: int) -> dict[str, float]:
    """The addresses released less than `seconds` ago, and how many seconds ago.

    Raises OSError, not for a missing file.
    """
    return {address: age for address, (age, _) in _read(hidden, boot, seconds).items()}


def note_released(hidden: str, boot: Boot, seconds: int, addresses: Iterable[str]) -> None:
    """Note that the addresses are released now, and drop those released more than `seconds` ago.

    Raises OSError, changing nothing.
    """
    lines = {address: line for address, (_, line) in _read(hidden, boot, seconds).items()}
    lines.update((address, f"{address} {boot.id or '-'} {boot.uptime:.3f}\n") for address in addresses)
    make_folders(hidden, 0o700)
    replace_file(os.path.join(hidden, _NAME), os.path.join(hidden, "released.new"), "".join(lines.values()).encode())


def _read(hidden: str, boot: Boot, seconds: int) -> dict[str, tuple[float, str]]:
    try:
        lines = read_file(os.path.join(hidden, _NAME)).decode("ascii", "replace").splitlines(keepends=True)
    except FileNotFoundError:
        return {}
    found = {}
    for line in lines:
        try:
            address, boot_id, moment = line.split()
            age = boot.uptime - (float(moment) if boot_id == boot.id else 0)
        except ValueError:
            continue
        # Slightly negative: the time was rounded up. Otherwise a negative age means a time of another clock: ignored.
        if -_RESOLUTION <= age < seconds:
            found[address] = (max(age, 0.0), line)
    return found
