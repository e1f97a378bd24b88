"""The owner of everything an ADD creates: one interface of one container on one network."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Attachment:
    """An attachment (spec section 3)."""

    network: str
    container_id: str
    ifname: str
