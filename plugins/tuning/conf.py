"""The configuration of `tuning`, and the places where a runtime may override it."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from plugins.mac import mac_in, mac_in_args
from spec.config import Section, absolute_path, wrong_value
from spec.errors import CNIError, Code
from spec.request import Request

DATA_DIR = "/run/cni/tuning"
_INT31, _UINT32 = 2**31 - 1, 2**32 - 1
_MOST_SYSCTLS, _LONGEST_NAME = 1000, 255
_SWAPPED = str.maketrans("./", "/.")


@dataclass(frozen=True)
class Sysctl:
    """A sysctl: its name as in the configuration, its path below /proc/sys/net, and the value to set."""

    name: str
    path: str
    value: str


@dataclass(frozen=True)
class TuningConf:
    """The settings to apply to the pod's link and namespace; None (`mac` "", `mtu` 0) leaves one unchanged."""

    sysctls: tuple[Sysctl, ...] = ()
    mac: str = ""
    mtu: int = 0
    promiscuous: bool | None = None
    all_multicast: bool | None = None
    queue_length: int | None = None
    data_dir: str = DATA_DIR

    @property
    def tunes_link(self) -> bool:
        """Whether an attribute of the link is to be set."""
        desired = (self.mac or None, self.mtu or None, self.promiscuous, self.all_multicast, self.queue_length)
        return any(one is not None for one in desired)


def parse(request: Request) -> TuningConf:
    """Read the keys. Raises CNIError 7, or 4 for an invalid MAC in CNI_ARGS."""
    section = request.conf.section
    override = section.section("args").section("cni")
    _refuse_repeated_sysctls(request.stdin)
    places = (override, section)
    return TuningConf(
        sysctls=_sysctls(places, request.ifname or "IFNAME"),
        mac=_mac(request, override, section),
        mtu=_first(place.integer("mtu", None, low=0, high=_INT31) for place in places) or 0,
        promiscuous=_first(place.boolean("promisc", None) for place in places),
        all_multicast=_first(place.boolean("allmulti", None) for place in places),
        queue_length=_first(place.integer("txQLen", None, low=0, high=_UINT32) for place in places),
        data_dir=read_data_dir(section),
    )


def read_data_dir(section: Section) -> str:
    """The folder of the backup files. Raises CNIError 7."""
    return absolute_path(section, "dataDir") or DATA_DIR


def check_data_dir(folder: str) -> None:
    """For STATUS: raises CNIError 50 if no files can be written in the folder, or its first existing parent."""
    while not os.path.exists(folder) and folder not in ("", "/"):
        folder = os.path.dirname(folder)
    if not (os.path.isdir(folder or ".") and os.access(folder or ".", os.W_OK | os.X_OK)):
        raise CNIError(Code.PLUGIN_NOT_AVAILABLE, "the original settings cannot be saved", folder)


def path_of(name: str, ifname: str) -> str:
    """The path below /proc/sys/net of a sysctl, with the first IFNAME in its name replaced. Raises ValueError.

    The first separator decides, as in sysctl(8): if it is a dot, dots separate and a slash stands for a dot
    (net.ipv4.conf.eth0/100.rp_filter); if it is a slash, slashes separate and a dot is a dot.
    """
    dot, slash = name.find("."), name.find("/")
    path = name.translate(_SWAPPED) if dot >= 0 and (slash < 0 or dot < slash) else name
    parts = path.replace("IFNAME", ifname, 1).split("/")
    plain = all(part not in ("", ".", "..") and part.isprintable() and " " not in part for part in parts)
    if parts[0] != "net" or len(parts) < 2 or not plain or len(name) > _LONGEST_NAME:
        raise ValueError(name)
    return "/".join(parts[1:])


def _first(values: Iterable) -> object:
    """The first value that is given. The others are not even read: an overridden value may be a placeholder."""
    return next((value for value in values if value is not None), None)


def _mac(request: Request, override: Section, section: Section) -> str:
    """From args.cni, runtimeConfig, CNI_ARGS or the configuration, in the reference plugin's order of precedence."""
    return mac_in(override) or mac_in(section.section("runtimeConfig")) or mac_in_args(request.args) or mac_in(section)


def _sysctls(places: tuple[Section, Section], ifname: str) -> tuple[Sysctl, ...]:
    """The sysctls of the configuration, in their order, each overridden by the one in args.cni if there is one."""
    override = {sysctl.path: sysctl for sysctl in _sysctls_of(places[0], ifname, {})}
    own = {sysctl.path: sysctl for sysctl in _sysctls_of(places[1], ifname, override)}
    return tuple((own | override).values())


def _sysctls_of(place: Section, ifname: str, overridden: Mapping[str, Sysctl]) -> Iterator[Sysctl]:
    """The sysctls of one place; the values of those that are `overridden` (by path) are not validated."""
    given = place.raw("sysctl")
    if given is not None and not isinstance(given, dict):
        raise place.error("sysctl", "an object of strings")
    if len(given or {}) > _MOST_SYSCTLS:
        raise CNIError(
            Code.INVALID_NETWORK_CONFIG, f'"{place.path_of("sysctl")}": expected at most {_MOST_SYSCTLS} sysctls'
        )
    seen: dict[str, str] = {}
    for name, value in (given or {}).items():
        where = f"{place.path_of('sysctl')}.{name}"
        if value is None:
            continue
        try:
            path = path_of(name, ifname)
        except ValueError:
            expected = f'"{place.path_of("sysctl")}": expected names below net, such as net.ipv4.conf.IFNAME.rp_filter'
            raise CNIError(Code.INVALID_NETWORK_CONFIG, f'invalid net sysctl key: "{name}"', expected) from None
        if path in seen:
            raise _repeated(f'"{seen[path]}" and "{name}"')
        seen[path] = name
        is_text = isinstance(value, str) and value.isascii() and "\0" not in value
        if not is_text and path not in overridden:
            raise wrong_value(where, "a string of ASCII characters", value)
        yield Sysctl(name, path, value)


class _Object(dict):
    """A JSON object that remembers its duplicate keys."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        seen: set[str] = set()
        self.repeated = [key for key, _ in pairs if key in seen or seen.add(key)] if len(self) < len(pairs) else []


def _refuse_repeated_sysctls(stdin: bytes) -> None:
    """Raises CNIError 7. Reads stdin, since the decoded configuration has only the last of several equal keys."""
    config = json.loads(stdin, object_pairs_hook=_Object) if stdin else _Object([])
    args = [_under(one, "cni") for one in _under(config, "args")]
    for place in (config, *(cni for each in args for cni in each)):
        for sysctls in _under(place, "sysctl"):
            if sysctls.repeated:
                raise _repeated(", ".join(f'"{key}"' for key in sysctls.repeated))


def _under(place: _Object, name: str) -> list[_Object]:
    return [value for key, value in place.items() if key.lower() == name and isinstance(value, _Object)]


def _repeated(names: str) -> CNIError:
    return CNIError(Code.INVALID_NETWORK_CONFIG, "duplicated sysctl keys are not allowed", names)
