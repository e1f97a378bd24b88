"""How a link and sysctls were before they were tuned: looked at, changed, put back; all in the pod's namespace."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from linux import sysctls
from linux.errors import reason, step
from linux.netlink.socket import Netlink
from linux.rtnl.links import (
    Link,
    find_link_by_index,
    set_all_multicast,
    set_mac,
    set_mtu,
    set_promiscuous,
    set_queue_length,
)
from plugins.tuning.conf import TuningConf

_ROUNDS = 3
_SETTERS: dict[str, Callable] = {
    "mac": set_mac,
    "promiscuous": lambda netlink, index, on: set_promiscuous(netlink, index, on=on),
    "mtu": set_mtu,
    "all_multicast": lambda netlink, index, on: set_all_multicast(netlink, index, on=on),
    "queue_length": set_queue_length,
}
_NAMES = {"promiscuous": "promisc", "all_multicast": "allmulti", "queue_length": "txQLen"}


@dataclass(frozen=True)
class Originals:
    """What is to be put back. `link`: attribute of Link -> value; `sysctls`: path below /proc/sys/net -> value."""

    link: Mapping[str, object] = field(default_factory=dict)
    sysctls: Mapping[str, str] = field(default_factory=dict)


def wanted_of_link(conf: TuningConf) -> dict[str, object]:
    """The attributes of Link that are to be set, in the order in which they are."""
    wanted = {attribute: getattr(conf, attribute) for attribute in _SETTERS}
    nothing = {"mac": "", "mtu": 0}
    return {attribute: value for attribute, value in wanted.items() if value != nothing.get(attribute)}


def look(conf: TuningConf, link: Link | None) -> Originals:
    """How everything is that `conf` will change, the settings included that the kernel changes along with others.

    A setting that can not be read (a write-only one, or a secret that nobody has set) can not be put back.
    """
    values: dict[str, str] = {}
    for sysctl in conf.sysctls:
        for path in (sysctl.path, *sysctls.list_coupled(sysctl.path)):
            with suppress(OSError, UnicodeDecodeError):
                values.setdefault(path, sysctls.read(path))
    kept = {attribute: getattr(link, attribute) for attribute in wanted_of_link(conf)} if link else {}
    return Originals(kept, values)


def change(netlink: Netlink, link: Link | None, conf: TuningConf) -> None:
    """Make everything as `conf` has it. Raises CNIError at the first thing that can not be done."""
    for sysctl in conf.sysctls:
        with step(f"set sysctl {sysctl.name}"):
            _set(sysctl.path, sysctl.value)
    for attribute, value in wanted_of_link(conf).items():
        if link is not None and getattr(link, attribute) != value:
            with step(f'set {_NAMES.get(attribute, attribute)} of "{link.name}" to {value}'):
                _SETTERS[attribute](netlink, link.index, value)


def put_back(netlink: Netlink, link: Link | None, originals: Originals) -> list[str]:
    """Make everything as it was, as far as that is possible; what was not, a sentence each.

    The link comes first: with an MTU below 1280 it has no IPv6, and no settings of it either.
    """
    failures = _put_link_back(netlink, link, originals.link) if link else []
    # One setting can change another, so what was put back is looked at again.
    for _ in range(_ROUNDS):
        refused = {path: _put_sysctl_back(path, originals.sysctls[path]) for path in _changed(originals.sysctls)}
        if all(refused.values()):
            break
    return failures + [refused.get(path) or f"sysctl net/{path} does not stay" for path in _changed(originals.sysctls)]


def holds(path: str, value: str) -> bool:
    """Whether the setting has the value, white space apart (the kernel shows a tab where a blank was written)."""
    try:
        return sysctls.read(path).split() == value.split()
    except (OSError, UnicodeDecodeError):
        return False


def _changed(originals: Mapping[str, str]) -> list[str]:
    """The settings that are there (one may be gone with its link) and have other values."""
    return [path for path, value in originals.items() if sysctls.exists(path) and not holds(path, value)]


def _put_link_back(netlink: Netlink, link: Link, values: Mapping[str, object]) -> list[str]:
    failures = []
    for attribute, value in reversed(values.items()):
        try:
            now = find_link_by_index(netlink, link.index)
            if now is not None and getattr(now, attribute) != value:
                _SETTERS[attribute](netlink, link.index, value)
        except OSError as error:
            name = _NAMES.get(attribute, attribute)
            failures.append(f'failed to put {name} of "{link.name}" back to {value}: {reason(error)}')
    return failures


def _put_sysctl_back(path: str, value: str) -> str:
    try:
        sysctls.write(path, value or "\n")
    except OSError as error:
        return f"failed to put sysctl net/{path} back to {value!r}: {reason(error)}"
    return ""


def _set(path: str, value: str) -> None:
    try:
        sysctls.write(path, value or "\n")  # an empty text would be no write at all
    except OSError:
        # /proc/sys may be read-only, and the setting may have the value.
        if not holds(path, value):
            raise
