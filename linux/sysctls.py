"""Kernel settings under /proc/sys/net, of the network namespace the calling thread is in."""

import os

from spec.errors import is_shortage

_ROOT = "/proc/sys/net/"
_LONGEST = 1 << 16  # bytes of a value; the kernel gives it whole, or not at all


def read(key: str) -> str:
    """The value of `key` (slash form, below net/: "ipv4/ip_forward"), stripped; raises OSError."""
    file = os.open(_ROOT + key, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, _LONGEST).decode("ascii").strip()
    finally:
        os.close(file)


def read_if_there(key: str) -> str:
    """As `read`, and "" where there is no such setting: a kernel without IPv6, a link with an MTU below 1280 or gone.

    Raises OSError if descriptors or memory are short.
    """
    try:
        return read(key)
    except OSError as error:
        if is_shortage(error):
            raise
        return ""


def exists(key: str) -> bool:
    """Whether there is such a setting in this namespace."""
    return os.path.exists(_ROOT + key)


def list_scopes(folder: str) -> list[str]:
    """The names in a folder of settings: of "ipv4/conf" the links, "all" and "default". Raises OSError."""
    return os.listdir(_ROOT + folder)


def write(key: str, value: str) -> None:
    """Set `key`; raises OSError."""
    file = os.open(_ROOT + key, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(file, value.encode("ascii"))
    finally:
        os.close(file)


def ensure(key: str, value: str) -> bool:
    """Set `key` unless it has the value (a read-only /proc/sys may have it already); whether it was set."""
    if read(key) == value:
        return False
    write(key, value)
    return True


def try_write(key: str, value: str) -> None:
    """Set `key` where the kernel has it and lets us; a kernel without IPv6 has no net/ipv6.

    Raises OSError if descriptors or memory are short.
    """
    try:
        write(key, value)
    except OSError as error:
        if is_shortage(error):
            raise


def list_coupled(key: str) -> list[str]:
    """The settings that the kernel may change along with `key`, itself left out; an empty list for most.

    What is written to conf/all and conf/default it copies, for some settings, to every link; ip_forward also turns the
    acceptance of redirects (Documentation/networking/ip-sysctl.rst). Raises OSError as try_write does.
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
