"""Removing what is left of a pod: as its DEL would, by owner, so that nothing of any other pod is touched.

Not by the plugins' GC: that deletes all but the attachments that it is told, also those of an ADD that runs meanwhile,
and a network of CNI 1.0.0 has none.
"""

import io
import os
from collections.abc import Collection, Mapping, Sequence

from cli.facts.configurations import Configuration
from cli.facts.paths import LEASES
from cli.gc.inventory import CACHED, LEASE, LINK, POD_FILE, TABLES, UNNAMED, owned_elements
from cli.gc.leftovers import Leftover
from ipam.store import LeaseStore
from linux.netlink.socket import Netlink
from linux.nftables import messages
from linux.nftables.listing import list_tables
from linux.nftables.messages import Step
from linux.nftables.transactions import change
from linux.rtnl.deletion import delete_links
from linux.rtnl.links import find_link_by_index
from plugins import bandwidth, firewall, portmap, tuning
from plugins.failures import Attempts
from plugins.pod.delete import delete_pod
from rules import firewall as firewall_rules
from rules.portmap.iptables_nat import listing_removal
from spec.config import NetConf, Section
from spec.errors import CNIError
from spec.identifiers import check_container_id, check_ifname, is_identifier
from spec.request import Request
from spec.suite import NO_SUITE
from state.files import delete_file

_VERSION = "1.0.0"
_KEYS = ("backend", "firewalldZone", "dataDir")  # of a plugin's configuration that its DEL depends on
_CHAINED = tuple(each.PLUGIN for each in (tuning, bandwidth, portmap, firewall))


def remove(one: Leftover, configuration: Configuration | None, held: Collection[str]) -> None:
    """Remove all pieces. Raises CNIError after every step was tried; libcni's cache is kept until all else is gone.

    `configuration`: of its network, if that is known. `held`: addresses that others have by now.
    """
    attempts, leased = Attempts(), [piece.name for piece in one.pieces if piece.kind == LEASE]
    if one.container and _has_valid_names(one):
        addresses = {address for piece in one.pieces for address in piece.addresses}.difference(held)
        for plugin in _CHAINED:
            conf = next(iter(configuration.of_kind(plugin.type)), {}) if configuration else {}
            attempts.run(f"delete what {plugin.type} has made", plugin.delete, _request(one, conf, sorted(addresses)))
        attempts.run("delete the pod", _delete_pod, _request(one, {}, sorted(addresses)))
    else:
        attempts.run("delete what is left", _delete_tagged, one)
    if leased:
        attempts.run("release the addresses", _release, one, configuration, leased)
    for piece in one.pieces:
        if piece.kind == POD_FILE:
            attempts.run(f"delete {piece.name}", delete_file, piece.name)
    attempts.finish()
    for piece in one.pieces:
        if piece.kind == CACHED:
            attempts.run(f"delete {piece.name}", delete_file, piece.name)
    attempts.finish()


def _has_valid_names(one: Leftover) -> bool:
    """Whether a runtime could have given the names; they are from files, and parts of paths are made of them."""
    try:
        check_container_id(one.container)
        check_ifname(one.ifname)
    except CNIError:
        return False
    return is_identifier(one.network)


def _delete_pod(request: Request) -> None:
    delete_pod(request, ipam_type="")


def _release(one: Leftover, configuration: Configuration | None, addresses: Sequence[str]) -> None:
    folder, cooldown = (configuration.lease_folder, configuration.cooldown) if configuration else (LEASES, 0)
    for where in dict.fromkeys([folder, LEASES]):
        store = LeaseStore(os.path.join(where, one.network), cooldown=cooldown)
        if store.exists():
            with store.locked(writable=True) as leases:
                if one.container:
                    leases.release(one.attachment)
                else:
                    leases.reclaim(addresses)


def _request(one: Leftover, conf: Mapping[str, object], addresses: Sequence[str] = ()) -> Request:
    """The DEL of a runtime that has deleted the namespace. Raises CNIError 7."""
    ips = [{"address": f"{address}/{128 if ':' in address else 32}"} for address in addresses]
    given = {key: conf[key] for key in _KEYS if key in conf}
    given |= {"name": one.network, "cniVersion": _VERSION, "prevResult": {"cniVersion": _VERSION, "ips": ips}}
    return Request(
        verb="DEL",
        container_id=one.container,
        netns="",
        ifname=one.ifname,
        args={},
        path=(),
        conf=NetConf.parse(Section(given), strict=False),
        stdin=b"",
        environ={},
        suite=NO_SUITE,
        stderr=io.StringIO(),
    )


def _delete_tagged(one: Leftover) -> None:
    """What has only a tag, of which nothing tells the names; or not even that."""
    with Netlink() as host:
        links = [find_link_by_index(host, piece.index) for piece in one.pieces if piece.kind in (LINK, UNNAMED)]
        delete_links(host, [link for link in links if link and link.alias == one.tag])
    if one.tag:
        change(lambda transaction: transaction.add_alone(_tagged(transaction.netlink, one.tag)))


def _tagged(netfilter: Netlink, tag: str) -> list[Step]:
    """Steps that delete the elements with a tag, and what follows from them."""
    steps = listing_removal(netfilter, lambda one: one == tag, owner=tag)
    for table in list_tables(netfilter):
        if table.name.startswith(TABLES):
            doomed = [element for element in owned_elements(netfilter, table) if element.owner == tag]
            steps += [messages.delete_element(table, element) for element in doomed]
            if table == firewall_rules.TABLE.name:
                addresses = {element.key for element in doomed}
                steps += [step for v in (4, 6) for step in firewall_rules.rule_deletions(netfilter, v, addresses)]
    return steps
