"""The leases of all networks on this node, as host-local keeps them on disk."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from cli.facts.paths import LEASES
from ipam.lease_files import is_address, read_owner
from spec.addresses import pack
from spec.attachment import Attachment


@dataclass(frozen=True)
class Lease:
    """An address and its owner; `container` is "" if the file has none, `ifname` if an old version wrote it.

    `since`: when the file was written, in seconds since 1970.
    """

    network: str
    address: str
    container: str
    ifname: str
    since: float

    @property
    def attachment(self) -> Attachment:
        """Whose it is; `ifname` may be missing."""
        return Attachment(self.network, self.container, self.ifname)

    def is_of(self, owner: Attachment) -> bool:
        """Whether it is the owner's, or its container's without telling the interface."""
        return (self.network, self.container) == (owner.network, owner.container_id) and self.ifname in (
            "",
            owner.ifname,
        )


def read_leases(folder: str = LEASES) -> list[Lease]:
    """All leases, by network and address. Raises OSError, except if there is no folder."""
    with suppress(FileNotFoundError):
        networks = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        return [lease for network in networks for lease in _of_network(folder, network)]
    return []


def _of_network(folder: str, network: str) -> Iterator[Lease]:
    names = [name for name in os.listdir(os.path.join(folder, network)) if is_address(name)]
    for name in sorted(names, key=lambda name: (":" in name, pack(name))):
        path = os.path.join(folder, network, name)
        with suppress(FileNotFoundError):  # released meanwhile
            container, _, ifname = read_owner(path).partition(b"\r\n")
            yield Lease(network, name, os.fsdecode(container), os.fsdecode(ifname), os.stat(path).st_mtime)
