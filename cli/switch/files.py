"""Files of a provider: configurations of runtimes, executables, state.

Configuration and executables are moved to a backup folder, below the path that they had; state is deleted.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import partial

from cli.facts.networks import Network, read_networks
from cli.facts.paths import BIN
from cli.switch.leftover import CONFIGURATION, FILE, LEASES, Leftover, command
from cli.switch.programs import run
from cli.switch.providers import MOVE, Provider, matches
from daemon.conflist import is_ours
from ipam.host_local import DATA_DIR
from spec.errors import CNIError
from state.files import delete_file, make_folders, read_file

BACKUP = "/var/lib/slash24/switched"
_OWN_TYPES = ("kubenet", "vxlan")
_OTHER_KEYS = ("nerdctlID", "nerdctlLabels")
_PODMAN = "podman"
_TEMPLATE = "10-containerd-net.conflist"
_KUBENETS_BRIDGE, _KUBE_ROUTERS_BRIDGE = "cbr0", "kube-bridge"
_KOPS_NETWORK = "k8s-pod-network"


class Configurations:
    """The configurations of runtimes on this node."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._readable = [network for network in networks if not network.problem]
        self.own = [network for network in self._readable if _is_slash24s(network)]
        """Those of slash24, in the order in which runtimes read them."""
        self._others = [network for network in self._readable if network not in self.own]

    @classmethod
    def read(cls) -> "Configurations":
        """Those that are there. Raises OSError."""
        return cls(read_networks())

    def of(self, provider: Provider) -> list[Network]:
        """Those of a provider."""
        return [network for network in self._others if self._is_of(provider, network)]

    def bridges_of_others(self, provider: Provider) -> set[str]:
        """The bridges of configurations that are neither slash24's nor the provider's."""
        gone = self.of(provider)
        return {_bridge_of(network) for network in self._others if network not in gone} - {""}

    def _is_of(self, provider: Provider, network: Network) -> bool:
        if any(matches(provider.types, kind) for kind in network.types):
            return True
        special: dict[str, Callable[[Network], bool]] = {
            "kubenet": _is_kubenets,
            "kube-router": lambda one: _bridge_of(one) == _KUBE_ROUTERS_BRIDGE,
            "kindnet": lambda one: one.types[0] == "ptp" and os.path.basename(one.path).endswith("-kindnet.conflist"),
            "bridge": self._is_plain_bridge,
        }
        choice = special.get(provider.name)
        return choice is not None and choice(network)

    def _is_plain_bridge(self, network: Network) -> bool:
        """A list of the reference's bridge, where another one of slash24 is to replace it; no tool's own networks."""
        if not self.own or network.types[0] != "bridge" or _is_kubenets(network):
            return False
        text = _text(network.path)
        is_tools = any(key in text for key in _OTHER_KEYS) or network.name == _PODMAN or '"podman_' in text
        return not is_tools and _bridge_of(network) != _KUBE_ROUTERS_BRIDGE


def _is_slash24s(network: Network) -> bool:
    return (
        any(kind in _OWN_TYPES for kind in network.types)
        or "slash24" in os.path.basename(network.path)
        or is_ours(_text(network.path).encode("utf-8", "surrogateescape"))
    )


def _is_kubenets(network: Network) -> bool:
    if _bridge_of(network) == _KUBENETS_BRIDGE:
        return True
    is_template = os.path.basename(network.path) == _TEMPLATE
    return is_template and network.types[0] == "ptp" and network.name == _KOPS_NETWORK


def _bridge_of(network: Network) -> str:
    """The bridge of a list whose first plugin is `bridge`, "" for others."""
    if network.types[0] != "bridge":
        return ""
    with suppress(CNIError):
        return network.main.string("bridge") or "cni0"
    return ""


def _text(path: str) -> str:
    with suppress(OSError):
        return read_file(path).decode("utf-8", "surrogateescape")
    return ""


def lease_folder(network: Network) -> str:
    """Where host-local keeps the leases of a network, "" if its first plugin uses another IPAM plugin."""
    with suppress(CNIError):
        ipam = network.main.section("ipam")
        if ipam.string("type", "host-local") == "host-local":
            return os.path.join(ipam.string("dataDir") or DATA_DIR, network.name)
    return ""


