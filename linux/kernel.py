"""The oldest supported kernel, and the remark in errors of an older one.

The version alone refuses nothing, because distributions backport features to older kernels. But if an older kernel
refuses a request, its age is the likely reason, and the error names it.
"""

import os
from errno import EAFNOSUPPORT, EINVAL, ENOENT, ENOPROTOOPT, ENOSYS, EOPNOTSUPP, EPROTONOSUPPORT

OLDEST = (5, 10)
_UNKNOWN = {EAFNOSUPPORT, EINVAL, ENOENT, ENOPROTOOPT, ENOSYS, EOPNOTSUPP, EPROTONOSUPPORT}
"""Errors of a kernel that does not know a request."""


def is_before(version: tuple[int, int]) -> bool:
    """Whether this kernel is older than that version; False if its version cannot be parsed."""
    numbers = os.uname().release.split("-")[0].split(".")[:2]
    return all(number.isdigit() for number in numbers) and tuple(map(int, numbers)) < version


def is_old() -> bool:
    """Whether this kernel is older than the oldest supported one."""
    return is_before(OLDEST)


def remark(error: OSError) -> str:
    """A remark for a request that the kernel refused, "" unless the kernel may be too old for it."""
    from linux.netlink.socket import NetlinkError

    if not isinstance(error, NetlinkError) or error.errno not in _UNKNOWN or not is_old():
        return ""
    return f" (this node's kernel is {os.uname().release}; the oldest supported one is {OLDEST[0]}.{OLDEST[1]})"
