"""The filter of a socket that receives rtnetlink's announcements: a program of classic BPF. Pure.

It passes links that are not of pods, global addresses, our routes and those that could be in their way, and the
neighbours, FDB entries and settings of given links. <linux/filter.h> describes the instructions; a filter loads
numbers in network byte order, whatever the order in which the kernel has written them.
"""

from collections.abc import Collection, Sequence
from socket import AF_BRIDGE
from struct import Struct, pack

from linux.rtnl import uapi
from linux.rtnl.peer_routes import PROTOCOL
from spec.addresses import Address, parse_cidr

_INSTRUCTION = Struct("=HBBI")  # struct sock_filter
_LD_W, _LD_H, _LD_B, _LD_IND_W, _LD_IMM, _LDX_IMM, _TAX = 0x20, 0x28, 0x30, 0x40, 0x00, 0x01, 0x07
_AND, _JEQ, _JGE, _RET = 0x54, 0x15, 0x35, 0x06
_NLATTR = 0xFFFFF000 + 12  # SKF_AD_OFF + SKF_AD_NLATTR: the offset of attribute X, looked for from offset A on; or 0
_TYPE_AT, _FAMILY_AT, _INDEX_AT = 4, 16, 20
_LENGTH_AT, _TABLE_AT, _PROTOCOL_AT, _SCOPE_AT = 17, 20, 21, 19  # of struct rtmsg; _SCOPE_AT of struct ifaddrmsg
_MOST_NETWORKS, _MOST_LINKS = 6, 12
"""The program for more would be too long for its jumps, which skip at most 255 instructions."""

Code = list[tuple[int, int, int, int]]
_PASS: Code = [(_RET, 0, 0, 0xFFFFFFFF)]
_DROP: Code = [(_RET, 0, 0, 0)]


def program(networks: Collection[str], links: Sequence[int], device: int) -> tuple[bytes, int]:
    """The program, and how many instructions it has.

    `networks`: CIDRs; of other programs' routes, only those inside these, and default routes, pass (all routes if there
    are too many networks). `links`: indexes of the links that pass, with their settings; `device`: index of the one
    whose neighbours do.
    """
    watched = links[:_MOST_LINKS]
    code = [
        *_when_type((uapi.RTM_NEWLINK, uapi.RTM_DELLINK), _links(watched)),
        *_when_type((uapi.RTM_NEWADDR, uapi.RTM_DELADDR), _addresses()),
        *_when_type((uapi.RTM_NEWROUTE, uapi.RTM_DELROUTE), _routes([parse_cidr(network) for network in networks])),
        *_when_type((uapi.RTM_NEWNEIGH, uapi.RTM_DELNEIGH), _neighbours(device)),
        *_when_type((uapi.RTM_NEWNETCONF,), _settings(watched)),
        *_DROP,
    ]
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in code), len(code)


def _when_type(kinds: Sequence[int], body: Code) -> Code:
    return [code for kind in kinds for code in _when(_LD_H, _TYPE_AT, _swapped("=H", kind), body)]


def _when(load: int, at: int, value: int, body: Code) -> Code:
    """Run `body`, which ends with a return or goes on, if what is loaded has that value."""
    return [(load, 0, 0, at), (_JEQ, 0, len(body), value), *body]


def _links(links: Sequence[int]) -> Code:
    """Of `links` every change, and of others unless they are ports or in a link group, as the links of pods are."""
    code = _when(_LD_B, _FAMILY_AT, int(AF_BRIDGE), _DROP)
    for link in links:
        code += _when(_LD_W, _INDEX_AT, _swapped("=i", link), _PASS)
    for kind in (uapi.IFLA_GROUP, uapi.IFLA_MASTER):
        code += _when_attribute(32, kind, [(_LD_IND_W, 0, 0, 4), (_JEQ, len(_DROP), 0, 0), *_DROP])
    return [*code, *_PASS]


def _addresses() -> Code:
    """Those that are valid beyond their link."""
    return [(_LD_B, 0, 0, _SCOPE_AT), (_JGE, 0, len(_DROP), uapi.RT_SCOPE_LINK), *_DROP, *_PASS]


def _routes(networks: Sequence[Address]) -> Code:
    """Those of the main table that are ours, default routes, or inside of the networks."""
    code = [(_LD_B, 0, 0, _TABLE_AT), (_JEQ, len(_DROP), 0, uapi.RT_TABLE_MAIN), *_DROP]
    code += _when(_LD_B, _PROTOCOL_AT, PROTOCOL, _PASS)
    code += _when(_LD_B, _LENGTH_AT, 0, _PASS)
    if len(networks) > _MOST_NETWORKS:
        return [*code, *_PASS]
    inside = [one for network in networks for one in _when(_LD_B, _FAMILY_AT, network.family, _inside(network))]
    return [*code, *_when_attribute(28, uapi.RTA_DST, inside), *_DROP]


def _inside(network: Address) -> Code:
    """Pass if the destination, whose attribute is at X, is in the network."""
    code = _PASS
    words = (network.prefix + 31) // 32
    for word in reversed(range(words)):
        bits = min(32, network.prefix - 32 * word)
        mask = (1 << 32) - (1 << (32 - bits))
        value = int.from_bytes(network.packed[4 * word : 4 * word + 4], "big") & mask
        code = [(_LD_IND_W, 0, 0, 4 + 4 * word), (_AND, 0, 0, mask), (_JEQ, 0, len(code), value), *code]
    return code


def _neighbours(device: int) -> Code:
    """Those of the device, of all families."""
    return [*_when(_LD_W, _INDEX_AT, _swapped("=i", device), _PASS), *_DROP] if device else _DROP


def _settings(links: Sequence[int]) -> Code:
    """Those of the links, and those of all links together."""
    wanted = (uapi.NETCONFA_IFINDEX_ALL, *links)
    found = [code for link in wanted for code in _when(_LD_IND_W, 4, _swapped("=i", link), _PASS)]
    return [*_when_attribute(20, uapi.NETCONFA_IFINDEX, found), *_DROP]


def _when_attribute(at: int, kind: int, body: Code) -> Code:
    """Run `body` with X at the attribute `kind`, if the attributes from `at` on have it."""
    found = [(_TAX, 0, 0, 0), *body]
    return [
        (_LD_IMM, 0, 0, at),
        (_LDX_IMM, 0, 0, kind),
        (_LD_W, 0, 0, _NLATTR),
        (_JEQ, len(found), 0, 0),
        *found,
    ]


def _swapped(form: str, value: int) -> int:
    """A number in host byte order as a load sees it."""
    return int.from_bytes(pack(form, value), "big")
