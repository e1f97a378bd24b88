"""When addresses were released, for networks that keep them out of use for a while after that.

One file in the hidden folder, a line an address: `10.1.2.7 <boot id> <seconds since boot>`. No clock of the day is
involved. A line of another boot counts from the beginning of this one: it is at least as old as that.
"""

import os
from collections.abc import Iterable

from state.boot import Boot
from state.files import make_folders, read_file, replace_file

_NAME = "released"
_ROUNDED = 0.001  # seconds: moments are written in thousandths


def read_cooling(hidden: str, boot: Boot, seconds: int) -> dict[str, float]:
    """The addresses released less than `seconds` ago, and how many seconds ago.

    Raises OSError, not for a missing file.
    """
    return {address: age for address, (age, _) in _read(hidden, boot, seconds).items()}


def note_released(hidden: str, boot: Boot, seconds: int, addresses: Iterable[str]) -> None:
    """Note that the addresses are released now; forgets what was released more than `seconds` ago.

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
        # Well below zero it is the moment of some other clock, and says nothing; just below, it was rounded up.
        if -_ROUNDED <= age < seconds:
            found[address] = (max(age, 0.0), line)
    return found
