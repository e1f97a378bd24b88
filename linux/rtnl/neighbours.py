"""The neighbours and the forwarding entries of a VTEP, all of them: the device is ours alone.

A neighbour says which MAC has the next hop of a route, a forwarding entry to which address of the underlay that MAC's
frames are sent. All are permanent: the kernel neither asks nor learns.
"""

import struct
from collections.abc import Callable, Hashable, Mapping, Sequence
from errno import ENOENT
from socket import AF_BRIDGE, AF_INET, AF_INET6

from pyroute2.netlink.rtnl.ndmsg import ndmsg

from linux.netlink.attributes import RTNL_BODY, attributes_of
from linux.netlink.bulk import SLOT_DST, SLOT_MAC, Write, change_all, echo, packed, template
from linux.netlink.socket import NLM_F_CREATE, NLM_F_REPLACE, Netlink

RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
_NUD_PERMANENT, _NTF_SELF = 0x80, 0x02
_NDA_DST, _NDA_LLADDR, _NDA_VLAN, _NDA_PORT, _NDA_VNI, _NDA_IFINDEX, _NDA_SRC_VNI, _NDA_NH_ID = 1, 2, 5, 6, 7, 8, 11, 13
_NAMES_IT = (_NDA_DST, _NDA_LLADDR, _NDA_VLAN, _NDA_PORT, _NDA_VNI, _NDA_IFINDEX, _NDA_SRC_VNI, _NDA_NH_ID)
_SENT_ELSEWHERE = frozenset((_NDA_PORT, _NDA_VNI, _NDA_IFINDEX, _NDA_NH_ID))
_NDMSG = struct.Struct("=iHBB")  # from byte 20: index of the link, state, flags, type


class Table:
    """What the kernel has: `entries`, key to value; `shown`, key to the message that told; `strays`, more messages."""

    def __init__(self) -> None:
        self.entries: dict[Hashable, object] = {}
        self.shown: dict[Hashable, bytes] = {}
        self.strays: list[bytes] = []

    def add(self, key: Hashable, value: object, message: bytes) -> None:
        """Take in an entry; a second one of the same key is a stray."""
        if key in self.entries:
            self.strays.append(message)
        else:
            self.entries[key] = value
            self.shown[key] = message

    def unwanted(self, wanted: Mapping) -> list[bytes]:
        """The messages of all that is not wanted."""
        if self.entries.keys() == wanted.keys():
            return self.strays
        return [message for key, message in self.shown.items() if key not in wanted] + self.strays


def unique(pairs: Sequence[tuple[Hashable, object]], told: Callable[[Hashable], str]) -> dict:
    """The pairs as a mapping; raises ValueError with what `told` says of a key that has two values."""
    wanted = dict(pairs)
    if len(wanted) < len(pairs):
        for key, value in pairs:
            if wanted[key] != value:
                raise ValueError(told(key))
    return wanted


def list_neighbours(netlink: Netlink, device: int) -> Table:
    """The permanent neighbours of the device, of both families: address to MAC, packed."""
    request = ndmsg()
    request.update(family=0, attrs=[("NDA_IFINDEX", device)])
    table = Table()
    for message in netlink.dump_raw(request, RTM_GETNEIGH):
        index, state, _, _ = _NDMSG.unpack_from(message, 20)
        if index == device and state & _NUD_PERMANENT:
            shown = attributes_of(message, RTNL_BODY)
            table.add(shown[_NDA_DST], shown.get(_NDA_LLADDR), message)
    return table


def list_forwarding(netlink: Netlink, device: int) -> Table:
    """The forwarding entries of the device: MAC to address, packed; None for one that is not like ours."""
    request = ndmsg()
    request.update(family=AF_BRIDGE, ifindex=device, attrs=[])
    table = Table()
    for message in netlink.dump_raw(request, RTM_GETNEIGH):
        index, state, flags, _ = _NDMSG.unpack_from(message, 20)
        if index != device or not flags & _NTF_SELF:
            continue
        shown = attributes_of(message, RTNL_BODY)
        ours = state & _NUD_PERMANENT and _SENT_ELSEWHERE.isdisjoint(shown)
        table.add(shown.get(_NDA_LLADDR, b""), shown.get(_NDA_DST) if ours else None, message)
    return table


