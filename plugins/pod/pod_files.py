"""Files that tell the daemon which pods this node has: `/run/slash24/pods/<owner>.json`, one for each attachment.

An ADD with `policyWait` writes it, after it has held the pod; DEL and GC delete it. The owner is the tag of the
attachment (linux/ownership.py), which is never too long for a name, and has no slash.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

from linux.ownership import owner_tag
from plugins.daemon import POD_FILES as PODS
from spec.addresses import pack, unpack
from spec.attachment import Attachment
from spec.jsontext import loads
from state.files import delete_file, make_folders, read_file, replace_file, write_file

SUFFIX = ".json"
_LARGEST = 1 << 14  # bytes


@dataclass(frozen=True)
class PodFile:
    """A pod that was attached. `ips`: canonical, without prefix length. `link`: the name of the host veth.

    `namespace`, `name`, `uid`: K8S_POD_NAMESPACE, K8S_POD_NAME and K8S_POD_UID of CNI_ARGS, "" if not given.
    """

    network: str
    container_id: str
    ifname: str
    ips: tuple[str, ...]
    link: str
    namespace: str = ""
    name: str = ""
    uid: str = ""

    @property
    def owner(self) -> Attachment:
        """The attachment."""
        return Attachment(self.network, self.container_id, self.ifname)


def write(pod: PodFile, folder: str = PODS) -> None:
    """Write, or replace, the file of a pod. Raises OSError."""
    make_folders(folder, 0o755)
    replace_file(_path(pod.owner, folder), _temporary(pod.owner, folder), json.dumps(asdict(pod)).encode())


def write_new(pod: PodFile, folder: str = PODS) -> bool:
    """Write the file of a pod unless it has one, which its ADD may be writing; whether it had none. Raises OSError."""
    make_folders(folder, 0o755)
    path = _path(pod.owner, folder)
    temporary = f"{path}.adopted"
    delete_file(temporary)
    try:
        write_file(temporary, json.dumps(asdict(pod)).encode())
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        delete_file(temporary)
    return True


def delete(owner: Attachment, folder: str = PODS) -> None:
    """Delete the file of an attachment, or what a killed ADD has left of it; none is success. Raises OSError."""
    delete_file(_path(owner, folder))
    delete_file(_temporary(owner, folder))


def read(name: str, folder: str = PODS) -> PodFile | None:
    """The pod of the file of this name; None if it is gone. Raises OSError, ValueError: not such a file."""
    try:
        value = loads(read_file(os.path.join(folder, name), _LARGEST))
    except FileNotFoundError:
        return None
    try:
        pod = PodFile(**{**value, "ips": tuple(value["ips"])})
    except (TypeError, KeyError) as error:
        raise ValueError(f"{name}: not the file of a pod: {error}") from error
    texts = (pod.network, pod.container_id, pod.ifname, pod.link, pod.namespace, pod.name, pod.uid, *pod.ips)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name}: not the file of a pod: expected texts")
    return replace(pod, ips=tuple(unpack(pack(ip)) for ip in pod.ips))


def find(owner: Attachment, folder: str = PODS) -> PodFile | None:
    """The pod of an attachment's file; None without one, or if it is not such a file. Raises OSError."""
    with suppress(ValueError):
        return read(owner_tag(owner) + SUFFIX, folder)
    return None


def names(folder: str = PODS) -> Iterator[str]:
    """The names of the files of pods; none if there is no folder. Raises OSError."""
    try:
        yield from (name for name in os.listdir(folder) if name.endswith(SUFFIX))
    except FileNotFoundError:
        return


def delete_named(name: str, folder: str = PODS) -> None:
    """Delete the file of this name; none is success. Raises OSError."""
    delete_file(os.path.join(folder, name))


def exists(owner: Attachment, folder: str = PODS) -> bool:
    """Whether the attachment has a file."""
    return os.path.exists(_path(owner, folder))


def _path(owner: Attachment, folder: str) -> str:
    return os.path.join(folder, owner_tag(owner) + SUFFIX)


def _temporary(owner: Attachment, folder: str) -> str:
    """Beside the folder: the daemon, which watches that, is told once, of the whole file."""
    return f"{folder}.{owner_tag(owner)}.new"
