"""Third-party packages without their `__init__`, which imports the whole library whatever sub-module is wanted.

`import pyroute2` costs 100 ms and more, `import netaddr` 35, `import prometheus_client` brings OpenSSL; the sub-modules
that we import cost a few. So the executables bundle these packages with an empty `__init__`; that is all that is
changed, and only what is then imported is bundled at all.
"""

import os
from collections.abc import Iterable
from importlib.util import find_spec

PACKAGES = ("netaddr", "prometheus_client", "pyroute2")


def stage(folder: str, packages: Iterable[str] = PACKAGES) -> str:
    """Make `folder` a place to import the bare packages from: an empty `__init__.py`, beside links to all the rest."""
    for package in packages:
        (origin,) = find_spec(package).submodule_search_locations
        copy = os.path.join(folder, package)
        os.makedirs(copy)
        for name in os.listdir(origin):
            if name not in {"__init__.py", "__pycache__"}:
                os.symlink(os.path.join(origin, name), os.path.join(copy, name))
        with open(os.path.join(copy, "__init__.py"), "w"):
            pass
    return folder
