"""This node itself: what it tells the others, from what the registry has given it and from its own links."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from daemon import address
from daemon.address import NoAddress, OwnAddresses
from daemon.config import Config
from linux.netlink.socket import Netlink
from linux.rtnl.links import find_link
from nodes.network import Outcome
from nodes.registry import Grant
from plugins.node.gateways import gateways_on
from plugins.node.records import Node
from spec.addresses import network_of, parse_address


class ThisNode:
    """This node's addresses and earlier subnets; `problem`: why it has no addresses, "" if it has."""

    def __init__(self, config: Config, bridge: str, device: str = "") -> None:
        """`bridge`, `device`: the names of the pods' bridge, and of the tunnel's device."""
        self._config, self._bridge, self._device = config, bridge, device
        self._found = OwnAddresses(())
        self.earlier: tuple[str, ...] = ()
        self.problem = ""

    @property
    def links(self) -> Sequence[int]:
        """The indexes of the links that lead to other nodes, those with the addresses first."""
        return self._found.links

    def look(self, host: Netlink, grant: Grant, known: Sequence[str] = ()) -> None:
        """Look at the node's links again. An address that is lost is kept until there is another. Raises OSError.

        `known`: the addresses in this node's record, which the others use.
        """
        conf, current = self._config.address, self._found.ips or known
        try:
            self._found = address.find(host, conf, granted=grant.addresses, current=current, excluded=self._excluded)
            self.problem = ""
        except NoAddress as error:
            self.problem = str(error)
        self.earlier = self._earlier(host, grant.subnets)

    def find_addresses(self) -> tuple[str, ...]:
        """The addresses before the registry has given anything, () if there are none. Any thread may call it."""
        with suppress(NoAddress, OSError), Netlink() as host:
            found = self._found.ips
            return address.find(host, self._config.address, current=found, excluded=self._excluded).ips
        return ()

    @property
    def _excluded(self) -> list[str]:
        """The links whose addresses are for pods only."""
        return [name for name in (self._bridge, self._device) if name]

    def own(self, grant: Grant) -> Grant:
        """What the registry has given, with the addresses that this node has."""
        return replace(grant, addresses=self._found.ips)

    def record(self, own: Grant, outcome: Outcome) -> Node:
        """What the others are to know. Earlier subnets are announced as long as the bridge has their gateways."""
        addresses = own.addresses
        if outcome.address:  # the tunnel's packets come from it
            addresses = (outcome.address, *(one for one in addresses if one != outcome.address))
        return Node(
            name=self._config.node,
            addresses=addresses,
            subnets=(*own.subnets, *self.earlier),
            vtep_mac=outcome.mac,
            vni=outcome.vni,
            port=outcome.port,
            zone=own.zone,
            cluster=self._config.cluster_name,
            since=own.since,
        )

    def _earlier(self, host: Netlink, subnets: Sequence[str]) -> tuple[str, ...]:
        """The subnets inside the cluster's networks that pods got their addresses from before."""
        cluster = [parse_address(network) for network in self._config.cluster]
        found = [network_of(gateway) for gateway in gateways_on(host, find_link(host, self._bridge))]
        others = [one for one in found if one not in subnets]
        return tuple(one for one in others if any(network.contains(parse_address(one)) for network in cluster))
