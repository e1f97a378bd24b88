"""Whether the peers file that nobody named had peers when it was last read: then it must not simply be gone.

A node without that file may be one for which something else distributes routes. Or one that has been rebooted, which
empties /run. The two are told apart by an empty file on the disk, as long as the configuration does not name the peers
file; one that it names must be there anyway.
"""

import os
from contextlib import suppress

from state.files import delete_file, make_folders

FOLDER = "/var/lib/cni/slash24"


def had_peers(network: str) -> bool:
    """Whether it had."""
    return os.path.exists(_mark(network))


def note(network: str, *, peers: bool) -> None:
    """Remember whether it has. What can not be remembered (a read-only disk) is not worth failing for."""
    if had_peers(network) == peers:
        return
    with suppress(OSError):
        if peers:
            make_folders(FOLDER, 0o755)
            os.close(os.open(_mark(network), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        else:
            delete_file(_mark(network))


def _mark(network: str) -> str:
    return os.path.join(FOLDER, f"{network}.peers")
