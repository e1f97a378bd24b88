"""What every store of leases promises: the interface that `allocator` is written against."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from typing import Protocol

    from spec.attachment import Attachment

    class Leases(Protocol):
        """The leases of one network, while its lock is held.

        Addresses are text, as Go and `str(Address)` print them.
        """

        def state(self, address: str) -> str:
            """One of `State`."""

        def free(self, addresses: Iterable[str]) -> Iterator[str]:
            """Those of the addresses that are FREE, in their order; asks as few as are taken from the iterator."""

        def held_by(self, owner: Attachment) -> Sequence[str]:
            """The addresses leased to the owner in this boot, also those noted under the bare container id."""

        def last_reserved(self, range_set: int) -> str:
            """The address that the range set handed out last, "" if that is not known."""

        def take(self, owner: Attachment, addresses: Sequence[tuple[int, str]]) -> bool:
            """Lease all of (number of the range set, address), each FREE or RECLAIMABLE before, or none.

            False: somebody was faster with one, which is TAKEN now. Raises OSError, having given back what it took.
            """

        def release(self, owner: Attachment) -> Sequence[str]:
            """Give back all that the owner holds; answers the addresses.

            Raises OSError after having done all that can be done.
            """

        def retain(self, valid: Collection[Attachment]) -> Sequence[str]:
            """Give back all but the leases of these attachments, and so what has no owner at all, as `release` does."""


class State:
    """What can be said about an address."""

    FREE = "free"
    TAKEN = "taken"
    COOLING = "cooling"
    """Released, and to be left alone for a while."""
    RECLAIMABLE = "reclaimable"
    """Noted as leased, but nobody can be using it: of an earlier boot, or without an owner."""
