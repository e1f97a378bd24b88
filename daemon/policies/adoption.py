"""Pods without a file of their own (plugins/pod/pod_files.py): they were attached before policies were enabled.

Their links and leases name their owners; who they are is found by their addresses. Of those that are somebody, a file
is written as an ADD would have; the others are kept here.
"""

import os
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from daemon.policies.setup import is_there
from ipam.host_local import DATA_DIR
from ipam.lease_files import is_address, read_owner
from linux.netlink.socket import Netlink
from linux.ownership import owner_tag
from nodes.running_pods import list_host_veths
from plugins.pod import pod_files
from plugins.pod.pod_files import PodFile
from policy.objects import Pod
from rules import source_validation
from spec.attachment import Attachment
from spec.config import Section

_SETTLED_SECONDS = 5.0
"""For so long a pod must have been without a file: the calls that attach or delete it may be running."""
_PATIENCE_SECONDS = 60.0
"""For so long it may take until the API knows the addresses of a pod."""


@dataclass(frozen=True)
class Adopted:
    """What `Adoption.look` did: pods that became known, without a file; tags of owners that are gone.

    `written`: how many files. `is_waiting`: whether there are pods without a file that may be adopted soon.
    """

    put: tuple[PodFile, ...] = ()
    gone: tuple[str, ...] = ()
    written: int = 0
    is_waiting: bool = False

    def __bool__(self) -> bool:
        return bool(self.put or self.gone or self.written)


class Adoption:
    """Finds the pods of a network that have no file. For one thread, in the node's network namespace."""

    def __init__(
        self,
        network: str,
        ipam: Section,
        *,
        waits_for_names: bool,
        folder: str = pod_files.PODS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ipam`: that part of the main plugin's configuration. `waits_for_names`: whether every pod has a name."""
        self._network, self._ipam, self._waits, self._folder = network, ipam, waits_for_names, folder
        self._clock = clock
        self._seen: dict[str, float] = {}  # owner to when it was first without a file
        self._kept: set[str] = set()
        self._is_first = True

    def look(self, known: Collection[str], pods: Callable[[], Iterable[Pod]]) -> Adopted:
        """Adopt pods. `known`: the owners that have a file. `pods`: those that this node may have. Raises OSError."""
        with Netlink() as host:
            links = {veth.alias: veth.name for veth in list_host_veths(host, self._network)}
        now, missing = self._clock(), [tag for tag in links if tag not in known]
        gone = tuple(owner for owner in self._kept if owner not in links or owner in known)
        self._kept.difference_update(gone)
        self._seen = {tag: self._seen.get(tag, now) for tag in missing}
        is_first, self._is_first = self._is_first, False
        settled = [tag for tag in missing if is_first or now - self._seen[tag] >= _SETTLED_SECONDS]
        found = self._found({tag: links[tag] for tag in settled}) if settled else []
        put, written = self._adopt(found, pods, now)
        gone = tuple(owner for owner in gone if owner not in known)
        return Adopted(tuple(put), gone, written, bool(missing) and set(missing) != self._kept)

    def _found(self, links: dict[str, str]) -> list[PodFile]:
        """The pods of these owners, by their leases; host veths by owner."""
        leases = self._leases()
        return [
            PodFile(self._network, owner.container_id, owner.ifname, ips, links[tag])
            for tag, (owner, ips) in leases.items()
            if tag in links
        ]

    def _leases(self) -> dict[str, tuple[Attachment, tuple[str, ...]]]:
        """By owner, the addresses that host-local has leased in the network; none if another plugin assigns them."""
        if self._ipam.string("type", "host-local") != "host-local":
            return {}
        folder = os.path.join(self._ipam.string("dataDir") or DATA_DIR, self._network)
        found: dict[str, tuple[Attachment, tuple[str, ...]]] = {}
        with suppress(FileNotFoundError):
            for name in sorted(os.listdir(folder)):
                container, _, interface = _owner(folder, name).partition(b"\r\n")
                if not container or not interface:
                    continue
                owner = Attachment(self._network, os.fsdecode(container), os.fsdecode(interface))
                tag = owner_tag(owner)
                found[tag] = (owner, (*found.get(tag, (owner, ()))[1], name))
        return found

    def _adopt(
        self, found: Iterable[PodFile], pods: Callable[[], Iterable[Pod]], now: float
    ) -> tuple[list[PodFile], int]:
        """Write the files of those that are somebody; returns the others, if they are not waited for any more.

        And how many were written.
        """
        by_address: dict[str, Pod] | None = None
        nameless, written = [], 0
        for file in found:
            if by_address is None:
                by_address = {ip: pod for pod in pods() for ip in pod.ips}
            tag, pod = owner_tag(file.owner), next((by_address[ip] for ip in file.ips if ip in by_address), None)
            if pod:
                source_validation.ensure(file.owner, file.link, file.ips)
                uid = pod.uids[0] if pod.uids else ""
                written += self._write(replace(file, namespace=pod.namespace, name=pod.name, uid=uid))
            elif tag not in self._kept and (not self._waits or now - self._seen[tag] >= _PATIENCE_SECONDS):
                source_validation.ensure(file.owner, file.link, file.ips)
                self._kept.add(tag)
                nameless.append(file)
        return nameless, written

    def _write(self, file: PodFile) -> bool:
        """Write the file of a pod, as no ADD or DEL has meanwhile; whether it was written."""
        is_new = pod_files.write_new(file, self._folder)
        if is_new and not is_there(file.link):  # a DEL deletes it first, and may have found nothing else
            pod_files.delete(file.owner, self._folder)
            source_validation.delete(file.owner)
        return is_new


def _owner(folder: str, name: str) -> bytes:
    """The owner of a lease, b"" if the file is none, or gone."""
    with suppress(OSError):
        return read_owner(os.path.join(folder, name)) if is_address(name) else b""
    return b""
