"""Choosing the addresses of an attachment: pure code over `store.Leases`.

All addresses of an ADD are chosen under one lock before any is leased: it gets all of them, or nothing changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ipam.ranges import Range, RangeSet
from ipam.store import State
from spec.addresses import Address, parse_ip, text_of
from spec.attachment import Attachment
from spec.errors import CNIError, Code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipam.store import Leases


@dataclass(frozen=True)
class Grant:
    """An assigned address, the number of its range set, and its range."""

    range_set: int
    range: Range
    address: Address

    @property
    def cidr(self) -> str:
        """The address with the prefix length of its subnet."""
        return f"{self.address}/{self.range.prefix}"

    @property
    def gateway(self) -> str:
        """The gateway of the range, "" without one."""
        return text_of(self.range.version, self.range.gateway) if self.range.gateway >= 0 else ""


def allocate(
    range_sets: Sequence[RangeSet], requested: Sequence[Address], owner: Attachment, leases: "Leases"
) -> tuple[Grant, ...]:
    """Lease one address of each range set: the first requested address in the set, otherwise the next free one.

    Raises CNIError 999 (the set is full; a requested address is leased, a gateway or in no set; the owner already has
    an address of the set), CNIError 11 (all free addresses are cooling down), or OSError (the store); nothing is leased
    then.
    """
    while True:
        grants = _choose(range_sets, requested, owner, leases)
        if leases.take(owner, [(grant.range_set, str(grant.address)) for grant in grants]):
            return grants


def is_exhausted(ranges: RangeSet, leases: "Leases") -> bool:
    """Whether the set has no address left to assign."""
    return _first(ranges, None, leases) is None


def _choose(
    range_sets: Sequence[RangeSet], requested: Sequence[Address], owner: Attachment, leases: "Leases"
) -> tuple[Grant, ...]:
    wanted = list(dict.fromkeys(requested))
    held = [address for text in leases.held_by(owner) if (address := _parse(text))]
    grants = []
    for number, ranges in enumerate(range_sets):
        request = next((address for address in wanted if ranges.find(address)), None)
        try:
            if request is None:
                _refuse_second(ranges, held, owner)
                chosen = _next(ranges, _parse(leases.last_reserved(number)), leases)
            else:
                wanted.remove(request)
                chosen = _requested(ranges, request, leases)
        except CNIError as error:
            message = f"failed to allocate for range {number}: {error.msg}"
            raise CNIError(error.code, message, error.details) from error
        grants.append(Grant(number, *chosen))
    if wanted:
        leftovers = " ".join(str(address) for address in wanted)
        raise CNIError(Code.INTERNAL, f"failed to allocate all requested IPs: {leftovers}")
    return tuple(grants)


def _requested(ranges: RangeSet, address: Address, leases: "Leases") -> tuple[Range, Address]:
    found = ranges.find(address)
    if address.number in found.gateways:
        raise CNIError(Code.INTERNAL, f"requested ip {address} is subnet's gateway")
    state = leases.state(str(address))
    if state == State.TAKEN:
        raise CNIError(Code.INTERNAL, f"requested IP address {address} is not available in range set {ranges}")
    if state == State.COOLING:
        raise CNIError(Code.TRY_AGAIN_LATER, f"requested IP address {address} was released and is still cooling down")
    return found, address


def _refuse_second(ranges: RangeSet, held: Sequence[Address], owner: Attachment) -> None:
    for address in held:
        if ranges.find(address):
            text = f"{address} has been allocated to {owner.container_id}, duplicate allocation is not allowed"
            raise CNIError(Code.INTERNAL, text)


def _next(ranges: RangeSet, last_reserved: Address | None, leases: "Leases") -> tuple[Range, Address]:
    found = _first(ranges, last_reserved, leases)
    if found is not None:
        return found[0], parse_ip(found[1])
    text = f"no IP addresses available in range set: {ranges}"
    cooling = sum(leases.state(each) == State.COOLING for _, texts in ranges.candidates(None) for each in texts)
    if cooling:
        raise CNIError(Code.TRY_AGAIN_LATER, f"{text} ({cooling} released, still cooling down)")
    raise CNIError(Code.INTERNAL, text, "every address is leased; GC releases those of pods that are gone")


def _first(ranges: RangeSet, last_reserved: Address | None, leases: "Leases") -> tuple[Range, str] | None:
    for each, texts in ranges.candidates(last_reserved):
        for text in leases.free(texts):
            return each, text
    # Leases are reclaimed only if no address is free.
    for each, texts in ranges.candidates(last_reserved):
        for text in texts:
            if leases.state(text) == State.RECLAIMABLE:
                return each, text
    return None


def _parse(text: str) -> Address | None:
    try:
        return parse_ip(text) if text else None
    except ValueError:
        return None
