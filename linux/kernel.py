"""The oldest kernel that is supported, and what is said on an older one.

A version refuses nothing: distributions bring what plugins need to kernels of older numbers. But where an older kernel
refuses a request, or could not masquerade, its age is the likely reason, and it is named.
"""

import os
from errno import EAFNOSUPPORT, EINVAL, ENOENT, ENOPROTOOPT, ENOSYS, EOPNOTSUPP, EPROTONOSUPPORT

OLDEST = (5, 10)
_UNKNOWN = {EAFNOSUPPORT, EINVAL, ENOENT, ENOPROTOOPT, ENOSYS, EOPNOTSUPP, EPROTONOSUPPORT}
"""What a kernel answers to a request that it does not know."""


def is_before(version: tuple[int, int]) -> bool:
    """Whether this kernel's number is lower; no if it can not be read."""
    numbers = os.uname().release.split("-")[0].split(".")[:2]
    return all(number.isdigit() for number in numbers) and tuple(map(int, numbers)) < version


def is_old() -> bool:
    """Whether this kernel is older than the oldest that is supported."""
    return is_before(OLDEST)


def remark(error: OSError) -> str:
    """What to add to the kernel's refusal of a request; "" unless it may have refused for its age."""
    from linux.netlink.socket import NetlinkError

    if not isinstance(error, NetlinkError) or error.errno not in _UNKNOWN or not is_old():
        return ""
    return f" (this node's kernel is {os.uname().release}, the oldest that is supported is {OLDEST[0]}.{OLDEST[1]})"
