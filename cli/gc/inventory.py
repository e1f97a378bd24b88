"""Everything on this node that names an attachment as its owner, wherever a feature keeps it (docs/state.md)."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from cli.facts.cache import Cached
from cli.facts.configurations import Configuration
from cli.facts.leases import Lease
from linux.netlink.socket import NETLINK_NETFILTER, Netlink
from linux.nftables.listing import decoded, list_elements, list_rules, list_sets, list_tables
from linux.nftables.messages import IP, Element, TableName
from linux.ownership import group_of, is_owner_tag, owner_tag
from linux.rtnl.links import list_group, list_links
from plugins.__main__ import TYPES
from plugins.pod import pod_files
from plugins.pod.delete import find_unnamed
from plugins.tuning import backup
from plugins.tuning.conf import DATA_DIR
from rules import iptables
from rules.portmap.table import pod_of
from spec.addresses import unpack
from spec.attachment import Attachment

LEASE, LINK, UNNAMED, ELEMENT, LISTED, POD_FILE, BACKUP, CACHED = (
    *("lease", "link", "unnamed link", "nftables element", "listed host port", "file of a pod", "saved settings"),
    "file of libcni's cache",
)
TABLES = "slash24_"
"""What the names of our nftables tables begin with."""
_PORT_LIST = TableName(IP, "nat"), "CNI-HOSTPORT-DNAT"
_PORTMAP = "slash24_portmap"
_NO_IPAM = "static"  # which keeps nothing, either
_UNFINISHED = ".new"
_ADDRESS_BYTES = (4, 16)


@dataclass(frozen=True)
class Piece:
    """Something with an owner.

    `kind`: one of the constants above; `name`: the address, link, table or path. `tag`: the owner's; "" if it names
    none, but only a `network`. `owner`: the attachment, if more than the tag tells it. `addresses`: of the pod, as far
    as it tells. `since`: when it was made, 0 if unknown. `index`: of a link.
    """

    kind: str
    name: str
    tag: str
    network: str = ""
    owner: Attachment | None = None
    addresses: tuple[str, ...] = ()
    since: float = 0
    index: int = 0


def read_pieces(
    leases: Sequence[Lease], cache: Sequence[Cached], configurations: Iterable[Configuration]
) -> list[Piece]:
    """All of them. Raises OSError."""
    configurations = [*configurations]
    networks = {*(lease.network for lease in leases), *(one.network for one in cache)}
    return [
        *map(_of_lease, leases),
        *_links(networks.union(one.name for one in configurations)),
        *_elements(),
        *_pod_files(),
        *_backups(configurations),
        *(_owned(CACHED, one.path, one.attachment, addresses=one.addresses) for one in cache if _is_ours(one)),
    ]


def _is_ours(one: Cached) -> bool:
    """Whether no other plugin needs what the cache has of an attachment: all that made it are ours."""
    kinds = [plugin.get("type") for plugin in one.plugins]
    return bool(kinds) and all(kind in TYPES for kind in [*kinds, one.ipam.get("type", _NO_IPAM)])


def _owned(kind: str, name: str, owner: Attachment, **facts: object) -> Piece:
    return Piece(kind, name, owner_tag(owner), owner.network, owner, **facts)


def _of_lease(lease: Lease) -> Piece:
    facts = {"addresses": (lease.address,), "since": lease.since}
    if lease.container:
        return _owned(LEASE, lease.address, lease.attachment, **facts)
    return Piece(LEASE, lease.address, "", lease.network, **facts)


def _links(networks: Iterable[str]) -> Iterator[Piece]:
    with Netlink() as host:
        for link in list_links(host):
            if is_owner_tag(link.alias) and link.kind in ("veth", "ifb"):
                yield Piece(LINK, link.name, link.alias, index=link.index)
        groups = {link.group for link in list_links(host) if not link.alias}
        for network in networks:
            group = group_of(network)
            if group in groups:
                unnamed = find_unnamed(partial(list_group, host, group))
                yield from (Piece(UNNAMED, link.name, "", network, index=link.index) for link in unnamed)


def _elements() -> Iterator[Piece]:
    with Netlink(NETLINK_NETFILTER) as netfilter:
        for table in list_tables(netfilter):
            if table.name.startswith(TABLES):
                for one in owned_elements(netfilter, table):
                    yield Piece(ELEMENT, f"{table}, {one.set}", one.owner, addresses=_addresses_of(table, one))
        for rule in list_rules(netfilter, *_PORT_LIST, containing=b"v1"):
            tag = iptables.comment_of(rule)
            if is_owner_tag(tag):
                yield Piece(LISTED, f"{_PORT_LIST[0]}, {_PORT_LIST[1]}", tag)


def owned_elements(netfilter: Netlink, table: TableName) -> Iterator[Element]:
    """The elements of a table of ours whose comment is an owner's tag. Raises NetlinkError."""
    for name in list_sets(netfilter, table):
        for encoded in list_elements(netfilter, table, name) or ():
            with suppress(KeyError):  # the end of an interval has no key
                element = decoded(name, encoded)
                if is_owner_tag(element.owner):
                    yield element


def _addresses_of(table: TableName, element: Element) -> tuple[str, ...]:
    packed = pod_of(element) if table.name == _PORTMAP else element.key
    return (unpack(packed),) if len(packed) in _ADDRESS_BYTES else ()


def _pod_files() -> Iterator[Piece]:
    """Also what a killed ADD has left beside the folder."""
    folder, suffix = pod_files.PODS, pod_files.SUFFIX
    for name in pod_files.names():
        with suppress(OSError, ValueError):
            path = os.path.join(folder, name)
            found, since = pod_files.read(name), os.stat(path).st_mtime
            if found and owner_tag(found.owner) == name.removesuffix(suffix):
                yield _owned(POD_FILE, path, found.owner, addresses=found.ips, since=since)
            else:
                yield Piece(POD_FILE, path, name.removesuffix(suffix), since=since)
    above, start = os.path.dirname(folder), f"{os.path.basename(folder)}."
    with suppress(FileNotFoundError):
        for name in os.listdir(above):
            tag = name.removeprefix(start).removesuffix(_UNFINISHED)
            if name == f"{start}{tag}{_UNFINISHED}" and is_owner_tag(tag):
                path = os.path.join(above, name)
                with suppress(FileNotFoundError):
                    yield Piece(POD_FILE, path, tag, since=os.stat(path).st_mtime)


def _backups(configurations: Iterable[Configuration]) -> Iterator[Piece]:
    folders = [folder for one in configurations for folder in one.tuning_folders]
    for folder in dict.fromkeys([DATA_DIR, *folders]):
        with suppress(FileNotFoundError, NotADirectoryError):
            for name in os.listdir(folder):
                path = os.path.join(folder, name)
                with suppress(OSError, ValueError):
                    found = backup.read(path)
                    if found and found.owner:
                        yield _owned(BACKUP, path, found.owner, since=os.stat(path).st_mtime)
