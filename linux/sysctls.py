"""Kernel settings under /proc/sys/net, of the network namespace the calling thread is in."""

_ROOT = "/proc/sys/net/"


def read(key: str) -> str:
    """The value of `key` (slash form, below net/: "ipv4/ip_forward"), stripped; raises OSError."""
    with open(_ROOT + key, encoding="ascii") as file:
        return file.read().strip()


def write(key: str, value: str) -> None:
    """Set `key`; raises OSError."""
    with open(_ROOT + key, "w", encoding="ascii") as file:
        file.write(value)


def ensure(key: str, value: str) -> bool:
    """Set `key` unless it has the value (a read-only /proc/sys may have it already); whether it was set."""
    if read(key) == value:
        return False
    write(key, value)
    return True


def try_write(key: str, value: str) -> None:
    """Set `key` where the kernel has it and lets us; a kernel without IPv6 has no net/ipv6."""
    try:
        write(key, value)
    except OSError:
        return
