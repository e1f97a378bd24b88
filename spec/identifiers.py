"""What may name a container, a network and an interface (spec section 2; the interface as the kernel has it)."""

from spec.errors import CNIError, Code

_ALPHANUMERIC = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_ALLOWED = _ALPHANUMERIC | frozenset("_.-")
_IFNAME_BYTES = 15


def is_identifier(text: str) -> bool:
    """Whether it may be a container id or a network name: `[A-Za-z0-9][A-Za-z0-9_.-]*`, and nothing after it."""
    return text[:1] in _ALPHANUMERIC and _ALLOWED.issuperset(text)


def check_container_id(text: str) -> None:
    """Raises CNIError 4."""
    if not is_identifier(text):
        raise CNIError(Code.INVALID_ENVIRONMENT, "invalid characters in containerID", text)


def check_ifname(text: str) -> None:
    """What dev_valid_name() of the kernel takes, and UTF-8, since results carry it. Raises CNIError 4."""
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        raise CNIError(Code.INVALID_ENVIRONMENT, "interface name is not valid UTF-8", ascii(text)) from None
    if length > _IFNAME_BYTES:
        details = f"interface name should be less than {_IFNAME_BYTES + 1} characters"
        raise CNIError(Code.INVALID_ENVIRONMENT, "interface name is too long", details)
    if text in (".", ".."):
        raise CNIError(Code.INVALID_ENVIRONMENT, "interface name is . or ..")
    if any(char in "/:\0" or char.isspace() for char in text):
        raise CNIError(Code.INVALID_ENVIRONMENT, "interface name contains / or : or whitespace characters")