def find_configurations(provider: Provider, configurations: Configurations) -> Iterator[Leftover]:
    """The provider's configurations."""
    for network in configurations.of(provider):
        yield moved(CONFIGURATION, provider, network.path, f"configuration {network.path} of network {network.name}")


def find_leases(provider: Provider, configurations: Configurations) -> Iterator[Leftover]:
    """Leases of the provider's networks, which slash24 does not go on with."""
    taken = {lease_folder(network) for network in configurations.own}
    for network in configurations.of(provider):
        folder = lease_folder(network)
        if folder and folder not in taken and os.path.isdir(folder):
            yield deleted(LEASES, folder, f"leases {folder}")


def find_files(provider: Provider) -> Iterator[Leftover]:
    """The provider's files, folders and executables; first what is mounted in them."""
    for one in provider.files:
        for path in _existing(one.path):
            for mount in _mounts_below(path):
                yield _mounted(mount)
            if one.fate == MOVE:
                yield moved(FILE, provider, path, f"{_what(path)} {path}")
            else:
                yield deleted(FILE, path, f"{_what(path)} {path}")
    with suppress(OSError):
        for name in sorted(os.listdir(BIN)):
            path = os.path.join(BIN, name)
            if matches(provider.executables, name) and not os.path.isdir(path):
                yield moved(FILE, provider, path, f"executable {path}")


def _existing(pattern: str) -> list[str]:
    folder, last = os.path.split(pattern)
    if "*" not in last:
        return [pattern] if os.path.lexists(pattern) else []
    with suppress(OSError):
        return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if fnmatchcase(name, last)]
    return []


def _what(path: str) -> str:
    return "folder" if os.path.isdir(path) and not os.path.islink(path) else "file"


def backup_of(provider: Provider, path: str) -> str:
    """Where a file or folder of a provider is moved to."""
    return _free(os.path.join(BACKUP, provider.name, path.lstrip("/")))


def has_backup(provider: Provider) -> bool:
    """Whether an earlier run has moved something of the provider."""
    return os.path.isdir(os.path.join(BACKUP, provider.name))


def moved(kind: str, provider: Provider, path: str, sentence: str) -> Leftover:
    """A file or folder that is moved to the backup folder."""
    target = backup_of(provider, path)
    lines = (command("mkdir", "-p", os.path.dirname(target)), command("mv", path, target))
    return Leftover(kind, path, sentence, lines, partial(move, path, target))


def deleted(kind: str, path: str, sentence: str) -> Leftover:
    """A file or folder that is deleted."""
    return Leftover(kind, path, sentence, (command("rm", "-r", path),), partial(_delete, path))


def _mounted(path: str) -> Leftover:
    return Leftover(FILE, path, f"what is mounted at {path}", (command("umount", path),), partial(_unmount, path))


def _free(path: str) -> str:
    """A path at which nothing is: an earlier backup stays."""
    number, free = 0, path
    while os.path.lexists(free):
        number += 1
        free = f"{path}.{number}"
    return free


def move(path: str, target: str) -> None:
    """Move a file or folder; nothing if it is gone. Raises OSError."""
    if os.path.lexists(path):
        make_folders(os.path.dirname(target), 0o700)
        shutil.move(path, target)


def _delete(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        if _mounts_below(path):  # something was mounted since it was looked at
            raise OSError(f"something is mounted in {path}")
        shutil.rmtree(path)
    else:
        delete_file(path)


def _mounts_below(path: str) -> list[str]:
    """The mount points at or below a path, the deepest first."""
    found = []
    with suppress(OSError), open("/proc/thread-self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            words = line.split(" ")
            point = words[4].replace("\\040", " ") if len(words) > 4 else ""
            if point == path or point.startswith(f"{path}/"):
                found.append(point)
    return sorted(set(found), key=len, reverse=True)


def _unmount(path: str) -> None:
    if path in _mounts_below(path):
        run("umount", path)
