"""The entry of every frozen plugin: which one it is, its name tells."""

import io
import os
import sys
from importlib import import_module

from spec.plugin import Plugin, Suite, serve

VERSION = "0.1.0"
REFERENCE = "1.9.1"
"""Version of the reference's plugins whose configurations and effects ours have."""

TYPES = {
    "bandwidth": "plugins.bandwidth",
    "bridge": "plugins.bridge",
    "firewall": "plugins.firewall",
    "host-local": "ipam.host_local",
    "kubenet": "plugins.kubenet",
    "loopback": "plugins.loopback",
    "portmap": "plugins.portmap",
    "static": "ipam.static",
    "tuning": "plugins.tuning",
    "vxlan": "plugins.vxlan",
}
_WITHOUT_REFERENCE = ("kubenet", "vxlan")


def load(kind: str) -> Plugin | None:
    """The suite's plugin of that CNI type, or None; imports no other plugin's modules."""
    return import_module(TYPES[kind]).PLUGIN if kind in TYPES else None


def stated_version(kind: str) -> str:
    """The version that a plugin states. Of one that takes the place of the reference's it is that plugin's.

    nerdctl reads "CNI firewall plugin v1.9.1" to learn what can be configured. It reads a semantic version, in which
    what stands behind a "+" does not count.
    """
    return VERSION if kind in _WITHOUT_REFERENCE else f"v{REFERENCE}+slash24.{VERSION}"


def main() -> int:
    """Serve one CNI call; the exit status is 0 or 1."""
    frozen = getattr(sys, "frozen", False)
    executable = os.path.realpath(sys.executable)
    kind = os.path.basename(executable) if frozen else sys.argv[1]
    plugin = load(kind)
    if plugin is None:
        sys.stderr.write(f"{kind}: no plugin of slash24 has this name; there are: {', '.join(TYPES)}\n")
        return 1
    # The frozen plugins are in a private folder; a runtime knows the folder around it (launcher/frozen.c).
    home = os.path.dirname(os.path.dirname(executable)) if frozen else None
    suite = Suite(home=home, load=load, version=stated_version(kind))
    # A stream that the caller has closed is None: nothing can be read there, and what is written is lost.
    stdin, stdout = (stream.buffer if stream else io.BytesIO() for stream in (sys.stdin, sys.stdout))
    stderr = sys.stderr or io.StringIO()
    return serve(plugin, environ=os.environ, suite=suite, stdin=stdin, stdout=stdout, stderr=stderr)


if __name__ == "__main__":
    status = main()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    os._exit(status)  # at once: taking down in order what is about to vanish costs a call 6 ms
