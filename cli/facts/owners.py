"""Whose a tag is: the other way round, from what is on disk, since long names are only digests in it."""

from collections.abc import Iterable

from linux.ownership import is_of_network, owner_tag
from spec.attachment import Attachment

_PLAIN = "v1:"


class Owners:
    """The attachments of which something is on disk, by their tags."""

    def __init__(self, attachments: Iterable[Attachment], networks: Iterable[str] = ()) -> None:
        """`networks`: names that a tag's digest may be of, besides those of the attachments."""
        self._owners = {owner_tag(each): each for each in attachments}
        self._networks = sorted({*networks, *(each.network for each in self._owners.values())})

    def of(self, tag: str) -> Attachment:
        """The attachment of a tag; network, container and interface are "" as far as nothing tells them."""
        if tag in self._owners:
            return self._owners[tag]
        parts = tag.removeprefix(_PLAIN).split(":")
        if tag.startswith(_PLAIN) and len(parts) == 3:
            return Attachment(*parts)
        return Attachment(next((one for one in self._networks if is_of_network(tag, one)), ""), "", "")
