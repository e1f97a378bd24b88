"""Sysctls: how they are read, and the commands that set them."""

from collections.abc import Callable

from linux import sysctls

Read = Callable[[str], str]
"""The value of a sysctl below net/ (slash form), "" if there is none."""

read: Read = sysctls.read_if_there


def setting(*values: str) -> str:
    """The commands that set sysctls, now and after a reboot; each value is like "ipv4/ip_forward=1"."""
    lines = [f"net/{value}" for value in values]  # this form works for names with dots, too
    kept = "; ".join(f"echo {line} >>/etc/sysctl.d/90-pods.conf" for line in lines)
    return f"sysctl -w {' '.join(lines)}; {kept}"
