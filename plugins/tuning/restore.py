"""DEL and GC: the originals are put back while there is a pod, and forgotten in any case."""

import os

from linux.errors import reason
from linux.netlink.socket import Netlink
from linux.netns import entered, open_netns
from linux.rtnl.links import find_link
from plugins.tuning import backup
from plugins.tuning.add import netns_name
from plugins.tuning.backup import Backup
from plugins.tuning.originals import put_back
from spec.errors import CNIError, Code, code_of, is_shortage
from spec.request import Request


def restore(request: Request, folder: str) -> None:
    """Put the originals back and remove their file. Raises CNIError 5 if that can not be removed, 11 if the node lacks
    what it takes to look at pod or file at the moment, and for nothing else.

    What can not be put back is said on stderr: the pod is about to vanish, and its DEL must go on.
    """
    path = backup.path_in(folder, request.attachment)
    try:
        found = backup.read(path)
        if found and not found.is_of(request.attachment):
            return
        failures = _put_back(request, found) if found and request.netns else ()
    except (OSError, ValueError) as error:
        if is_shortage(error):
            raise CNIError(Code.TRY_AGAIN_LATER, f"failed to put the originals back: {reason(error)}") from error
        failures = [f"{path}: {error}"]
    for failure in failures:
        request.say(f"tuning: {failure}")
    try:
        backup.delete(path)
    except OSError as error:
        raise _unwritable(folder, error) from error


def forget(request: Request, folder: str) -> None:
    """Remove the files of this network's attachments that are not valid. Raises CNIError 5."""
    network, valid = request.conf.name, request.valid_attachments
    try:
        backup.sweep(folder, lambda owner: owner.network == network and owner not in valid)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _put_back(request: Request, found: Backup) -> list[str]:
    try:
        netns = open_netns(request.netns, request.netns_fd)
    except OSError as error:
        if is_shortage(error):
            raise
        return []  # the pod is gone, and everything that was changed with it
    try:
        with entered(netns), Netlink() as pod:
            link = find_link(pod, request.ifname)
            originals = found.applied_to(netns_name(), link.index if link else 0, request.ifname)
            return put_back(pod, link, originals)
    except OSError as error:
        if is_shortage(error):
            raise
        return [f'failed to look into network namespace "{request.netns}": {reason(error)}']
    finally:
        os.close(netns)


def _unwritable(folder: str, error: OSError) -> CNIError:
    return CNIError(code_of(error, Code.IO_FAILURE), f"failed to remove originals from {folder}: {reason(error)}")
