"""What counts as live, what is kept in doubt, and what is stale."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from cli.facts.attachments import AttachedPod
from cli.facts.cache import Cached
from cli.facts.containers import Container, Known
from cli.facts.evidence import KEPT, LIVE, STALE, Evidence, Verdict
from cli.facts.leases import Lease
from cli.gc.inventory import CACHED, ELEMENT, LEASE, UNNAMED, Piece
from cli.gc.leftovers import judge
from linux.ownership import owner_tag
from spec.attachment import Attachment

OWNER = Attachment("net", "abc", "eth0")
TAG = owner_tag(OWNER)
NOW = 10_000.0
LEASE_ = Lease("net", "192.0.2.77", "abc", "eth0", NOW - 1000)
CACHE = Cached("/cache", "net", "abc", "eth0", "/no/such/netns", "shop/web-0", (), (), NOW)
POD = AttachedPod("net", "abc", "eth0", TAG, "", (), "veth1", 7, "", "", "", 0, is_live=True)
OURS = "/proc/self/ns/net"


def evidence(
    pods: Sequence[AttachedPod] = (),
    cache: Sequence[Cached] = (),
    leases: Sequence[Lease] = (LEASE_,),
    containers: Sequence[str] = (),
) -> Evidence:
    """Of a node with these; the runtime knows these containers."""
    known = Known({one: Container(one, "sandbox of shop/web-0, notready", "containerd") for one in containers}, ())
    return Evidence(pods, cache, leases, NOW, lambda: known)


def verdict(found: Evidence, owner: Attachment = OWNER, **more: object) -> Verdict:
    """On an attachment."""
    return found.of(owner, owner_tag(owner), **more)


def test_a_pod_with_a_namespace_is_live() -> None:
    """By its host veth, or by the path that the runtime gave: both lead there."""
    assert verdict(evidence([POD])) == Verdict(LIVE)
    assert verdict(evidence([replace(POD, tag="")])) == Verdict(LIVE)
    assert verdict(evidence(cache=[replace(CACHE, netns=OURS)])) == Verdict(LIVE)
    old = replace(LEASE_, ifname="")
    assert verdict(evidence([POD], leases=[old]), Attachment("net", "abc", "")) == Verdict(LIVE)


def test_without_one_it_is_stale() -> None:
    """And the reason says what was looked for."""
    both = "both ends of its veth pair are in the node's namespace"
    assert verdict(evidence([replace(POD, is_live=False)])) == Verdict(STALE, both)
    assert verdict(evidence(cache=[CACHE])) == Verdict(STALE, "its namespace /no/such/netns is gone")
    assert verdict(evidence()) == Verdict(STALE, "no namespace has its link or its addresses")
    assert verdict(evidence([replace(POD, container="abd", tag="v1:net:abd:eth0")])).state == STALE


def test_an_earlier_boot_is_over() -> None:
    """Whatever has the path of its namespace now; not if only one of two leases is."""
    over = replace(LEASE_, is_over=True)
    earlier = evidence(cache=[replace(CACHE, netns=OURS)], leases=[over])
    assert verdict(earlier) == Verdict(STALE, "its lease is of an earlier boot")
    assert verdict(evidence(leases=[over, LEASE_])).why != "its lease is of an earlier boot"


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (evidence([replace(POD, ifname="eth1", tag="v1:net:abc:eth1")]), "another interface of its container is there"),
        (evidence(containers=["abc"]), "containerd still has the sandbox of shop/web-0, notready"),
        (
            evidence(leases=[replace(LEASE_, machine="elsewhere")]),
            "it was leased on another machine, elsewhere, that shares the folder",
        ),
        (
            evidence(leases=[replace(LEASE_, since=NOW - 119)]),
            "it was made 1 min ago, and its ADD may still be running",
        ),
        (
            evidence(leases=[replace(LEASE_, since=NOW + 500)]),
            "it was made 0 s ago, and its ADD may still be running",
        ),
    ],
)
def test_in_doubt_it_is_kept(found: Evidence, why: str) -> None:
    """And the reason says what the doubt is."""
    assert verdict(found) == Verdict(KEPT, why)


def test_an_address_in_use_is_kept() -> None:
    """Wherever on the node it is."""
    state, why = (found := verdict(evidence(), addresses=["127.0.0.1"])).state, found.why
    assert (state, why.startswith("127.0.0.1 is on lo in ")) == (KEPT, True)


def test_an_attachment_of_which_only_the_tag_is_known() -> None:
    """Its host veth may have it; without one nothing is left to ask, except for the addresses."""
    nobody, tag = Attachment("net", "", ""), "v1#0123456789abcdef:0"
    assert evidence([replace(POD, tag=tag, container="")]).of(nobody, tag) == Verdict(LIVE)
    assert evidence().of(nobody, tag) == Verdict(STALE, "nothing tells whose it was, and no pod has it")


def test_pieces_of_one_owner_are_judged_together() -> None:
    """Names come from what tells them; what names nobody is judged by itself; live owners are not mentioned."""
    long = Attachment("n" * 70, "c" * 64, "eth0")
    live = Attachment("net", "live", "eth0")
    pieces = [
        Piece(ELEMENT, "inet slash24_masquerade, pods4", owner_tag(long)),
        Piece(LEASE, "10.1.0.2", owner_tag(long), long.network, long, ("10.1.0.2",), since=1),
        Piece(CACHED, "/cache", TAG, "net", OWNER),
        Piece(LEASE, "10.1.0.3", "", "net", addresses=("10.1.0.3",)),
        Piece(LEASE, "10.1.0.4", "", "net", addresses=("127.0.0.1",)),
        Piece(UNNAMED, "veth3", "", "net"),
        Piece(ELEMENT, "inet slash24_masquerade, pods4", owner_tag(live)),
    ]
    found = evidence([replace(POD, container="live", tag=owner_tag(live))], [CACHE], [])
    stale, kept = judge(pieces, found, [CACHE], [])
    assert [(one.network, one.container, one.pod, len(one.pieces)) for one in stale] == [
        ("net", "", "", 1),
        ("net", "", "", 1),
        ("net", "abc", "shop/web-0", 1),
        (long.network, long.container_id, "", 2),
    ]
    assert [[piece.name for piece in one.pieces] for one in kept] == [["10.1.0.4"]]
