"""Whether an attachment may be live: what on this node tells that its pod is there, or that it is not.

A pod is live if its namespace is. In doubt it is kept: a leaked address costs less than a cut-off pod.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from cli.facts.attachments import AttachedPod
from cli.facts.cache import Cached
from cli.facts.containers import Known, ask_runtimes
from cli.facts.leases import Lease
from cli.units import span
from linux.netlink.socket import Netlink
from linux.netns import entered, is_netns
from linux.netns_ids import every
from linux.ownership import owner_tag
from linux.rtnl.addresses import list_addresses
from linux.rtnl.links import list_links
from spec.attachment import Attachment

LIVE, KEPT, STALE = "live", "kept", "stale"
_YOUNG = 120  # seconds in which an ADD may still run: runtimes give up sooner


@dataclass(frozen=True)
class Verdict:
    """`state`: LIVE, KEPT (it may be live) or STALE; `why`, in words, what tells that; "" for LIVE."""

    state: str
    why: str = ""


@dataclass(frozen=True)
class Evidence:
    """What was read of the node. `now`: in seconds since 1970. `ask`: asks the runtimes, if nothing else has told."""

    attached: Sequence[AttachedPod]
    cache: Sequence[Cached]
    leases: Sequence[Lease]
    now: float
    ask: Callable[[], Known] = ask_runtimes

    @cached_property
    def known(self) -> Known:
        """What the runtimes know."""
        return self.ask()

    def of(self, owner: Attachment, tag: str, addresses: Iterable[str] = (), since: float = 0) -> Verdict:
        """The verdict on an attachment; its names may be "" as far as they are not known.

        `addresses`: those that it is known by besides its leases. `since`: when the last thing of it was made, as far
        as that is known.
        """
        mine = self._attached(owner, tag)
        if any(one.is_live for one in mine):
            return Verdict(LIVE)
        leases = [lease for lease in self.leases if lease.is_of(owner)]
        machine = next((lease.machine for lease in leases if lease.machine), "")
        if machine:
            return Verdict(KEPT, f"it was leased on another machine, {machine}, that shares the folder")
        cached = self._cached.get(tag)
        is_over = bool(leases) and all(lease.is_over for lease in leases)
        if cached and is_netns(cached.netns) and not is_over:
            return Verdict(LIVE)
        if owner.container_id and any(one.is_live and one.container == owner.container_id for one in self.attached):
            return Verdict(KEPT, "another interface of its container is there")
        if owner.container_id in self.known.containers:
            container = self.known.containers[owner.container_id]
            return Verdict(KEPT, f"{container.runtime} still has the {container.name}")
        if is_over:
            return Verdict(STALE, "its lease is of an earlier boot")
        age = self.now - max((since, *(lease.since for lease in leases)))
        if not cached and age < _YOUNG:
            return Verdict(KEPT, f"it was made {span(age)} ago, and its ADD may still be running")
        others = {one.address for one in self.leases if one.network == owner.network and one not in leases}
        for address in sorted({*addresses, *(lease.address for lease in leases)} - others):
            if address in self._everywhere:
                return Verdict(KEPT, f"{address} is on {self._everywhere[address]}")
        return Verdict(STALE, _why(owner, cached, mine))

    def _attached(self, owner: Attachment, tag: str) -> list[AttachedPod]:
        if not owner.ifname and owner.container_id:  # a lease of an old version
            key = (owner.network, owner.container_id)
            return [one for one in self.attached if (one.network, one.container) == key]
        return [one for one in self.attached if tag and tag in (one.tag, owner_tag(one.attachment))]

    @cached_property
    def _cached(self) -> Mapping[str, Cached]:
        return {owner_tag(one.attachment): one for one in self.cache}

    @cached_property
    def _everywhere(self) -> Mapping[str, str]:
        """The addresses in all namespaces, and where each is. Looked up only when nothing else has told."""
        found: dict[str, str] = {}
        for path, netns in every(one.netns for one in self.cache):
            try:
                with entered(netns), Netlink() as inside:
                    names = {link.index: link.name for link in list_links(inside)}
                    for one in list_addresses(inside):
                        found.setdefault(one.ip, f"{names.get(one.link, 'a link')} in {path}")
            except OSError:  # it is being deleted
                continue
        return found


def _why(owner: Attachment, cached: Cached | None, mine: Collection[AttachedPod]) -> str:
    if mine:
        return "both ends of its veth pair are in the node's namespace"
    if cached and cached.netns:
        return f"its namespace {cached.netns} is gone"
    if not owner.container_id:
        return "nothing tells whose it was, and no pod has it"
    return "no namespace has its link or its addresses"
