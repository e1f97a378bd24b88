"""Third-party packages with an empty `__init__`, since theirs import the whole library for any sub-module.

`import pyroute2` takes 100 ms and more, `import prometheus_client` needs OpenSSL, and `import lightkube` asyncio; the
sub-modules that we import take less. Nothing else is changed, and only what is then imported is bundled.
"""

import os
from collections.abc import Iterable
from importlib.util import find_spec

PACKAGES = ("lightkube", "prometheus_client", "pyroute2")


def stage(folder: str, packages: Iterable[str] = PACKAGES) -> str:
    """Create the packages in `folder`: an empty `__init__.py`, and links to all other files. Returns `folder`."""
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
