"""The pods that this node has attached, as the files say that ADDs write and DELs delete (plugins/pod/pod_files.py)."""

import os
from contextlib import suppress
from dataclasses import dataclass

from linux.inotify import FolderWatch
from linux.ownership import owner_tag
from plugins.pod import pod_files
from plugins.pod.pod_files import SUFFIX, PodFile
from policy.objects import LocalPod
from state.files import make_folders


@dataclass(frozen=True)
class PodChanges:
    """The pods whose files are new or were replaced, also by the same content; the tags of owners whose are gone."""

    put: tuple[LocalPod, ...] = ()
    gone: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.put or self.gone)


def local_pod(file: PodFile) -> LocalPod:
    """The pod of a file, as the engine takes it."""
    return LocalPod(owner_tag(file.owner), file.ips, file.link, file.namespace, file.name, file.uid)


class PodFiles:
    """The files in a folder, read when the kernel announces that they change. For one thread."""

    def __init__(self, folder: str = pod_files.PODS) -> None:
        self._folder = folder
        self._watch: FolderWatch | None = None
        self._seen: dict[str, tuple[tuple[int, ...], str]] = {}  # by the file's name: state, and owner
        self._wrong: dict[str, str] = {}
        self.networks: set[str] = set()
        """The networks that pods have been attached to."""

    def fileno(self) -> int:
        """What to poll; -1 if the kernel does not tell: then `read` looks at all files."""
        return self._watch.fd if self._watch else -1

    @property
    def owners(self) -> frozenset[str]:
        """The tags of the owners that have a file."""
        return frozenset(owner for _, owner in self._seen.values())

    @property
    def problems(self) -> tuple[str, ...]:
        """A sentence for each file that cannot be read."""
        return tuple(self._wrong.values())

    def read(self, *, is_whole: bool = False) -> PodChanges:
        """What has changed since the last call. `is_whole`: look at all files, whatever was announced.

        Raises OSError.
        """
        names = self._watch.events() if self._watch else None
        if names is None:
            self._begin()
        if names is None or is_whole:
            names = {*pod_files.names(self._folder), *self._seen, *self._wrong}
        put: dict[str, LocalPod] = {}
        gone: list[str] = []
        for name in names:
            if name.endswith(SUFFIX):
                self._look(name, put, gone)
        return PodChanges(tuple(put.values()), tuple(owner for owner in gone if owner not in put))

    def close(self) -> None:
        """End the notices."""
        if self._watch:
            self._watch.close()
            self._watch = None

    def _begin(self) -> None:
        """Watch the folder; it may have been deleted, with the watch."""
        self.close()
        make_folders(self._folder, 0o755)
        with suppress(OSError):  # too many watches
            self._watch = FolderWatch(self._folder)

    def _look(self, name: str, put: dict[str, LocalPod], gone: list[str]) -> None:
        before = self._seen.get(name)
        state = _state(os.path.join(self._folder, name))
        if before and before[0] == state:
            return
        try:
            file = pod_files.read(name, self._folder) if state else None
        except (OSError, ValueError) as error:
            self._wrong[name] = f"{os.path.join(self._folder, name)} cannot be read, its pod stays held: {error}"
            return
        self._wrong.pop(name, None)
        if before:
            del self._seen[name]
        if file is None:
            if before:
                gone.append(before[1])
            return
        pod = local_pod(file)
        self._seen[name] = (state, pod.owner)
        self.networks.add(file.network)
        put[pod.owner] = pod
        if before and before[1] != pod.owner:
            gone.append(before[1])


def _state(path: str) -> tuple[int, ...] | None:
    """What differs when a file is replaced or written; None if there is none."""
    with suppress(OSError):
        status = os.lstat(path)
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    return None
