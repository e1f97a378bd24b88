"""Who owns a thing: the attachment of one interface of one container to one network."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Attachment:
    """The key of everything an ADD makes (spec section 3, "attachment")."""

    network: str
    container_id: str
    ifname: str
