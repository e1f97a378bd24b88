"""The leases of all networks on this node, as host-local keeps them on disk."""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from cli.facts.configurations import Configuration
from cli.facts.paths import LEASES
from ipam.cooldown import read_cooling
from ipam.index import LeaseIndex
from ipam.lease_files import is_address, read_owner
from ipam.store import HIDDEN
from spec.addresses import pack
from spec.attachment import Attachment
from state.boot import Boot


@dataclass(frozen=True)
class Lease:
    """An address and its owner; `container` is "" if the file has none, `ifname` if an old version wrote it.

    `since`: when the file was written, in seconds since 1970. `is_over`: it is of an earlier boot, and certainly not
    in use. `machine`: the name of the machine that has leased it, where several share a folder; "" if it is this one.
    """

    network: str
    address: str
    container: str
    ifname: str
    since: float
    is_over: bool = False
    machine: str = ""

    @property
    def attachment(self) -> Attachment:
        """Whose it is; `ifname` may be missing."""
        return Attachment(self.network, self.container, self.ifname)

    def is_of(self, owner: Attachment) -> bool:
        """Whether it is the owner's, or its container's without telling the interface."""
        is_container = (self.network, self.container) == (owner.network, owner.container_id)
        return is_container and self.ifname in ("", owner.ifname)


@dataclass(frozen=True)
class Cooling:
    """An address that was released, and is not assigned for so many more seconds."""

    network: str
    address: str
    left: float


def read_leases(folder: str = LEASES, configurations: Iterable[Configuration] = ()) -> list[Lease]:
    """All leases, by network and address. Raises OSError, except if there is no folder.

    `configurations`: those of networks that may have a folder of their own for their leases.
    """
    networks: list[tuple[str, str]] = []
    with suppress(FileNotFoundError):
        # Not a link, by which a network is known under its former name, too.
        found = [entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
        networks += [(folder, name) for name in found]
    networks += [(one.lease_folder, one.name) for one in configurations if one.lease_folder != folder]
    boot = Boot.read()
    return [lease for where, network in sorted(networks, key=lambda one: one[1]) for lease in _of(where, network, boot)]


def read_cooling_addresses(configurations: Iterable[Configuration]) -> list[Cooling]:
    """The addresses that are cooling down, of all networks with a cooldown. Raises OSError."""
    boot = Boot.read()
    return [
        Cooling(one.name, address, one.cooldown - age)
        for one in configurations
        if one.cooldown
        for address, age in read_cooling(os.path.join(one.lease_folder, one.name, HIDDEN), boot, one.cooldown).items()
    ]


def _of(folder: str, network: str, boot: Boot) -> Iterator[Lease]:
    try:
        names = [name for name in os.listdir(os.path.join(folder, network)) if is_address(name)]
        index = LeaseIndex(os.path.join(folder, network, HIDDEN), boot)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in sorted(names, key=lambda name: (":" in name, pack(name))):
        path = os.path.join(folder, network, name)
        with suppress(FileNotFoundError):  # released meanwhile
            container, _, ifname = map(os.fsdecode, read_owner(path).partition(b"\r\n"))
            status = os.stat(path)
            machine = index.node_of(status.st_ino)
            is_here = machine in ("", boot.label.rpartition(".")[0])
            is_over = index.is_over(status.st_ino)
            yield Lease(network, name, container, ifname, status.st_mtime, is_over, "" if is_here else machine)
