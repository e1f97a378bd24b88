"""In a container: makes the host's root the agent's own, so that every path means what it means to the runtime.

Paths in configurations name files of the host: an allowlist of `tuning`, a `resolvConf`, records of peers, leases,
other plugins. If each were looked up below a folder, every place that opens a file would have to do so, and one that is
forgotten finds that its file "does not exist". Therefore the whole process changes its root (chroot(2)), once it has
loaded everything that it needs from its container; what it executes then is the host's too.
"""

import os
from errno import ENOENT

_OWN_NETNS = "/proc/self/ns/net"


def enter(root: str) -> None:
    """Make the folder `root` this process's root and working directory. Raises OSError.

    The host's /proc must be mounted there: namespaces and sysctls are reached through it.
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
