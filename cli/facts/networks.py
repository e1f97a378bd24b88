"""The network configurations of a folder, in the order in which runtimes read them, and whether they can.

A runtime takes the first file by name for its pods. If it cannot read that, containerd takes none, while CRI-O and
cri-dockerd go on with the next one.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cli.facts.paths import NET_D
from spec import versions
from spec.config import Section, decode, read_name
from spec.errors import CNIError
from spec.versions import LATEST, UNSTATED
from state.files import read_file

_SUFFIXES = (".conf", ".conflist", ".json")
_LIST = ".conflist"
_MOST_FILES, _MOST_PLUGINS = 1000, 100
_TRUE = (True, "true", "True", "TRUE")


@dataclass(frozen=True)
class Network:
    """A file with a network configuration.

    `stated`: its cniVersion. `offered`: its cniVersions, which only libcni 1.2 and later reads. `plugins`: as in the
    file, in their order. `has_check` False: its disableCheck tells runtimes not to call CHECK. `problem`: why runtimes
    refuse the file, "" if they do not; then the fields above may be empty.
    """

    path: str
    name: str = ""
    stated: str = UNSTATED
    offered: tuple[str, ...] = ()
    plugins: tuple[Mapping[str, object], ...] = field(default=(), repr=False)
    has_check: bool = True
    problem: str = ""

    @property
    def types(self) -> tuple[str, ...]:
        """The types of its plugins."""
        return tuple(Section(plugin).string("type") for plugin in self.plugins)

    @property
    def main(self) -> Section:
        """The first plugin, which makes the pod's interface."""
        return Section(self.plugins[0])

    def version_for(self, newest: str) -> str:
        """The version that a runtime uses which knows versions up to `newest`, "" if it cannot use the network."""
        known = (self.stated, *self.offered) if versions.at_least(newest, LATEST) else (self.stated,)
        return max((one for one in known if versions.at_least(newest, one)), key=versions.parse, default="")


def read_networks(folder: str = NET_D) -> list[Network]:
    """The files of a folder, as runtimes order them: by their names' bytes. None without it. Raises OSError."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.name.endswith(_SUFFIXES) and not entry.is_dir()]
    except FileNotFoundError:
        return []
    return [read_network(os.path.join(folder, name)) for name in sorted(names, key=os.fsencode)[:_MOST_FILES]]


def read_network(path: str) -> Network:
    """One file; what is wrong with it is its `problem`."""
    try:
        return _parse(path, read_file(path))
    except OSError as error:
        return Network(path, problem=f"cannot be read: {error.strerror}")
    except CNIError as error:
        return Network(path, problem=str(error))


def used_of(networks: Sequence[Network]) -> Network | None:
    """The first one that a runtime can read, None without any."""
    return next((network for network in networks if not network.problem), None)


def _parse(path: str, text: bytes) -> Network:
    """Raises CNIError."""
    document = decode(text)
    section = Section(document)
    is_list = path.endswith(_LIST)
    plugins = _plugins(section) if is_list else (document,)
    hint = "" if is_list else f" (the name of a list's file ends with {_LIST})"
    for plugin in map(Section, plugins):
        if not plugin.string("type"):
            raise plugin.error("type", f"the name of a plugin{hint}")
    stated = section.string("cniVersion") or UNSTATED
    offered = section.strings("cniVersions") or ()
    for version in (stated, *offered):
        versions.parse(version)
    has_check = section.raw("disableCheck") not in _TRUE
    return Network(path, read_name(section), stated, offered, plugins, has_check)


def _plugins(section: Section) -> tuple[Mapping[str, object], ...]:
    """Raises CNIError 7."""
    plugins = section.raw("plugins")
    is_list = isinstance(plugins, list) and 0 < len(plugins) <= _MOST_PLUGINS
    if not is_list or not all(isinstance(plugin, dict) for plugin in plugins):
        raise section.error("plugins", f"a list of objects, 1 to {_MOST_PLUGINS}")
    return tuple(plugins)
