"""The settings of a pod's link and its sysctls: read, apply, restore. All of it happens in the pod's namespace."""

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
class Settings:
    """Values of settings. `link`: attribute of Link -> value; `sysctls`: path below /proc/sys/net -> value."""

    link: Mapping[str, object] = field(default_factory=dict)
    sysctls: Mapping[str, str] = field(default_factory=dict)


def desired_of_link(conf: TuningConf) -> dict[str, object]:
    """The attributes of Link to set, in this order."""
    desired = {attribute: getattr(conf, attribute) for attribute in _SETTERS}
    unset = {"mac": "", "mtu": 0}
    return {attribute: value for attribute, value in desired.items() if value != unset.get(attribute)}


def read(conf: TuningConf, link: Link | None) -> Settings:
    """The current values of all settings that `conf` changes, including those that the kernel changes along.

    A sysctl that cannot be read (write-only, or a secret that is not set) is left out: it cannot be restored.
    """
    values: dict[str, str] = {}
    for sysctl in conf.sysctls:
        for path in (sysctl.path, *sysctls.list_coupled(sysctl.path)):
            with suppress(OSError, UnicodeDecodeError):
                values.setdefault(path, sysctls.read(path))
    attributes = {attribute: getattr(link, attribute) for attribute in desired_of_link(conf)} if link else {}
    return Settings(attributes, values)


def apply(netlink: Netlink, link: Link | None, conf: TuningConf) -> None:
    """Apply all settings of `conf`. Raises CNIError at the first that fails."""
    for sysctl in conf.sysctls:
        with step(f"set sysctl {sysctl.name}"):
            _set(sysctl.path, sysctl.value)
    for attribute, value in desired_of_link(conf).items():
        if link is not None and getattr(link, attribute) != value:
            with step(f'set {_NAMES.get(attribute, attribute)} of "{link.name}" to {value}'):
                _SETTERS[attribute](netlink, link.index, value)


def restore(netlink: Netlink, link: Link | None, original: Settings) -> list[str]:
    """Restore as much as possible; returns a sentence for each setting that could not be restored.

    The link comes first: with an MTU below 1280 it has no IPv6, hence no IPv6 sysctls.
    """
    failures = _restore_link(netlink, link, original.link) if link else []
    # Setting one sysctl can change another, so they are compared again.
    for _ in range(_ROUNDS):
        refused = {path: _restore_sysctl(path, original.sysctls[path]) for path in _changed(original.sysctls)}
        if all(refused.values()):
            break
    return failures + [
        refused.get(path) or f"sysctl net/{path} does not keep its original value"
        for path in _changed(original.sysctls)
    ]


def has_value(path: str, value: str) -> bool:
    """Whether a sysctl has the value, ignoring white space (the kernel returns a tab where a blank was written)."""
    try:
        return sysctls.read(path).split() == value.split()
    except (OSError, UnicodeDecodeError):
        return False


def _changed(original: Mapping[str, str]) -> list[str]:
    """The sysctls that exist (some vanish with their link) and have other values."""
    return [path for path, value in original.items() if sysctls.exists(path) and not has_value(path, value)]


def _restore_link(netlink: Netlink, link: Link, values: Mapping[str, object]) -> list[str]:
    failures = []
    for attribute, value in reversed(values.items()):
        try:
            now = find_link_by_index(netlink, link.index)
            if now is not None and getattr(now, attribute) != value:
                _SETTERS[attribute](netlink, link.index, value)
        except OSError as error:
            name = _NAMES.get(attribute, attribute)
            failures.append(f'failed to restore {name} of "{link.name}" to {value}: {reason(error)}')
    return failures


def _restore_sysctl(path: str, value: str) -> str:
    try:
        sysctls.write(path, value or "\n")
    except OSError as error:
        return f"failed to restore sysctl net/{path} to {value!r}: {reason(error)}"
    return ""


def _set(path: str, value: str) -> None:
    try:
        sysctls.write(path, value or "\n")  # writing an empty text would do nothing
    except OSError:
        # /proc/sys may be read-only, but the sysctl may already have the value.
        if not has_value(path, value):
            raise
