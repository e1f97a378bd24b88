"""Lease files in the format of the reference plugin: named by the address, containing the owner."""

import os

from spec.attachment import Attachment
from state.files import read_start

_LONGEST_OWNER = 4096


def owner_texts(owner: Attachment) -> tuple[bytes, bytes]:
    """The content of the owner's lease files: id, CR LF, interface; and the bare id that old versions wrote."""
    container_id = os.fsencode(owner.container_id).strip()
    return container_id + b"\r\n" + os.fsencode(owner.ifname), container_id


def read_owner(path: str) -> bytes:
    """The owner in a lease file; b"" if its content cannot be one. Raises OSError."""
    text = read_start(path, _LONGEST_OWNER + 1).strip()
    # A power failure leaves zeros; no owner is longer than a page.
    return b"" if b"\0" in text or len(text) > _LONGEST_OWNER else text


def is_address(name: str) -> bool:
    """Whether a file of that name is a lease."""
    if name.strip("0123456789abcdefABCDEF.:"):
        return False
    from spec.addresses import pack  # DEL needs it only if another program uses the folder

    try:
        pack(name)
    except ValueError:
        return False
    return True
