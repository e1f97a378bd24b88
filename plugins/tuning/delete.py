"""DEL and GC: restore the original settings if the pod still exists, and delete their backup."""

import os

from linux.errors import reason
from linux.netlink.socket import Netlink
from linux.netns import entered, open_netns
from linux.rtnl.links import find_link
from plugins.tuning import backup, settings
from plugins.tuning.add import netns_name
from plugins.tuning.backup import Backup
from spec.errors import CNIError, Code, code_of, is_shortage
from spec.request import Request


def restore(request: Request, folder: str) -> None:
    """Restore the original settings and delete their backup.

    Raises CNIError 5 if the backup cannot be deleted, 11 if a shortage prevents reading the pod or the backup. Other
    failures are only logged: the pod is about to vanish, and its DEL must go on.
    """
    path = backup.path_in(folder, request.attachment)
    try:
        found = backup.read(path)
        if found and not found.is_of(request.attachment):
            return
        failures = _restore(request, found) if found and request.netns else ()
    except (OSError, ValueError) as error:
        if is_shortage(error):
            message = f"failed to restore the original settings: {reason(error)}"
            raise CNIError(Code.TRY_AGAIN_LATER, message) from error
        failures = [f"{path}: {error}"]
    for failure in failures:
        request.log(f"tuning: {failure}")
    try:
        backup.delete(path)
    except OSError as error:
        raise _not_deleted(folder, error) from error


def sweep(request: Request, folder: str) -> None:
    """Delete the backups of this network's stale attachments. Raises CNIError 5."""
    network, valid = request.conf.name, request.valid_attachments
    try:
        backup.sweep(folder, lambda owner: owner.network == network and owner not in valid)
    except OSError as error:
        raise _not_deleted(folder, error) from error


def _restore(request: Request, found: Backup) -> list[str]:
    try:
        netns = open_netns(request.netns, request.netns_fd)
    except OSError as error:
        if is_shortage(error):
            raise
        return []  # the pod is deleted, and its settings with it
    try:
        with entered(netns), Netlink() as pod:
            link = find_link(pod, request.ifname)
            originals = found.applied_to(netns_name(), link.index if link else 0, request.ifname)
            return settings.restore(pod, link, originals)
    except OSError as error:
        if is_shortage(error):
            raise
        return [f'failed to enter network namespace "{request.netns}": {reason(error)}']
    finally:
        os.close(netns)


def _not_deleted(folder: str, error: OSError) -> CNIError:
    message = f"failed to delete the backup of original settings in {folder}: {reason(error)}"
    return CNIError(code_of(error, Code.IO_FAILURE), message)
