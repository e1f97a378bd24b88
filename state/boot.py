"""Identifying the boot of a machine."""

import os
import time
from dataclasses import dataclass

from spec.errors import is_shortage
from state.files import read_start

BOOT_ID = "/proc/sys/kernel/random/boot_id"


@dataclass(frozen=True)
class Boot:
    """A boot of a machine: the name of the node, the boot ID ("" if unknown), and the uptime in seconds.

    The uptime is CLOCK_BOOTTIME: it advances during suspend, and setting the wall clock does not change it.
    """

    node: str
    id: str
    uptime: float = 0.0

    @classmethod
    def read(cls) -> "Boot":
        """The running boot. Raises OSError if the node is short of memory or file descriptors."""
        try:
            boot_id = read_start(BOOT_ID, 64).decode("ascii", "replace").strip()
        except OSError as error:
            if is_shortage(error):
                raise
            boot_id = ""
        return cls(os.uname().nodename, boot_id, time.clock_gettime(time.CLOCK_BOOTTIME))

    @property
    def label(self) -> str:
        """A file name for the boot; see `is_over`."""
        return f"{self.node.replace('/', '_')}.{self.id}"

    def is_over(self, label: str) -> bool:
        """Whether the label is of an earlier boot of this machine. False in doubt, and for other machines."""
        node, _, boot_id = label.rpartition(".")
        return node == self.label.rpartition(".")[0] and "" not in (boot_id, self.id) and boot_id != self.id
