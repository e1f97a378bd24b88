"""Thousands of peers, and concurrent syncs."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from linux.rtnl.forwarding import Changes, PeerPath, missing, sync
from tests.netns.node import Node
from tests.netns.overlay_tools import (
    UNDERLAY_V4,
    Tunnel,
    entries,
    expected,
    give_underlay,
    inside,
    shell,
    tunnel_on,
)

THOUSANDS = 5000


@pytest.fixture
def tunnel(node: Node) -> Iterator[Tunnel]:
    """Node 1 with a VXLAN tunnel over IPv4."""
    shell(node, "ip link add wan0 type veth peer name wan1; ip link set wan1 up")
    give_underlay(node, 1)
    with tunnel_on(node, 1, UNDERLAY_V4) as made:
        yield made


def many(tunnel: Tunnel, count: int, *, shift: int = 0) -> list[PeerPath]:
    """Return `count` peer paths; `shift` gives each the MAC and address of another peer."""
    paths = []
    for number in range(count):
        high, low = divmod(number, 256)
        other_high, other_low = divmod((number + shift) % count, 256)
        network, mac = f"10.{high}.{low}.0", f"02:24:0a:{other_high:02x}:{other_low:02x}:00"
        paths.append(PeerPath(f"{network}/24", network, tunnel.device, mac, f"172.16.{other_high}.{other_low}"))
    return paths


def test_five_thousand_peers(tunnel: Tunnel) -> None:
    """More permanent neighbours than gc_thresh3, the kernel's limit for other entries: none is refused or lost."""
    limit = int(Path("/proc/sys/net/ipv4/neigh/default/gc_thresh3").read_text()) if _is_visible() else 1024
    assert limit < THOUSANDS, "this machine's limit is so large that the test shows nothing"
    names = {tunnel.device: "slash24.1"}
    paths = many(tunnel, THOUSANDS)
    assert len(missing(tunnel.netlink, paths, device=tunnel.device)) == 21
    assert sync(tunnel.netlink, paths, device=tunnel.device) == Changes(3 * THOUSANDS, 0)
    assert entries(tunnel.node) == expected(paths, names)
    assert sync(tunnel.netlink, paths, device=tunnel.device) == Changes(0, 0)
    shifted = many(tunnel, THOUSANDS, shift=1)
    assert sync(tunnel.netlink, shifted, device=tunnel.device) == Changes(THOUSANDS, 0)
    assert entries(tunnel.node) == expected(shifted, names)
    assert sync(tunnel.netlink, [], device=tunnel.device) == Changes(0, 3 * THOUSANDS)


def _is_visible() -> bool:
    """The limits apply to the whole machine, and only its initial network namespace shows them."""
    return Path("/proc/sys/net/ipv4/neigh/default/gc_thresh3").exists()


def test_a_thousand_refused_requests_leave_the_socket_usable(tunnel: Tunnel) -> None:
    """The socket stays usable after an error for each request; the first error is raised."""
    wan = tunnel.node.links()["wan0"]["ifindex"]
    paths = [PeerPath(path.subnet, "198.51.100.9", wan) for path in many(tunnel, 1000)]
    with pytest.raises(OSError, match=r"route 10.0.0.0/24 via 198.51.100.9 dev wan0"):
        sync(tunnel.netlink, paths)
    assert sync(tunnel.netlink, many(tunnel, 3), device=tunnel.device) == Changes(9, 0)


def test_concurrent_syncs_of_the_same_peers_succeed(tunnel: Tunnel) -> None:
    """Six concurrent syncs, from nothing to 300 peers and on to others, raise no error and reach the wanted state."""
    failures = []

    def one(paths: list[PeerPath]) -> None:
        try:
            with inside(tunnel.node) as own:
                sync(own, paths, device=tunnel.device)
        except OSError as error:
            failures.append(error)

    for paths in (many(tunnel, 300), many(tunnel, 300, shift=7), many(tunnel, 100), []):
        threads = [threading.Thread(target=one, args=(paths,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert entries(tunnel.node) == expected(paths, {tunnel.device: "slash24.1"})
