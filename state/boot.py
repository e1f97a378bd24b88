"""Which boot of which machine this is."""

import os
import time
from dataclasses import dataclass

from spec.errors import is_shortage
from state.files import read_start

BOOT_ID = "/proc/sys/kernel/random/boot_id"


@dataclass(frozen=True)
class Boot:
    """A boot of a machine: the node's name, the boot's id ("" if it can not be told) and the seconds since it began.

    The seconds are CLOCK_BOOTTIME: they go on during suspend, and no change of the time of day moves them.
    """

    node: str
    id: str
    uptime: float = 0.0

    @classmethod
    def read(cls) -> "Boot":
        """The boot that is running. Raises OSError if the node lacks what it takes to ask at the moment."""
        try:
            boot_id = read_start(BOOT_ID, 64).decode("ascii", "replace").strip()
        except OSError as error:
            if is_shortage(error):
                raise
            boot_id = ""
        return cls(os.uname().nodename, boot_id, time.clock_gettime(time.CLOCK_BOOTTIME))

    @property
    def label(self) -> str:
        """A file name for the boot; `precedes` understands it."""
        return f"{self.node.replace('/', '_')}.{self.id}"

    def is_over(self, label: str) -> bool:
        """Whether the label is of an earlier boot of this very machine. False in doubt, and for any other machine."""
        node, _, boot_id = label.rpartition(".")
        return node == self.label.rpartition(".")[0] and "" not in (boot_id, self.id) and boot_id != self.id
