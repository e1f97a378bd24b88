"""In a container: making the host's root the agent's own, so that every path means what it means to the runtime.

An agent has the files of its container, a runtime those of the host: an allowlist of `tuning`, a `resolvConf`, records
of peers, leases, plugins of others. To look for each of them below some folder would have to be remembered at every
place that opens a file, and a file forgotten is one that "does not exist". So the whole process moves (chroot(2)) when
it has loaded all that it needs of its container; what it executes is there too.
"""

import os
from errno import ENOENT

_OWN_NETNS = "/proc/self/ns/net"


def enter(root: str) -> None:
    """Make the folder `root` the root of this process, and its current folder. Raises OSError.

    The host's /proc has to be mounted there: namespaces and sysctls are reached by it.
    """
    own = os.stat(_OWN_NETNS)
    os.chroot(root)
    os.chdir("/")
    try:
        is_usable = os.path.samestat(os.stat(_OWN_NETNS), own)
    except OSError:
        is_usable = False
    if not is_usable:
        raise OSError(ENOENT, "not the root of the host: its /proc does not show this process", root)
