"""The names of the ifb links through which limited pods send.

An ifb has the name that the reference plugin gives it, so that its CHECK and DEL know ours, unless that is taken: it is
the same for all interfaces of a container on one network.
"""

from spec.attachment import Attachment

_PREFIX, _HEX = "bwp", 12  # 15 bytes, all that a link name may have


def ifb_name(owner: Attachment) -> str:
    """The name of the attachment's ifb where the reference's is taken; no other attachment has it."""
    # No part can hold a slash, so no two attachments are one text.
    return _name(f"{owner.network}/{owner.container_id}/{owner.ifname}")


def reference_ifb_name(owner: Attachment) -> str:
    """The name that the reference plugin gives it: one for all interfaces of a container on one network."""
    return _name(owner.network + owner.container_id)


def _name(text: str) -> str:
    import hashlib

    return _PREFIX + hashlib.sha512(text.encode()).hexdigest()[:_HEX]
