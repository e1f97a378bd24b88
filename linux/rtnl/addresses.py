"""Addresses of links by rtnetlink."""

from collections.abc import Collection
from dataclasses import dataclass
from errno import EADDRNOTAVAIL, EEXIST, ENODEV
from socket import AF_INET6
from struct import Struct
from sys import byteorder

from linux.netlink.attributes import attribute, attributes_of, number
from linux.netlink.socket import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, Netlink, NetlinkError
from linux.rtnl import uapi
from spec.addresses import is_ipv6, parse_cidr, unpack

_BODY = Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, index of the link
_ATTRIBUTES = 24  # where they begin in a whole message: after its header and the body


@dataclass(frozen=True)
class InterfaceAddress:
    """An address of the link with index `link`, in CIDR form ("10.1.2.5/24"), and its scope.

    `dynamic`: it has a lifetime, as one has that came by DHCP or a router advertisement.
    `tentative`, `failed`: for duplicate address detection (RFC 4862). `deprecated`: not for new connections.
    `temporary`: a privacy address (RFC 8981).
    """

    link: int
    cidr: str
    scope: int
    tentative: bool
    failed: bool
    dynamic: bool = False
    deprecated: bool = False
    temporary: bool = False

    @property
    def ip(self) -> str:
        """The address without its prefix length."""
        return self.cidr.partition("/")[0]

    @property
    def is_global(self) -> bool:
        """Whether the address means something beyond its link."""
        return self.scope in (uapi.RT_SCOPE_UNIVERSE, uapi.RT_SCOPE_SITE)


def carries(cidrs: Collection[str], wanted: str) -> bool:
    """Whether a link with the addresses `cidrs` has the address `wanted`, and the subnet of that.

    An IPv6 address can be on a link but once: one in a larger subnet does for those in smaller ones.
    """
    if wanted in cidrs or not is_ipv6(wanted):
        return wanted in cidrs
    address = parse_cidr(wanted)
    return any(one[:2] == address[:2] and one.prefix <= address.prefix for one in map(parse_cidr, cidrs))


def list_addresses(netlink: Netlink, index: int = 0, family: int = 0) -> list[InterfaceAddress]:
    """The addresses of the link with that index, none if it is gone, or (0) of all; of one family, or (0) of both."""
    try:
        found = netlink.dump(_BODY.pack(family, 0, 0, 0, index), uapi.RTM_GETADDR)
    except NetlinkError as error:
        if index and error.errno == ENODEV:
            return []
        raise
    return [address for address in map(_address, found) if index in (0, address.link)]


def add_address(netlink: Netlink, index: int, cidr: str, *, dad: bool = True) -> bool:
    """Give a link an address; False if it has it already. An IPv4 subnet gets its broadcast address.

    An IPv6 address that is there with another prefix length is replaced: the kernel takes it for the same. `dad` False:
    it is usable at once, without duplicate address detection (RFC 4862, 5.4).
    """
    request = address_request(netlink, index, cidr, dad=dad)
    try:
        netlink.send([request])
    except NetlinkError as error:
        if error.errno != EEXIST:
            raise
        other = _of_other_length(netlink, index, cidr)
        if not other:
            return False
        netlink.send([_deletion(netlink, index, other), request], tolerated=(EADDRNOTAVAIL, EEXIST))
    return True


def address_request(netlink: Netlink, index: int, cidr: str, *, dad: bool = True) -> bytes:
    """What `add_address` sends, to be sent with other requests; refused with EEXIST if the link has it already."""
    flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    return netlink.encode(_message(index, cidr, dad=dad), uapi.RTM_NEWADDR, flags)


def delete_address(netlink: Netlink, index: int, cidr: str) -> bool:
    """Take an address from a link; False if it did not have it."""
    try:
        netlink.send([_deletion(netlink, index, cidr)])
    except NetlinkError as error:
        if error.errno not in (EADDRNOTAVAIL, ENODEV):
            raise
        return False
    return True


def _deletion(netlink: Netlink, index: int, cidr: str) -> bytes:
    return netlink.encode(_message(index, cidr, dad=True), uapi.RTM_DELADDR, NLM_F_REQUEST | NLM_F_ACK)


def _of_other_length(netlink: Netlink, index: int, cidr: str) -> str:
    """The IPv6 address as the link has it with another prefix length, "" if it does not."""
    if not is_ipv6(cidr):
        return ""
    others = [one for one in list_addresses(netlink, index, AF_INET6) if one.ip == cidr.partition("/")[0]]
    return "" if any(one.cidr == cidr for one in others) else next((one.cidr for one in others), "")


def _message(index: int, cidr: str, *, dad: bool) -> bytes:
    address = parse_cidr(cidr)
    message = _BODY.pack(address.family, address.prefix, 0, uapi.RT_SCOPE_UNIVERSE, index)
    message += attribute(uapi.IFA_LOCAL, address.packed) + attribute(uapi.IFA_ADDRESS, address.packed)
    if address.version == 4 and address.prefix < 31:
        message += attribute(uapi.IFA_BROADCAST, address.last.to_bytes(4, "big"))
    if address.version == 6 and not dad:
        message += number(uapi.IFA_FLAGS, uapi.IFA_F_NODAD)
    return message


def _address(message: bytes) -> InterfaceAddress:
    family, prefix, flags, scope, link = _BODY.unpack_from(message, 16)
    shown = attributes_of(message, _ATTRIBUTES)
    if uapi.IFA_FLAGS in shown:
        flags = int.from_bytes(shown[uapi.IFA_FLAGS], byteorder)
    return InterfaceAddress(
        link=link,
        cidr=f"{unpack(shown.get(uapi.IFA_LOCAL) or shown[uapi.IFA_ADDRESS])}/{prefix}",
        scope=scope,
        tentative=bool(flags & uapi.IFA_F_TENTATIVE),
        failed=bool(flags & uapi.IFA_F_DADFAILED),
        dynamic=not flags & uapi.IFA_F_PERMANENT,
        deprecated=bool(flags & uapi.IFA_F_DEPRECATED),
        temporary=family == AF_INET6 and bool(flags & uapi.IFA_F_SECONDARY),
    )
