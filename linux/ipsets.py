"""ipsets: lists and destroys them, over nfnetlink (<linux/netfilter/ipset/ip_set.h>)."""

from dataclasses import dataclass
from errno import EBUSY, EINVAL, ENOENT, EOPNOTSUPP
from struct import Struct

from linux.netlink.attributes import attribute, attributes_of, text
from linux.netlink.socket import NETLINK_NETFILTER, Netlink, NetlinkError
from linux.waiting import wait_until

_SUBSYSTEM, _LIST, _DESTROY = 6 << 8, 7, 3  # NFNL_SUBSYS_IPSET, IPSET_CMD_*
_PROTOCOL, _NAME, _KIND, _FLAGS, _INDEX = 1, 2, 3, 0x4006, 11  # IPSET_ATTR_*; 0x4000: big-endian
_VERSIONS = (7, 6)  # 6: before Linux 4.20, does not tell the index
_IN_USE = 4100  # IPSET_ERR_BUSY
_PATIENCE = 2  # seconds
_HEADER_ONLY = 4  # IPSET_FLAG_LIST_HEADER
_BODY, _AT = bytes(4), 20  # struct nfgenmsg; offset of the attributes in an answer
_BE32 = Struct("!I")


@dataclass(frozen=True)
class IPSet:
    """An ipset: its name and kind ("hash:ip", ...). `index`: what rules know it by; -1 if the kernel does not say."""

    name: str
    kind: str
    index: int = -1


def list_sets() -> list[IPSet]:
    """The ipsets of the calling thread's network namespace; none if the kernel has no ipsets. Raises NetlinkError."""
    with Netlink(NETLINK_NETFILTER) as netlink:
        for version in _VERSIONS:
            request = _BODY + attribute(_PROTOCOL, bytes([version])) + attribute(_FLAGS, _BE32.pack(_HEADER_ONLY))
            try:
                messages = netlink.dump(request, _SUBSYSTEM | _LIST)
            except NetlinkError as error:
                if error.errno not in (EINVAL, EOPNOTSUPP, ENOENT):
                    raise
                continue
            return [_decoded(attributes_of(message, _AT)) for message in messages]
    return []


def destroy_set(name: str) -> None:
    """Destroy an ipset, if it exists. Raises NetlinkError (EBUSY: a rule or another set refers to it).

    The kernel lets go of a set some time after the last rule that refers to it was deleted.
    """
    if not wait_until(lambda: _is_destroyed(name), seconds=_PATIENCE):
        raise NetlinkError(EBUSY, f"ipset {name}: a rule or another set refers to it")


def _is_destroyed(name: str) -> bool:
    request = _BODY + attribute(_PROTOCOL, bytes([_VERSIONS[-1]])) + text(_NAME, name)
    with Netlink(NETLINK_NETFILTER) as netlink:
        try:
            netlink.change(request, _SUBSYSTEM | _DESTROY)
        except NetlinkError as error:
            if error.errno not in (ENOENT, _IN_USE):
                raise
            return error.errno == ENOENT
    return True


def _decoded(found: dict[int, bytes]) -> IPSet:
    index = found.get(_INDEX)
    return IPSet(_text(found.get(_NAME)), _text(found.get(_KIND)), int.from_bytes(index, "big") if index else -1)


def _text(data: bytes | None) -> str:
    return (data or b"").split(b"\0", 1)[0].decode("utf-8", "replace")
