"""The mark by which a kernel object tells whose it is: of an element the comment, of a link the alias or the group."""

from collections.abc import Callable, Iterable

from spec.attachment import Attachment

_LONGEST = 127  # what nft accepts and prints of a comment, less its NUL
_PLAIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"


def owner_tag(attachment: Attachment) -> str:
    """The mark of an attachment: readable, `v1:<network>:<container>:<ifname>`, if that is short and plain enough.

    Otherwise `v1#<16 hex of SHA-256 of the network>:<40 hex of SHA-256 of container:ifname>`.
    """
    parts = (attachment.network, attachment.container_id, attachment.ifname)
    tag = ":".join(("v1", *parts))
    if len(tag) <= _LONGEST and all(part and not part.strip(_PLAIN) for part in parts):
        return tag
    rest = _hex(f"{attachment.container_id}:{attachment.ifname}")[:40]
    return f"{_hashed_network(attachment.network)}{rest}"


def is_owner_tag(text: str) -> bool:
    """Whether a text, the alias of a link say, is the mark of an attachment."""
    return text.startswith(("v1:", "v1#"))


def is_of_network(tag: str, network: str) -> bool:
    """Whether a mark is that of an attachment to this network."""
    return tag.startswith((f"v1:{network}:", _hashed_network(network)))


def forfeited(network: str, valid: Iterable[Attachment]) -> Callable[[str], bool]:
    """A test of marks: whether one is of this network, but of none of its valid attachments."""
    kept = {owner_tag(attachment) for attachment in valid}
    return lambda tag: is_of_network(tag, network) and tag not in kept


def group_of(network: str) -> int:
    """The link group of a network's links: 0x24 and 24 bits of FNV-1a of the name.

    A link can be made in a group, but not with an alias: between the two it is the group that tells whose it is.
    """
    return 0x24000000 | _fnv(network, 0x811C9DC5, 0x01000193, 0xFFFFFFFF) >> 8


def host_end_name(attachment: Attachment) -> str:
    """The name of the host's end of an attachment's veth: by it alone the link is found, however many there are.

    "veth" and 11 hex of 64 bits of FNV-1a. Where somebody else has that name, the link has another: its alias decides.
    """
    text = "/".join((attachment.network, attachment.container_id, attachment.ifname))
    digest = _fnv(text, 0xCBF29CE484222325, 0x100000001B3, 0xFFFFFFFFFFFFFFFF)
    return f"veth{(digest >> 44) ^ (digest & 0xFFFFFFFFFFF):011x}"


def _fnv(text: str, digest: int, prime: int, mask: int) -> int:
    """FNV-1a; it needs no module, the import of which would cost more than all it does here."""
    for byte in text.encode("utf-8", "surrogateescape"):
        digest = (digest ^ byte) * prime & mask
    return digest


def _hashed_network(network: str) -> str:
    return f"v1#{_hex(network)[:16]}:"


def _hex(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
