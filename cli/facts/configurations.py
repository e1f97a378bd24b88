"""How each network of this node is configured: by a file in a runtime's folder, or else as libcni's cache has it."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from cli.facts.cache import Cached
from cli.facts.networks import read_networks
from cli.facts.paths import LEASES, NET_D
from cli.facts.runtimes import find_runtimes
from ipam.ranges import RangeSet, parse_range_sets
from plugins.node import conf as node_conf
from spec.config import Section, absolute_path
from spec.errors import CNIError

_WITH_NODE = ("kubenet", "vxlan")
HOST_LOCAL = "host-local"


@dataclass(frozen=True)
class Configuration:
    """A network's configuration. `path`: its file, "" if only libcni's cache has it. `plugins`: never empty."""

    name: str
    path: str
    cni_version: str
    plugins: tuple[Mapping[str, object], ...] = field(repr=False)

    @property
    def kind(self) -> str:
        """The type of the main plugin, "" if it is not a text."""
        return _text(Section(self.plugins[0]), "type")

    @property
    def ipam_kind(self) -> str:
        """The type of the plugin that assigns addresses, "" without one."""
        return _text(self._ipam, "type") or (HOST_LOCAL if self.kind in _WITH_NODE else "")

    @property
    def lease_folder(self) -> str:
        """Where host-local keeps the leases of all networks that are configured like this one."""
        with suppress(CNIError):
            return absolute_path(self._ipam, "dataDir") or LEASES
        return LEASES

    @property
    def cooldown(self) -> int:
        """For how many seconds a released address is not assigned again."""
        with suppress(CNIError):
            return self._ipam.integer("cooldown", 0, low=0)
        return 0

    @property
    def range_sets(self) -> tuple[RangeSet, ...]:
        """The addresses that host-local assigns; () if they are another's to assign, or not known."""
        with suppress(CNIError, OSError):
            section = Section({**self.plugins[0], "name": self.name})
            if self.kind in _WITH_NODE:
                subnets = node_conf.parse_section(section).subnets
                section = Section({"ipam": node_conf.ipam_of(section, subnets)})
            if self.ipam_kind == HOST_LOCAL:
                return parse_range_sets(section, one_per_family=False)
        return ()

    @property
    def tuning_folders(self) -> tuple[str, ...]:
        """Where its `tuning` plugins keep settings, if they say so."""
        folders = (_text(Section(plugin), "dataDir") for plugin in self.of_kind("tuning"))
        return tuple(folder for folder in folders if folder.startswith("/"))

    def of_kind(self, kind: str) -> list[Mapping[str, object]]:
        """The configurations of its plugins of a type."""
        return [plugin for plugin in self.plugins if _text(Section(plugin), "type") == kind]

    @property
    def _ipam(self) -> Section:
        with suppress(CNIError):
            return Section(self.plugins[0]).section("ipam")
        return Section({})


def read_configurations(cache: Iterable[Cached] = ()) -> dict[str, Configuration]:
    """Those of all networks, by name; of two files with one name the first. Raises OSError.

    `cache`: libcni's, for networks whose file is gone.
    """
    found: dict[str, Configuration] = {}
    for folder in dict.fromkeys([*(runtime.conf_dir for runtime in find_runtimes()), NET_D]):
        for one in read_networks(folder):
            if not one.problem:
                found.setdefault(one.name, Configuration(one.name, one.path, one.stated, one.plugins))
    for one in sorted(cache, key=lambda one: -one.since):
        plugins = one.plugins
        if plugins:
            version = _text(Section(one.conf), "cniVersion")
            found.setdefault(one.network, Configuration(one.network, "", version, plugins))
    return found


def _text(section: Section, key: str) -> str:
    value = section.raw(key)
    return value if isinstance(value, str) else ""
