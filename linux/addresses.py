"""Addresses of links by rtnetlink."""

from dataclasses import dataclass
from errno import EADDRNOTAVAIL, EEXIST, ENODEV
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg

from linux.netlink import NLM_F_CREATE, NLM_F_EXCL, Netlink, NetlinkError

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
_NODAD, _DADFAILED, _TENTATIVE = 0x02, 0x08, 0x40
_SCOPE_UNIVERSE, _SCOPE_SITE = 0, 200


@dataclass(frozen=True)
class Address:
    """An address of the link with index `link`, in CIDR form ("10.1.2.5/24"), and how far it reaches."""

    link: int
    cidr: str
    scope: int
    tentative: bool
    failed: bool

    @property
    def is_global(self) -> bool:
        """Whether the address means something beyond its link."""
        return self.scope in (_SCOPE_UNIVERSE, _SCOPE_SITE)


def family_of(address: str) -> int:
    """AF_INET or AF_INET6 of an address in text, with or without a prefix length."""
    return AF_INET6 if ":" in address else AF_INET


def list_addresses(netlink: Netlink, index: int = 0, family: int = 0) -> list[Address]:
    """The addresses of the link with that index, or (0) of all; of one family, or (0) of both."""
    request = ifaddrmsg()
    request.update(family=family, index=index)
    found = netlink.dump(request, RTM_GETADDR, ifaddrmsg)
    return [_address(one) for one in found if index in (0, one["index"])]


def add_address(netlink: Netlink, index: int, cidr: str, *, dad: bool = True) -> bool:
    """Give a link an address; False if it has it already. An IPv4 subnet gets its broadcast address.

    `dad` False: an IPv6 address is usable at once, without duplicate address detection (RFC 4862, 5.4).
    """
    try:
        netlink.change(_message(index, cidr, dad=dad), RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL)
    except NetlinkError as error:
        if error.errno != EEXIST:
            raise
        return False
    return True


def delete_address(netlink: Netlink, index: int, cidr: str) -> bool:
    """Take an address from a link; False if it did not have it."""
    try:
        netlink.change(_message(index, cidr, dad=True), RTM_DELADDR)
    except NetlinkError as error:
        if error.errno not in (EADDRNOTAVAIL, ENODEV):
            raise
        return False
    return True


def _message(index: int, cidr: str, *, dad: bool) -> ifaddrmsg:
    address, _, length = cidr.partition("/")
    family, prefix = family_of(address), int(length)
    attrs = [("IFA_LOCAL", address), ("IFA_ADDRESS", address)]
    if family == AF_INET and prefix < 31:
        host_bits = (1 << (32 - prefix)) - 1
        broadcast = int.from_bytes(inet_pton(AF_INET, address), "big") | host_bits
        attrs.append(("IFA_BROADCAST", inet_ntop(AF_INET, broadcast.to_bytes(4, "big"))))
    if family == AF_INET6 and not dad:
        attrs.append(("IFA_FLAGS", _NODAD))
    message = ifaddrmsg()
    message.update(family=family, prefixlen=prefix, scope=_SCOPE_UNIVERSE, index=index, attrs=attrs)
    return message


def _address(found: ifaddrmsg) -> Address:
    address = found.get_attr("IFA_LOCAL") or found.get_attr("IFA_ADDRESS")
    flags = found.get_attr("IFA_FLAGS") or found["flags"]
    return Address(
        link=found["index"],
        cidr=f"{address}/{found['prefixlen']}",
        scope=found["scope"],
        tentative=bool(flags & _TENTATIVE),
        failed=bool(flags & _DADFAILED),
    )
