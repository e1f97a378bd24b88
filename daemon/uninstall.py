"""`slash24-node --uninstall`: leaves a node as it was before slash24. Every step may be repeated.

What belongs to pods that still run stays: their links, leases and rules, and the bridge that they are on.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

from agent.health import greeting_problem
from agent.options import SOCKET
from daemon import conflist, install, single
from daemon.config import BRIDGE, VXLAN, Config
from ipam.host_local import DATA_DIR
from ipam.store import LeaseStore
from linux.netlink.socket import Netlink
from linux.ownership import is_of_network
from linux.rtnl import forwarding, vxlan
from linux.rtnl.links import find_link, list_links, list_ports
from nodes.registries.open import open_registry
from nodes.registry import RegistryError
from plugins.node import host_rules, peers, tunnel
from plugins.node.conf import DEFAULT_BRIDGE
from plugins.node.records import NODE_FILE, PEERS_FILE
from plugins.pod.host_bridge import delete_unused_bridge
from spec.config import Section
from spec.errors import CNIError
from spec.links import link_name
from state.files import delete_file

BINARIES = "/opt/cni/bin"
_PAGES = "node-http.sock"  # where deploy/slash24-node.service has the daemon listen
_DIVERSIONS = "/var/lib/dpkg/diversions"
_LISTED = 10  # names in a sentence


def uninstall(config: Config, binaries: str = BINARIES) -> int:
    """Remove everything, print a sentence about what remains and about each failure; 1 if there was one, else 0.

    Raises AlreadyRunning, OSError: nothing was removed, as a daemon that runs would make it again.
    """
    single.hold()
    failed = False
    for what, step in _steps(config, binaries):
        try:
            remains = step()
        except (CNIError, OSError, RegistryError) as error:
            remains, failed = f"cannot {what}: {error}", True
        if remains:
            sys.stdout.write(f"{remains}\n")
    return int(failed)


def _steps(config: Config, binaries: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """What to do, in order: first what starts pods, last what deletes them. Each returns what remains, or ""."""
    network = config.conflist.name
    yield "delete the configuration for runtimes", lambda: _delete_conflist(config.conflist.path)
    yield "remove this node from the registry", lambda: _withdraw(config)
    if config.mode != BRIDGE:
        yield "delete the node's routes, tunnel and rules", lambda: _delete_network(config)
    yield "delete the bridge", lambda: _delete_bridge(config)
    yield "delete the rules of policies", _delete_policies
    yield "delete the leases", lambda: _delete_leases(config)
    yield "delete the node's files", lambda: _delete_files(network)
    yield f"delete the plugins in {binaries}", lambda: _delete_binaries(binaries)


def _delete_conflist(path: str) -> str:
    return "" if conflist.remove(path) else f"{path} remains: slash24-node has not written it"


def _withdraw(config: Config) -> str:
    with closing(open_registry(config.registry, config.node, Section(config.options))) as registry:
        registry.withdraw()
    return ""


def _delete_network(config: Config) -> str:
    network = config.conflist.name
    with host_rules.locked(network), Netlink() as host:
        forwarding.sync(host, (), within=config.cluster)
        if config.mode == VXLAN:
            vxlan.delete_vtep(host, tunnel.parse_section(Section(config.plugin)).device)
        host_rules.delete(network)
    return ""


def _delete_bridge(config: Config) -> str:
    name = link_name(Section(config.plugin), "bridge", "cni0" if config.mode == BRIDGE else DEFAULT_BRIDGE)
    with Netlink() as host:
        link = find_link(host, name)
        if link is None or link.kind != "bridge":
            return ""
        delete_unused_bridge(host, name)
        ports = [port.name for port in list_ports(host, link.index)]
        pods = [port for port in list_links(host) if is_of_network(port.alias, config.conflist.name)]
    if pods:
        return f"{_these([pod.name for pod in pods])} remain, with their bridge {name}: their pods run"
    return f"bridge {name} remains, with the ports {_these(ports)}" if ports else ""


def _delete_policies() -> str:
    from daemon.policies.setup import remove

    remove()
    return ""


def _delete_leases(config: Config) -> str:
    ipam = Section(config.plugin).section("ipam")
    if ipam.string("type", "host-local") != "host-local":
        return ""
    folder = os.path.join(ipam.string("dataDir") or DATA_DIR, config.conflist.name)
    if not os.path.isdir(folder):
        return ""
    with LeaseStore(folder).locked(writable=False) as leases:
        taken = sorted(leases.taken())
        if not taken:
            shutil.rmtree(folder)
            with suppress(OSError):  # other networks
                os.rmdir(os.path.dirname(folder))
    return f"leases remain in {folder}: {_these(taken)}" if taken else ""


def _delete_files(network: str) -> str:
    names = (f"{network}.lock", f"{network}.daemon", _PAGES, f"{_PAGES}.lock")
    ours = [os.path.join(host_rules.FOLDER, name) for name in names]
    has_agent = os.path.lexists(SOCKET) and not greeting_problem(SOCKET)
    sockets = () if has_agent else (SOCKET, f"{SOCKET}.lock")  # an agent that has ended leaves its own
    for path in (NODE_FILE, PEERS_FILE, *ours, *sockets, peers.marker_of(network), single.PATH):
        delete_file(path)
    for folder in (host_rules.FOLDER, peers.FOLDER):
        with suppress(OSError):  # another network's files
            os.rmdir(folder)
    return f"{SOCKET} remains: an agent runs; end it" if has_agent else ""


def _delete_binaries(folder: str) -> str:
    with suppress(OSError), open(_DIVERSIONS, encoding="utf-8", errors="replace") as file:
        if f"\n{folder}/" in f"\n{file.read()}":
            return f"{folder} remains, which slash24 install has filled: run slash24 uninstall"
    install.remove(folder)
    return ""


def _these(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
