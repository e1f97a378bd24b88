"""Sysctls below /proc/sys/net, of the network namespace of the calling thread."""

import os

from spec.errors import is_shortage

_ROOT = "/proc/sys/net/"
_LONGEST = 1 << 16  # bytes of a value; the kernel returns it whole or not at all


def read(key: str) -> str:
    """The value of `key` (slash form, below net/: "ipv4/ip_forward"), stripped; raises OSError."""
    file = os.open(_ROOT + key, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, _LONGEST).decode("ascii").strip()
    finally:
        os.close(file)


def read_if_there(key: str) -> str:
    """As `read`, but "" if there is no such sysctl: no IPv6, a link with an MTU below 1280, a deleted link.

    Raises OSError if the node is out of descriptors or memory.
    """
    try:
        return read(key)
    except OSError as error:
        if is_shortage(error):
            raise
        return ""


def exists(key: str) -> bool:
    """Whether this namespace has the sysctl."""
    return os.path.exists(_ROOT + key)


def list_scopes(folder: str) -> list[str]:
    """The names in a folder of sysctls: in "ipv4/conf" the links, "all" and "default". Raises OSError."""
    return os.listdir(_ROOT + folder)


def write(key: str, value: str) -> None:
    """Set `key`; raises OSError."""
    file = os.open(_ROOT + key, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(file, value.encode("ascii"))
    finally:
        os.close(file)


def ensure(key: str, value: str) -> bool:
    """Set `key` unless it has the value (/proc/sys may be read-only); returns whether it was set."""
    if read(key) == value:
        return False
    write(key, value)
    return True


def try_write(key: str, value: str) -> None:
    """Set `key` if the kernel has it and permits it; without IPv6 there is no net/ipv6.

    Raises OSError if the node is out of descriptors or memory.
    """
    try:
        write(key, value)
    except OSError as error:
        if is_shortage(error):
            raise


def list_coupled(key: str) -> list[str]:
    """The other sysctls that the kernel may change together with `key`; mostly none.

    It copies some values of conf/all and conf/default to every link; ip_forward also changes the acceptance of
    redirects (Documentation/networking/ip-sysctl.rst). Raises OSError as try_write does.
    """
    beside = ["ipv4/ip_forward", "ipv4/conf/all/accept_redirects"]
    forwards = key in ("ipv4/ip_forward", "ipv4/conf/all/forwarding")
    family, kind, scope, name = (*("ipv4/conf/all/forwarding" if forwards else key).split("/", 3), "", "", "")[:4]
    if kind != "conf" or scope not in ("all", "default"):
        return []
    folder = f"{family}/conf"
    try:
        links = os.listdir(_ROOT + folder)
    except OSError as error:
        if is_shortage(error):
            raise
        return []
    found = [f"{folder}/{link}/{name}" for link in sorted(links)] + (beside if forwards else [])
    return [other for other in found if other != key]
