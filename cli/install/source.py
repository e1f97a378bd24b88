"""What an installation installs: the files beside the running executable."""

import os
import sys

from cli.exits import Failure

PACKAGED = "/usr/lib/slash24"
"""Where the Debian package has them."""


def private_folder() -> str:
    """The private folder of the running executable. Raises Failure if it is not frozen."""
    if not getattr(sys, "frozen", False):
        raise Failure("this is not the built executable: run ./build.sh, then dist/bin/slash24 install")
    return os.path.dirname(os.path.realpath(sys.executable))


def shared(private: str, *names: str) -> str:
    """The path of a file or folder that is installed beside the executables: examples, units, man pages."""
    return os.path.join(private, "share", *names)


def is_packaged(private: str) -> bool:
    """Whether the Debian package has installed it, which has units, man pages and the command in /usr."""
    return os.path.dirname(private) == PACKAGED
