"""The tag by which a kernel object names its owner: the comment of an element, the alias or group of a link."""

from collections.abc import Callable, Iterable

from spec.attachment import Attachment

_LONGEST = 127  # characters of a comment that nft accepts and prints
_PLAIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"


def owner_tag(attachment: Attachment) -> str:
    """The tag of an attachment: `v1:<network>:<container>:<ifname>` if that is short and plain enough.

    Otherwise `v1#<16 hex of SHA-256 of the network>:<40 hex of SHA-256 of container:ifname>`.
    """
    parts = (attachment.network, attachment.container_id, attachment.ifname)
    tag = ":".join(("v1", *parts))
    if len(tag) <= _LONGEST and all(part and not part.strip(_PLAIN) for part in parts):
        return tag
    rest = _hex(f"{attachment.container_id}:{attachment.ifname}")[:40]
    return f"{_hashed_network(attachment.network)}{rest}"


def is_owner_tag(text: str) -> bool:
    """Whether a text, such as the alias of a link, is the tag of an attachment."""
    return text.startswith(("v1:", "v1#"))


def is_of_network(tag: str, network: str) -> bool:
    """Whether a tag is that of an attachment to this network."""
    return tag.startswith((f"v1:{network}:", _hashed_network(network)))


def is_of_container(tag: str, container_id: str) -> bool:
    """Whether a tag names this container, with whichever network and interface; one with hashes names none."""
    version, *parts = tag.split(":")
    return version == "v1" and len(parts) == 3 and parts[1] == container_id


def stale_predicate(network: str, valid: Iterable[Attachment]) -> Callable[[str], bool]:
    """A predicate: whether a tag is of an attachment to this network that is not among the valid ones."""
    kept = {owner_tag(attachment) for attachment in valid}
    return lambda tag: is_of_network(tag, network) and tag not in kept


def group_of(network: str) -> int:
    """The link group of a network's links: 0x24 and 24 bits of FNV-1a of the name.

    A link can be created in a group, but not with an alias; until it has its alias, the group identifies the owner.
    """
    return 0x24000000 | _fnv(network, 0x811C9DC5, 0x01000193, 0xFFFFFFFF) >> 8


GATEWAY_GROUP = 0x25000000
"""The link group of bridge ports that lead to a gateway of the node; no network has it."""


def host_veth_name(attachment: Attachment) -> str:
    """The name of an attachment's host veth, so that it is found without listing all links.

    "veth" and 11 hex digits of FNV-1a in 64 bits. If the name is taken, the link has another; its alias decides.
    """
    text = "/".join((attachment.network, attachment.container_id, attachment.ifname))
    digest = _fnv(text, 0xCBF29CE484222325, 0x100000001B3, 0xFFFFFFFFFFFFFFFF)
    return f"veth{(digest >> 44) ^ (digest & 0xFFFFFFFFFFF):011x}"


def _fnv(text: str, digest: int, prime: int, mask: int) -> int:
    """FNV-1a, which needs no import: that would take longer than the computation."""
    for byte in text.encode("utf-8", "surrogateescape"):
        digest = (digest ^ byte) * prime & mask
    return digest


def _hashed_network(network: str) -> str:
    return f"v1#{_hex(network)[:16]}:"


def _hex(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
