"""Valid names of containers and networks (spec section 2) and of interfaces (the kernel's rules)."""

from spec.errors import CNIError, Code

_ALPHANUMERIC = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_ALLOWED = _ALPHANUMERIC | frozenset("_.-")
_IFNAME_BYTES = 15
_CONTAINER_ID_BYTES = 1024  # with the interface's name, it must fit into a lease that the reference plugin can read
_FORBIDDEN = frozenset(b"/:\t\n\v\f\r \xa0")
_ALL_INTERFACES = ("all", "default")


def is_identifier(text: str) -> bool:
    """Whether it is a valid container id or network name: `[A-Za-z0-9][A-Za-z0-9_.-]*`."""
    return text[:1] in _ALPHANUMERIC and _ALLOWED.issuperset(text)


def check_container_id(text: str) -> None:
    """Raises CNIError 4."""
    if len(text) > _CONTAINER_ID_BYTES:
        details = f"it has {len(text)} characters, but may have {_CONTAINER_ID_BYTES}"
        raise CNIError(Code.INVALID_ENVIRONMENT, "containerID is too long", details)
    if not is_identifier(text):
        raise CNIError(Code.INVALID_ENVIRONMENT, "invalid characters in containerID", text)


def is_link_name(text: str) -> bool:
    """Whether a link can have exactly this name, according to the kernel's dev_valid_name() and more.

    The kernel turns "eth%d" into "eth0" and rejects any other "%". /proc/sys/net/ipv4/conf/all and .../default are not
    links. The kernel's isspace() takes 0xA0 for white space even within a UTF-8 character such as "à".
    """
    name = text.encode()
    return (
        0 < len(name) <= _IFNAME_BYTES
        and text not in (".", "..", *_ALL_INTERFACES)
        and _FORBIDDEN.isdisjoint(name)
        and not any(char == "%" or char.isspace() for char in text)
    )


def check_new_ifname(text: str) -> None:
    """Check the name of an interface that is to be created. Raises CNIError 4."""
    check_ifname(text)
    if "%" in text:
        message = "interface name contains %, which the kernel replaces"
        raise CNIError(Code.INVALID_ENVIRONMENT, message, text)
    if text in _ALL_INTERFACES:
        message = "interface name is all or default, which are not interfaces in /proc/sys/net"
        raise CNIError(Code.INVALID_ENVIRONMENT, message, text)


def check_ifname(text: str) -> None:
    """Check CNI_IFNAME by the CNI project's rules, and for valid UTF-8, since results contain it. Raises CNIError 4."""
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        raise CNIError(Code.INVALID_ENVIRONMENT, "interface name is not valid UTF-8", ascii(text)) from None
    if length > _IFNAME_BYTES:
        details = f"interface name should be less than {_IFNAME_BYTES + 1} characters"
        raise CNIError(Code.INVALID_ENVIRONMENT, "interface name is too long", details)
    if text in (".", ".."):
        raise CNIError(Code.INVALID_ENVIRONMENT, "interface name is . or ..")
    if any(char.isspace() for char in text) or not _FORBIDDEN.isdisjoint(text.encode()):
        raise CNIError(Code.INVALID_ENVIRONMENT, "interface name contains / or : or whitespace characters")
