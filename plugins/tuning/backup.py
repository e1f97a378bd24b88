"""The backup file: the original settings of an attachment, which its DEL restores.

`<dataDir>/<container id>_<ifname>.json` with the keys mac, promisc, mtu, allmulti and txQLen is the reference plugin's
format, so that each plugin can restore what the other saved. We add keys that the reference ignores: `sysctl`, the
owner, and the namespace and link that the settings belong to, so that they are never applied to others.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from errno import ENAMETOOLONG, ENOENT, ENOTDIR

from plugins.tuning.settings import Settings
from spec.attachment import Attachment
from spec.errors import is_shortage
from state.files import delete_file, make_folders, read_file, replace_file

_SUFFIX, _UNFINISHED = ".json", ".json.new"
_LINK_KEYS = {
    "mac": ("mac", str),
    "promisc": ("promiscuous", bool),
    "mtu": ("mtu", int),
    "allmulti": ("all_multicast", bool),
    "txQLen": ("queue_length", int),
}


@dataclass(frozen=True)
class Backup:
    """The content of a file. In the reference plugin's, `owner` is None, `netns` "" and `link` 0.

    `netns`: boot id and cookie of the namespace; `link`: index of the link.
    """

    originals: Settings
    owner: Attachment | None = None
    netns: str = ""
    link: int = 0

    def is_of(self, attachment: Attachment) -> bool:
        """Whether it may be this attachment's: two may share a file name (`a_b` with `c`, `a` with `b_c`)."""
        owner = self.owner
        return owner is None or (owner.container_id, owner.ifname) == (attachment.container_id, attachment.ifname)

    def applied_to(self, netns: str, link: int, ifname: str) -> Settings:
        """The settings that belong to this namespace and to this link (0: none)."""
        if self.netns not in ("", netns):
            return Settings()
        if link and self.link in (0, link):
            return self.originals
        settings = {path: value for path, value in self.originals.sysctls.items() if ifname not in path.split("/")}
        return Settings(sysctls=settings)

    def completed(self, earlier: Settings) -> "Backup":
        """With the settings that an earlier ADD saved, which are the original ones."""
        link, settings = self.originals.link | earlier.link, self.originals.sysctls | earlier.sysctls
        return replace(self, originals=Settings(link, settings))


def path_in(folder: str, attachment: Attachment) -> str:
    """The path of an attachment's file."""
    return os.path.join(folder, f"{attachment.container_id}_{attachment.ifname}{_SUFFIX}")


def read(path: str) -> Backup | None:
    """Read a file; None if there is none. Raises OSError, or ValueError if its content is invalid."""
    document: object = None
    with _absence_is_fine():
        document = json.loads(read_file(path).decode())
    if document is None:
        return None
    if not isinstance(document, dict):
        raise ValueError("not an object")
    link = {}
    for key, (attribute, kind) in _LINK_KEYS.items():
        if document.get(key) is not None:
            link[attribute] = _typed(document, key, kind)
    settings = _typed(document, "sysctl", dict) if "sysctl" in document else {}
    if not all(isinstance(value, str) and _is_plain(path) for path, value in settings.items()):
        raise ValueError('"sysctl": not sysctls below net')
    return Backup(
        originals=Settings(link, settings),
        owner=_owner(document),
        netns=_typed(document, "netns", str) if "netns" in document else "",
        link=_typed(document, "link", int) if "link" in document else 0,
    )


def write(path: str, backup: Backup) -> Callable[[], None]:
    """Replace the file atomically; returns a function that undoes it. Raises OSError."""
    make_folders(os.path.dirname(path), 0o755)
    try:
        before = read_file(path)
    except FileNotFoundError:
        before = None
    replace_file(path, _unfinished(path), _text(backup).encode())
    if before is None:
        return lambda: delete_file(path)
    return lambda: replace_file(path, _unfinished(path), before)


def delete(path: str) -> None:
    """Delete the file, and an unfinished one that a crash may have left. Raises OSError."""
    for each in (path, _unfinished(path)):
        with _absence_is_fine():
            delete_file(each)


def sweep(folder: str, is_stale: Callable[[Attachment], bool]) -> None:
    """Delete the files of stale attachments; those without an owner stay. Raises OSError."""
    names: list[str] = []
    with _absence_is_fine():
        names = os.listdir(folder)
    for name in names:
        if name.endswith((_SUFFIX, _UNFINISHED)):
            path = os.path.join(folder, name)
            try:
                found = read(path)
            except (ValueError, OSError) as error:
                if is_shortage(error):
                    raise
                continue
            if found and found.owner and is_stale(found.owner):
                delete_file(path)


@contextmanager
def _absence_is_fine() -> Iterator[None]:
    """Ignore that a file does not exist, or cannot exist."""
    try:
        yield
    except OSError as error:
        if error.errno not in (ENOENT, ENOTDIR, ENAMETOOLONG):
            raise


def _text(backup: Backup) -> str:
    link = {key: backup.originals.link.get(attribute) for key, (attribute, _) in _LINK_KEYS.items()}
    document: dict[str, object] = {key: value for key, value in link.items() if value is not None}
    if backup.originals.sysctls:
        document["sysctl"] = dict(backup.originals.sysctls)
    if backup.owner:
        owner = backup.owner
        document["attachment"] = {"network": owner.network, "containerID": owner.container_id, "ifname": owner.ifname}
    document |= {"netns": backup.netns, "link": backup.link}
    return json.dumps(document, indent=1)


def _owner(document: dict) -> Attachment | None:
    if "attachment" not in document:
        return None
    given = _typed(document, "attachment", dict)
    return Attachment(*(_typed(given, key, str) for key in ("network", "containerID", "ifname")))


def _typed(document: dict, key: str, kind: type) -> object:
    if type(document.get(key)) is not kind:
        raise ValueError(f'"{key}": not of type {kind.__name__}')
    return document[key]


def _is_plain(path: str) -> bool:
    return "\0" not in path and not {"", ".", ".."} & set(path.split("/"))


def _unfinished(path: str) -> str:
    return path.removesuffix(_SUFFIX) + _UNFINISHED
