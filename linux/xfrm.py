"""IPsec as other programs left it: its policies and states, listed and deleted (<linux/xfrm.h>)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from errno import ENOENT, EPROTONOSUPPORT, ESRCH
from socket import AF_INET6
from struct import Struct
from sys import byteorder

from linux.netlink.attributes import attribute, attributes_of, number
from linux.netlink.socket import Netlink, NetlinkError
from spec.addresses import unpack

_NETLINK_XFRM = 6
_DELETE_STATE, _GET_STATE, _DELETE_POLICY, _GET_POLICY = 0x11, 0x12, 0x14, 0x15  # XFRM_MSG_*
_SOURCE, _MARK, _INTERFACE = 13, 21, 31  # XFRMA_SRCADDR, XFRMA_MARK, XFRMA_IF_ID
_HEADER, _STATE_BYTES, _POLICY_BYTES = 16, 224, 168  # of struct nlmsghdr, xfrm_usersa_info, xfrm_userpolicy_info
_SELECTOR = Struct("=16s16s8xHBBBxxxiI")  # struct xfrm_selector: daddr, saddr, ..., family, prefix lengths, protocol
_INDEX_AND_DIRECTION = Struct("=IB")
_INDEX_AT = 156  # in struct xfrm_userpolicy_info: after the selector, the limits, the counters and the priority
_STATE_ID = Struct("!16sIB3x16s")  # struct xfrm_id and the source, after the selector
_FAMILY_AT = 212  # in struct xfrm_usersa_info
_DIRECTIONS = ("in", "out", "fwd")
_PROTOCOLS = {50: "esp", 51: "ah", 108: "comp"}


@dataclass(frozen=True)
class Policy:
    """A policy: which packets are to be protected. `src`, `dst`: networks. `mark`, `interface`: 0 for none."""

    src: str
    dst: str
    direction: str
    index: int
    mark: int
    mask: int
    interface: int
    request: bytes = field(compare=False, repr=False)

    def __str__(self) -> str:
        """As `ip xfrm policy delete` reads it."""
        words = ["index", str(self.index), "dir", self.direction]
        words += ["mark", f"{self.mark:#x}", "mask", f"{self.mask:#x}"] if self.mark else []
        return " ".join([*words, *(["if_id", str(self.interface)] if self.interface else [])])


@dataclass(frozen=True)
class State:
    """A state: how they are protected, between two addresses."""

    src: str
    dst: str
    protocol: str
    spi: int
    mark: int
    interface: int
    request: bytes = field(compare=False, repr=False)

    def __str__(self) -> str:
        """As `ip xfrm state delete` reads it."""
        return f"src {self.src} dst {self.dst} proto {self.protocol} spi {self.spi:#x}"


def list_policies() -> list[Policy]:
    """The policies of the calling thread's network namespace; none if the kernel has no IPsec. Raises NetlinkError."""
    return [policy for message in _dump(_GET_POLICY) if (policy := _policy(message))]


def list_states() -> list[State]:
    """The same of states."""
    return list(map(_state, _dump(_GET_STATE)))


def delete(one: Policy | State) -> None:
    """Delete a policy or a state, if it is still there. Raises NetlinkError."""
    kind = _DELETE_POLICY if isinstance(one, Policy) else _DELETE_STATE
    with Netlink(_NETLINK_XFRM) as netlink:
        try:
            netlink.change(one.request, kind)
        except NetlinkError as error:
            if error.errno not in (ENOENT, ESRCH):
                raise


def _dump(kind: int) -> Iterator[bytes]:
    try:
        with Netlink(_NETLINK_XFRM) as netlink:
            yield from netlink.dump(b"", kind)
    except OSError as error:
        if error.errno != EPROTONOSUPPORT:
            raise


def _policy(message: bytes) -> Policy | None:
    selector = message[_HEADER : _HEADER + _SELECTOR.size]
    daddr, saddr, family, dst_length, src_length, *_ = _SELECTOR.unpack(selector)
    index, direction = _INDEX_AND_DIRECTION.unpack_from(message, _HEADER + _INDEX_AT)
    if direction >= len(_DIRECTIONS):  # of a socket
        return None
    attributes = attributes_of(message, _HEADER + _POLICY_BYTES)
    mark, mask, interface, same = _common(attributes)
    return Policy(
        f"{_address(saddr, family)}/{src_length}",
        f"{_address(daddr, family)}/{dst_length}",
        _DIRECTIONS[direction],
        index,
        mark,
        mask,
        interface,
        selector + _INDEX_AND_DIRECTION.pack(index, direction) + bytes(3) + same,  # struct xfrm_userpolicy_id
    )


def _state(message: bytes) -> State:
    daddr, spi, protocol, saddr = _STATE_ID.unpack_from(message, _HEADER + _SELECTOR.size)
    family = int.from_bytes(message[_HEADER + _FAMILY_AT : _HEADER + _FAMILY_AT + 2], byteorder)
    attributes = attributes_of(message, _HEADER + _STATE_BYTES)
    mark, _, interface, same = _common(attributes)
    identity = daddr + spi.to_bytes(4, "big") + family.to_bytes(2, byteorder) + bytes([protocol, 0])
    return State(
        _address(saddr, family),
        _address(daddr, family),
        _PROTOCOLS.get(protocol, str(protocol)),
        spi,
        mark,
        interface,
        identity + attribute(_SOURCE, saddr) + same,  # struct xfrm_usersa_id
    )


def _common(attributes: dict[int, bytes]) -> tuple[int, int, int, bytes]:
    """Mark, its mask and the ID of the interface, and the attributes that have them."""
    pair = attributes.get(_MARK, bytes(8))
    interface = int.from_bytes(attributes.get(_INTERFACE, b""), byteorder)
    same = (attribute(_MARK, pair) if any(pair) else b"") + (number(_INTERFACE, interface) if interface else b"")
    return int.from_bytes(pair[:4], byteorder), int.from_bytes(pair[4:], byteorder), interface, same


def _address(packed: bytes, family: int) -> str:
    return unpack(packed if family == AF_INET6 else packed[:4])
