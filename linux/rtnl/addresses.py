"""Addresses of interfaces by rtnetlink."""

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
_ATTRIBUTES = 24  # offset of the attributes in a message: after its header and the body


@dataclass(frozen=True)
class InterfaceAddress:
    """An address of the link with index `link`, in CIDR form ("10.1.2.5/24"), and its scope.

    `dynamic`: it has a lifetime, as from DHCP or a router advertisement. `tentative`, `failed`: in duplicate address
    detection (RFC 4862). `deprecated`: not for new connections. `temporary`: a privacy address (RFC 8981).
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
        """Whether the address is valid beyond its link."""
        return self.scope in (uapi.RT_SCOPE_UNIVERSE, uapi.RT_SCOPE_SITE)


def carries(cidrs: Collection[str], wanted: str) -> bool:
    """Whether a link with the addresses `cidrs` has the address `wanted`, and the subnet of `wanted`.

    A link has an IPv6 address only once: one with a shorter prefix serves also for longer ones.
    """
    if wanted in cidrs or not is_ipv6(wanted):
        return wanted in cidrs
    address = parse_cidr(wanted)
    return any(one[:2] == address[:2] and one.prefix <= address.prefix for one in map(parse_cidr, cidrs))


def list_addresses(
    netlink: Netlink, index: int = 0, family: int = 0, *, netns: int | None = None
) -> list[InterfaceAddress]:
    """The addresses of the link with that index (0: of all links), of one family (0: of both); none if no such link.

    `netns`: the ID (see linux/netns_ids.py) of another namespace to look into; the kernel refuses it (EINVAL) when that
    has gone.
    """
    there = b"" if netns is None else attribute(uapi.IFA_TARGET_NETNSID, netns.to_bytes(4, byteorder, signed=True))
    try:
        messages = netlink.dump(_BODY.pack(family, 0, 0, 0, index) + there, uapi.RTM_GETADDR)
    except NetlinkError as error:
        if index and error.errno == ENODEV:
            return []
        raise
    return [address for address in map(_address, messages) if index in (0, address.link)]


def add_address(netlink: Netlink, index: int, cidr: str, *, dad: bool = True) -> bool:
    """Add an address to a link; False if it exists. IPv4 addresses get the broadcast address of their subnet.

    An existing IPv6 address with another prefix length is replaced, because the kernel takes it for the same. `dad`
    False: skip duplicate address detection (RFC 4862, 5.4), so that the address can be used at once.
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
    """The request of `add_address`, to be sent with others; refused with EEXIST if the address exists."""
    flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    return netlink.encode(_message(index, cidr, dad=dad), uapi.RTM_NEWADDR, flags)


def delete_address(netlink: Netlink, index: int, cidr: str) -> bool:
    """Delete an address from a link; False if it did not have it."""
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
    """The CIDR of the same IPv6 address with another prefix length on the link, or ""."""
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
    attributes = attributes_of(message, _ATTRIBUTES)
    if uapi.IFA_FLAGS in attributes:
        flags = int.from_bytes(attributes[uapi.IFA_FLAGS], byteorder)
    return InterfaceAddress(
        link=link,
        cidr=f"{unpack(attributes.get(uapi.IFA_LOCAL) or attributes[uapi.IFA_ADDRESS])}/{prefix}",
        scope=scope,
        tentative=bool(flags & uapi.IFA_F_TENTATIVE),
        failed=bool(flags & uapi.IFA_F_DADFAILED),
        dynamic=not flags & uapi.IFA_F_PERMANENT,
        deprecated=bool(flags & uapi.IFA_F_DEPRECATED),
        temporary=family == AF_INET6 and bool(flags & uapi.IFA_F_SECONDARY),
    )
