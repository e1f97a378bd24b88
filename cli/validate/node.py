"""What the checks look at, each read once, when a check needs it."""

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property

from cli.facts.networks import Network, read_networks, used_of
from cli.facts.paths import BIN, NET_D
from cli.facts.runtimes import Runtime, find_runtimes
from cli.facts.services import Service, read_agent
from cli.validate.pods import PodNetwork, read_pod_network
from linux.netlink.socket import Netlink
from linux.rtnl import vxlan
from linux.rtnl.addresses import InterfaceAddress, list_addresses
from linux.rtnl.links import Link, list_links
from linux.rtnl.routes import FAR, look_up
from plugins.node import peers, state, tunnel
from plugins.node.records import PEERS_FILE, Records, parse_peers, read_peers_file
from plugins.node.selection import Peers
from spec.config import absolute_path
from spec.versions import LATEST


class Facts:
    """This node. Every property may raise OSError or CNIError."""

    def __init__(self, host: Netlink) -> None:
        """`host`: a socket in the node's network namespace."""
        self.host = host

    @cached_property
    def runtimes(self) -> list[Runtime]:
        """The runtimes that are here."""
        return find_runtimes()

    @property
    def runtime(self) -> Runtime | None:
        """The one whose network is looked at."""
        return main_runtime(self.runtimes)

    @property
    def folder(self) -> str:
        """Where its networks are."""
        return self.runtime.conf_dir if self.runtime else NET_D

    @property
    def bin_dirs(self) -> tuple[str, ...]:
        """Where it looks for plugins."""
        return self.runtime.bin_dirs if self.runtime else (BIN,)

    @cached_property
    def networks(self) -> list[Network]:
        """The files of the folder."""
        return read_networks(self.folder)

    @property
    def network(self) -> Network | None:
        """The one that pods get."""
        wanted = self.runtime.network if self.runtime else ""
        named = [network for network in self.networks if wanted in ("", network.name)]
        return used_of(named)

    @property
    def version(self) -> str:
        """The version of CNI in which the network is used, "" if the runtime cannot use it."""
        newest = self.runtime.cni_version if self.runtime else LATEST
        return self.network.version_for(newest) if self.network else ""

    @cached_property
    def pods(self) -> PodNetwork:
        """What the network says about pods; nothing without one."""
        return read_pod_network(self.network) if self.network else PodNetwork()

    @cached_property
    def agent(self) -> Service:
        """The agent."""
        return read_agent()

    @cached_property
    def links(self) -> dict[int, Link]:
        """The node's links by index."""
        return {link.index: link for link in list_links(self.host)}

    @cached_property
    def addresses(self) -> list[InterfaceAddress]:
        """The node's addresses."""
        return list_addresses(self.host)

    def link(self, name: str) -> Link | None:
        """The link with that name."""
        return next((link for link in self.links.values() if link.name == name), None)

    @cached_property
    def uplinks(self) -> dict[int, str]:
        """By IP version the link to which the node's default route leads."""
        found = {}
        for version, far in FAR.items():
            with suppress(OSError):
                found[version] = self.links[look_up(self.host, far).link].name
        return found

    @cached_property
    def vtep(self) -> vxlan.Vtep | None:
        """The wanted tunnel device, None without a tunnel."""
        pods = self.pods
        return tunnel.plan(self.host, pods.node, pods.tunnel) if pods.node and pods.tunnel else None

    @cached_property
    def records(self) -> Records:
        """The records of all nodes that plugins read, from the configuration and the file."""
        main = self.network.main
        path = absolute_path(main, "peersFile")
        filed = read_peers_file(path or PEERS_FILE, required=bool(path))
        return Records(parse_peers(main) + filed.nodes, filed.left_out)

    @cached_property
    def peers(self) -> Peers:
        """The other nodes."""
        if not self.pods.node:
            return Peers((), (), ())
        if not self.vtep:
            return peers.select_peers(self.host, self.records, self.pods.node)
        return state.select(self.host, self.records, self.pods.node, self.pods.tunnel, self.vtep)


def main_runtime(runtimes: Sequence[Runtime]) -> Runtime | None:
    """Of those that use CNI, one that runs and serves the CRI before others; None without any."""
    using = [runtime for runtime in runtimes if runtime.cni_version]
    return max(using, key=lambda runtime: (runtime.running and bool(runtime.socket), runtime.running), default=None)
