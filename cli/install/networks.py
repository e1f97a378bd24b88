"""The network that an installation was asked for, as a file for each runtime."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cli.exits import Failure
from cli.facts.networks import Network, read_network, read_networks
from cli.facts.paths import BIN, NET_D
from cli.facts.runtimes import Runtime
from cli.install.source import shared
from cli.install.steps import Step, content_of, write
from spec import versions

_SUFFIX = ".conflist"
_NEWEST = "1.1.0"
_OF_DAEMON = f"{NET_D}/10-slash24.conflist"


@dataclass(frozen=True)
class Target:
    """A file with the network of this name: its path, the content that it should have, and who reads it.

    `cni_version`: the newest version of CNI that all of these runtimes read; `bin_dirs`: where they find the plugins.
    """

    network: str
    path: str
    content: bytes
    cni_version: str
    bin_dirs: tuple[str, ...]
    runtimes: tuple[str, ...]


def examples(private: str) -> list[str]:
    """The names of the examples that come with the suite."""
    return sorted(name.removesuffix(_SUFFIX) for name in os.listdir(shared(private, "networks")))


def chosen(private: str, network: str) -> Network:
    """The network that --network names: an example, or a file. Raises Failure."""
    path = network
    if "/" not in network and not network.endswith(_SUFFIX):
        path = shared(private, "networks", network + _SUFFIX)
        if not os.path.exists(path):
            known = ", ".join(examples(private))
            raise Failure(f'no example is named "{network}": choose one of {known}, or give a file')
    if not path.endswith(_SUFFIX):
        raise Failure(f"{path} is no list of plugins: the name of such a file ends with {_SUFFIX}")
    found = read_network(path)
    if found.problem:
        raise Failure(f"{path}: {found.problem}")
    return found


def targets(network: Network, runtimes: Sequence[Runtime]) -> list[Target]:
    """The files to have: one in each folder in which a runtime looks for networks.

    Raises Failure: the file is in such a folder, and a runtime there cannot read it; OSError.
    """
    using = [runtime for runtime in runtimes if runtime.cni_version]
    readers: dict[str, list[Runtime]] = {}
    for runtime in using:
        readers.setdefault(os.path.realpath(runtime.conf_dir), []).append(runtime)
    found = []
    for folder, those in (readers or {os.path.realpath(NET_D): []}).items():
        is_there = os.path.realpath(os.path.dirname(network.path)) == folder
        name = os.path.basename(network.path) if is_there else f"10-{network.name}{_SUFFIX}"
        newest = min((runtime.cni_version for runtime in those), key=versions.parse, default=_NEWEST)
        if is_there and not network.version_for(newest):
            names = " and ".join(runtime.name for runtime in those if runtime.cni_version == newest)
            raise Failure(f"{network.path}: cniVersion is {network.stated}, and {names} read up to {newest}: lower it")
        found.append(
            Target(
                network.name,
                os.path.join(folder, name),
                _readable(network, newest),
                newest,
                those[0].bin_dirs if those else (BIN,),
                tuple(runtime.name for runtime in those),
            )
        )
    return found


def write_steps(wanted: Sequence[Target]) -> Iterator[Step]:
    """The steps that write them. Raises Failure if another file has the name of one; OSError."""
    for each in wanted:
        there = content_of(each.path)
        if there is not None and json_of(there) != json_of(each.content):
            raise Failure(
                f"{each.path} exists with another content, and is not overwritten: move it away to have this one, or "
                f"give --network {each.path} to try it as it is"
            )
        if there is None:
            yield Step(f"write {each.path}", lambda each=each: write(each.path, each.content))


def written(private: str, runtimes: Sequence[Runtime]) -> tuple[list[str], list[str]]:
    """The files of examples that an installation wrote and nobody needs, and a sentence about each that stays.

    Raises OSError.
    """
    unused, staying = [], []
    if os.path.exists(_OF_DAEMON):
        staying.append(f"{_OF_DAEMON} remains, without its plugins: slash24-node --uninstall removes it, run before")
    for name in examples(private):
        network = read_network(shared(private, "networks", name + _SUFFIX))
        for path in (each.path for each in targets(network, runtimes)):
            there = content_of(path)
            if there is None:
                continue
            if json_of(there) not in _forms(network):
                staying.append(f"{path} remains: it was edited; delete it if no runtime needs it")
            elif is_used(network.name):
                staying.append(f"{path} remains: pods of its network are on this node")
            else:
                unused.append(path)
    return unused, staying


def first_of(target: Target) -> str:
    """The file that runtimes which take the first one take instead; "" if it is this one."""
    found = read_networks(os.path.dirname(target.path))
    return "" if not found or found[0].path == target.path else found[0].path


def is_used(network: str) -> bool:
    """Whether a pod of this network is on the node, by its lease or its link."""
    from cli.facts.leases import read_leases
    from linux.netlink.socket import Netlink
    from linux.ownership import is_of_network
    from linux.rtnl.links import list_links

    if any(lease.network == network for lease in read_leases()):
        return True
    with Netlink() as host:
        return any(is_of_network(link.alias, network) for link in list_links(host))


def json_of(content: bytes) -> object:
    """The document in a file; its bytes if it is none."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return content


def _readable(network: Network, newest: str) -> bytes:
    """The file, with a cniVersion that a runtime reads which knows versions up to `newest`. Raises OSError."""
    content = content_of(network.path) or b""
    if network.version_for(newest):
        return content
    return _dumped(dict(json.loads(content)), newest)


def _forms(network: Network) -> list[object]:
    """The documents that may have been written of an example, for runtimes of all ages."""
    return [json_of(_readable(network, version)) for version in (_NEWEST, "1.0.0", "0.4.0")]


def _dumped(document: Mapping[str, object], version: str) -> bytes:
    older = {key: value for key, value in document.items() if key != "cniVersions"} | {"cniVersion": version}
    return json.dumps(older, indent=2).encode() + b"\n"