class Tunnel:
    """What is to be done to a device's neighbours and forwarding entries; nothing is until asked.

    `hops`: next hop to MAC, `remotes`: MAC to address of the underlay, as text, in pairs. Raises ValueError if a next
    hop has two MACs or a MAC two addresses; NetlinkError.
    """

    def __init__(
        self, netlink: Netlink, device: int, hops: Sequence[tuple[str, str]], remotes: Sequence[tuple[str, str]]
    ) -> None:
        self._netlink, self._device = netlink, device
        two_macs, two_addresses = "two VTEP MACs for the next hop {}", "two underlay addresses for the VTEP MAC {}"
        macs, addresses = unique(hops, two_macs.format), unique(remotes, two_addresses.format)
        self._wanted_hops = {packed(hop): packed(mac) for hop, mac in macs.items()}
        self._wanted_remotes = {packed(mac): packed(address) for mac, address in addresses.items()}
        self._hops, self._remotes = list_neighbours(netlink, device), list_forwarding(netlink, device)

    def writes(self) -> list[Write]:
        """What is missing, in order: new neighbours, forwarding entries, then neighbours that change to another MAC.

        So a neighbour that is in use never points to a MAC whose frames go nowhere.
        """
        new, changed = [], []
        for write in self._differing(self._wanted_hops, self._hops, self._fill_neighbour()):
            (changed if write.instead else new).append(write)
        return [*new, *self._differing(self._wanted_remotes, self._remotes, self._fill_forwarding()), *changed]

    def remove_unwanted(self) -> int:
        """Remove what is not wanted, forwarding entries first; how many there were."""
        unwanted = [*self._remotes.unwanted(self._wanted_remotes), *self._hops.unwanted(self._wanted_hops)]
        requests = [echo(message, RTM_DELNEIGH, _NAMES_IT) for message in unwanted]
        return change_all(self._netlink, requests, tolerated=(ENOENT,))

    def _differing(self, wanted: dict, table: Table, fill: Callable[[bytes, bytes], bytes]) -> list[Write]:
        if wanted == table.entries:
            return []
        have, shown = table.entries, table.shown
        return [Write(fill(key, value), shown.get(key, b"")) for key, value in wanted.items() if have.get(key) != value]

    def _fill_neighbour(self) -> Callable[[bytes, bytes], bytes]:
        templates: dict[int, bytes] = {}

        def fill(hop: bytes, mac: bytes) -> bytes:
            size = len(hop)
            if size not in templates:
                family = AF_INET6 if size == 16 else AF_INET
                templates[size] = self._template(family, 0, (SLOT_DST[family], SLOT_MAC))
            return templates[size] % (hop, mac)

        return fill

    def _fill_forwarding(self) -> Callable[[bytes, bytes], bytes]:
        templates: dict[int, bytes] = {}

        def fill(mac: bytes, remote: bytes) -> bytes:
            size = len(remote)
            if size not in templates:
                slot = SLOT_DST[AF_INET6 if size == 16 else AF_INET]
                templates[size] = self._template(AF_BRIDGE, _NTF_SELF, (slot, SLOT_MAC))
            return templates[size] % (remote, mac)

        return fill

    def _template(self, family: int, flags: int, slots: tuple[str, str]) -> bytes:
        dst, mac = slots
        message = ndmsg()
        message.update(
            family=family,
            ifindex=self._device,
            state=_NUD_PERMANENT,
            flags=flags,
            attrs=[("NDA_DST", dst), ("NDA_LLADDR", mac)],
        )
        return template(self._netlink, message, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, slots)
