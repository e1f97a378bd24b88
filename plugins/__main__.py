"""The entry point of all frozen plugins; the name of the executable selects the plugin."""

import io
import os
import sys
from importlib import import_module

from spec.plugin import Plugin, Suite, serve

VERSION = "0.1.0"
REFERENCE = "1.9.1"
"""The version of the reference plugins with which ours are compatible."""

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
    """The suite's plugin of that CNI type, or None. Imports only that plugin's modules."""
    return import_module(TYPES[kind]).PLUGIN if kind in TYPES else None


def stated_version(kind: str) -> str:
    """The version that a plugin prints; for a replacement of a reference plugin, that plugin's version.

    nerdctl reads "CNI firewall plugin v1.9.1" to find out what can be configured. It parses a semantic version, in
    which anything after "+" is ignored.
    """
    return VERSION if kind in _WITHOUT_REFERENCE else f"v{REFERENCE}+slash24.{VERSION}"


def main() -> int:
    """Serve one CNI call; the exit status is 0 or 1."""
    frozen = getattr(sys, "frozen", False)
    executable = os.path.realpath(sys.executable)
    kind = os.path.basename(executable) if frozen else sys.argv[1]
    plugin = load(kind)
    if plugin is None:
        sys.stderr.write(f"{kind}: slash24 has no plugin of this name; it has: {', '.join(TYPES)}\n")
        return 1
    # The frozen plugins are in a private folder inside the one that runtimes use (launcher/frozen.c).
    home = os.path.dirname(os.path.dirname(executable)) if frozen else None
    suite = Suite(home=home, load=load, version=stated_version(kind))
    # A stream that the caller has closed is None: it reads as empty, and discards what is written.
    stdin, stdout = (stream.buffer if stream else io.BytesIO() for stream in (sys.stdin, sys.stdout))
    stderr = sys.stderr or io.StringIO()
    return serve(plugin, environ=os.environ, suite=suite, stdin=stdin, stdout=stdout, stderr=stderr)


if __name__ == "__main__":
    status = main()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    os._exit(status)  # skips the interpreter's shutdown, which takes 6 ms
