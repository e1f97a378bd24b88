"""What may name a container, a network and an interface (spec section 2; the interface as the kernel has it)."""

from spec.errors import CNIError, Code

_ALPHANUMERIC = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_ALLOWED = _ALPHANUMERIC | frozenset("_.-")
_IFNAME_BYTES = 15
_CONTAINER_ID_BYTES = 1024  # with an interface's name, it must fit in a lease as the reference plugin reads it
_IN_NO_NAME = frozenset(b"/:\t\n\v\f\r \xa0")
_ALL_INTERFACES = ("all", "default")


def is_identifier(text: str) -> bool:
    """Whether it may be a container id or a network name: `[A-Za-z0-9][A-Za-z0-9_.-]*`, and nothing after it."""
    return text[:1] in _ALPHANUMERIC and _ALLOWED.issuperset(text)


def check_container_id(text: str) -> None:
    """Raises CNIError 4."""
    if len(text) > _CONTAINER_ID_BYTES:
        details = f"it has {len(text)} characters, {_CONTAINER_ID_BYTES} are allowed"
        raise CNIError(Code.INVALID_ENVIRONMENT, "containerID is too long", details)
    if not is_identifier(text):
        raise CNIError(Code.INVALID_ENVIRONMENT, "invalid characters in containerID", text)


def is_link_name(text: str) -> bool:
    """Whether a link can be made under just this name, by dev_valid_name() of the kernel and by what it does besides.

    The kernel makes "eth0" of "eth%d", and refuses any other "%". It has /proc/sys/net/ipv4/conf/all and .../default
    for other things than links. To its isspace() 0xA0 is white space, though it be a byte of a letter ("à").
    """
    name = text.encode()
    return (
        0 < len(name) <= _IFNAME_BYTES
        and text not in (".", "..", *_ALL_INTERFACES)
        and _IN_NO_NAME.isdisjoint(name)
        and not any(char == "%" or char.isspace() for char in text)
    )


def check_new_ifname(text: str) -> None:
    """What can be the name of a pod's interface. Raises CNIError 4."""
    check_ifname(text)
    if "%" in text:
        message = "interface name contains %, of which the kernel makes another name"
        raise CNIError(Code.INVALID_ENVIRONMENT, message, text)
    if text in _ALL_INTERFACES:
        message = "interface name is all or default, which stand for all interfaces in /proc/sys/net"
        raise CNIError(Code.INVALID_ENVIRONMENT, message, text)


def check_ifname(text: str) -> None:
    """The rules of the CNI project for CNI_IFNAME, and UTF-8, since results carry it. Raises CNIError 4."""
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        raise CNIError(Code.INVALID_ENVIRONMENT, "interface name is not valid UTF-8", ascii(text)) from None
    if length > _IFNAME_BYTES:
        details = f"interface name should be less than {_IFNAME_BYTES + 1} characters"
        raise CNIError(Code.INVALID_ENVIRONMENT, "interface name is too long", details)
    if text in (".", ".."):
        raise CNIError(Code.INVALID_ENVIRONMENT, "interface name is . or ..")
    if any(char.isspace() for char in text) or not _IN_NO_NAME.isdisjoint(text.encode()):
        raise CNIError(Code.INVALID_ENVIRONMENT, "interface name contains / or : or whitespace characters")
