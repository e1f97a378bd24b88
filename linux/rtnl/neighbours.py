"""The neighbours and the FDB entries of a VTEP, all of them: the device is ours alone.

A neighbour maps the next hop of a route to a MAC, an FDB entry that MAC to the underlay address its frames are sent to.
All are permanent: the kernel neither resolves nor learns.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from errno import ENOENT
from socket import AF_BRIDGE, AF_INET, AF_INET6
from struct import Struct

from linux.netlink.attributes import RTNL_BODY, attributes_of, number
from linux.netlink.socket import NLM_F_CREATE, NLM_F_REPLACE, Netlink
from linux.rtnl import uapi
from linux.rtnl.bulk import Write, change_all, request_about, template

_NDMSG = Struct("=B3xiHBB")  # struct ndmsg: family, index of the link, state, flags, type
_KEY_ATTRIBUTES = (
    uapi.NDA_DST,
    uapi.NDA_LLADDR,
    uapi.NDA_VLAN,
    uapi.NDA_PORT,
    uapi.NDA_VNI,
    uapi.NDA_IFINDEX,
    uapi.NDA_SRC_VNI,
    uapi.NDA_NH_ID,
)
_OTHER_DESTINATION = frozenset(
    (uapi.NDA_PORT, uapi.NDA_VNI, uapi.NDA_IFINDEX, uapi.NDA_NH_ID)
)  # of an FDB entry that is not like ours


class Table:
    """Objects of the kernel: `entries`, key to value; `messages`, key to dumped message; messages of `duplicates`."""

    def __init__(self) -> None:
        self.entries: dict[Hashable, object] = {}
        self.messages: dict[Hashable, bytes] = {}
        self.duplicates: list[bytes] = []

    def add(self, key: Hashable, value: object, message: bytes) -> None:
        """Add an entry; a second one of the same key is a duplicate."""
        if key in self.entries:
            self.duplicates.append(message)
        else:
            self.entries[key] = value
            self.messages[key] = message

    def unwanted(self, wanted: Mapping) -> list[bytes]:
        """The messages of all entries that are not wanted, and of the duplicates."""
        if self.entries.keys() == wanted.keys():
            return self.duplicates
        return [message for key, message in self.messages.items() if key not in wanted] + self.duplicates


def unique(pairs: Sequence[tuple[Hashable, object]], contradiction: Callable[[Hashable], str]) -> dict:
    """The pairs as a mapping; raises ValueError with the text `contradiction` of a key that has two values."""
    wanted = dict(pairs)
    if len(wanted) < len(pairs):
        for key, value in pairs:
            if wanted[key] != value:
                raise ValueError(contradiction(key))
    return wanted


def list_neighbours(netlink: Netlink, device: int) -> Table:
    """The permanent neighbours of the device, of both families: address to MAC, packed."""
    table = Table()
    for message in netlink.dump(_NDMSG.pack(0, 0, 0, 0, 0) + number(uapi.NDA_IFINDEX, device), uapi.RTM_GETNEIGH):
        _, index, state, _, _ = _NDMSG.unpack_from(message, 16)
        if index == device and state & uapi.NUD_PERMANENT:
            attributes = attributes_of(message, RTNL_BODY)
            table.add(attributes[uapi.NDA_DST], attributes.get(uapi.NDA_LLADDR), message)
    return table


def list_forwarding(netlink: Netlink, device: int) -> Table:
    """The FDB entries of the device: MAC to address, packed; None for one that is not like ours."""
    table = Table()
    for message in netlink.dump(_NDMSG.pack(AF_BRIDGE, device, 0, 0, 0), uapi.RTM_GETNEIGH):
        _, index, state, flags, _ = _NDMSG.unpack_from(message, 16)
        if index != device or not flags & uapi.NTF_SELF:
            continue
        attributes = attributes_of(message, RTNL_BODY)
        ours = state & uapi.NUD_PERMANENT and _OTHER_DESTINATION.isdisjoint(attributes)
        table.add(attributes.get(uapi.NDA_LLADDR, b""), attributes.get(uapi.NDA_DST) if ours else None, message)
    return table


class TunnelEntries:
    """The changes that a device's neighbours and FDB entries need; nothing is sent before `remove_unwanted`.

    `hops`: next hop to MAC, `remotes`: MAC to underlay address, packed. Raises NetlinkError.
    """

    def __init__(
        self, netlink: Netlink, device: int, hops: Mapping[bytes, bytes], remotes: Mapping[bytes, bytes]
    ) -> None:
        self._netlink, self._device = netlink, device
        self._wanted_hops, self._wanted_remotes = hops, remotes
        self._hops, self._remotes = list_neighbours(netlink, device), list_forwarding(netlink, device)

    def writes(self) -> list[Write]:
        """What is missing, in order: new neighbours, FDB entries, then neighbours that change to another MAC.

        So a neighbour that is in use never points to a MAC without an FDB entry.
        """
        templates: dict[int, bytes] = {}

        def template_of(size: int, family: int, flags: int) -> bytes:
            if size not in templates:
                templates[size] = entry_template(self._device, family, size, flags)
            return templates[size]

        def neighbour(hop: bytes, mac: bytes) -> bytes:
            return template_of(len(hop), AF_INET6 if len(hop) == 16 else AF_INET, 0) % (hop, mac)

        def forwarding(mac: bytes, remote: bytes) -> bytes:
            return template_of(len(remote), AF_BRIDGE, uapi.NTF_SELF) % (remote, mac)

        new, changed = [], []
        for write in _differing(self._wanted_hops, self._hops, neighbour):
            (changed if write.replaced else new).append(write)
        templates.clear()
        return [*new, *_differing(self._wanted_remotes, self._remotes, forwarding), *changed]

    def remove_unwanted(self) -> int:
        """Remove what is not wanted, FDB entries first; returns how many there were."""
        unwanted = [*self._remotes.unwanted(self._wanted_remotes), *self._hops.unwanted(self._wanted_hops)]
        requests = [request_about(message, uapi.RTM_DELNEIGH, _KEY_ATTRIBUTES) for message in unwanted]
        return change_all(self._netlink, requests, tolerated=(ENOENT,))


def entry_template(device: int, family: int, size: int, flags: int, kind: int = uapi.RTM_NEWNEIGH) -> bytes:
    """The request about a permanent neighbour, or FDB entry, as a format: an address of `size` bytes, and a MAC."""
    body = _NDMSG.pack(family, device, uapi.NUD_PERMANENT, flags, 0)
    how = NLM_F_CREATE | NLM_F_REPLACE if kind == uapi.RTM_NEWNEIGH else 0
    return template(kind, how, body, {uapi.NDA_DST: size, uapi.NDA_LLADDR: 6})


class TunnelChanges:
    """The changes of a device's entries from those of some peers to those of others, without reading the device."""

    def __init__(self, device: int, before: "Objects", after: "Objects") -> None:  # noqa: F821
        self._device = device
        self._old_hops, self._old_remotes = before.hops, before.remotes
        self._hops, self._remotes = after.hops, after.remotes

    def writes(self) -> list[bytes]:
        """The requests that write what is new, in the order of `TunnelEntries.writes`."""
        changed = [hop for hop, mac in self._hops.items() if self._old_hops.get(hop) != mac]
        new = [self._neighbour(uapi.RTM_NEWNEIGH, hop, self._hops[hop]) for hop in changed if hop not in self._old_hops]
        moved = [self._neighbour(uapi.RTM_NEWNEIGH, hop, self._hops[hop]) for hop in changed if hop in self._old_hops]
        remotes = self._remotes.items() - self._old_remotes.items()
        return [*new, *(self._forwarding(uapi.RTM_NEWNEIGH, mac, remote) for mac, remote in remotes), *moved]

    def removals(self) -> list[bytes]:
        """The requests that remove what is no longer wanted, FDB entries first."""
        remotes, hops = self._old_remotes, self._old_hops
        gone = [self._forwarding(uapi.RTM_DELNEIGH, mac, remotes[mac]) for mac in remotes if mac not in self._remotes]
        return gone + [self._neighbour(uapi.RTM_DELNEIGH, hop, hops[hop]) for hop in hops if hop not in self._hops]

    def _neighbour(self, kind: int, hop: bytes, mac: bytes) -> bytes:
        family = AF_INET6 if len(hop) == 16 else AF_INET
        return entry_template(self._device, family, len(hop), 0, kind) % (hop, mac)

    def _forwarding(self, kind: int, mac: bytes, remote: bytes) -> bytes:
        return entry_template(self._device, AF_BRIDGE, len(remote), uapi.NTF_SELF, kind) % (remote, mac)


def _differing(wanted: dict, table: Table, encode: Callable[[bytes, bytes], bytes]) -> list[Write]:
    if wanted == table.entries:
        return []
    have, messages = table.entries, table.messages
    return [
        Write(encode(key, value), messages.get(key, b"")) for key, value in wanted.items() if have.get(key) != value
    ]
