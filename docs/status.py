#!/usr/bin/env python3
"""Draw docs/status.svg: what `slash24 status --svg` draws of a node with six pods and five peers."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from cli.status.picture import Device, Event, NetworkPicture, NodePicture, PeerPicture, PodPicture, Service, Subnet
from cli.status.svg import svg_of

PODS = (
    "kube-system/coredns-5d78c9869d-7xkqp",
    "default/web-6f7c5d9c4b-2lq8z",
    "default/web-6f7c5d9c4b-h5kqd",
    "shop/cart-0",
    "shop/cart-1",
    "shop/payments-79b9f4d6bd-zwx4m",
)
PEERS = ("node-2", "node-3", "node-4", "node-5", "node-6")


def example() -> NodePicture:
    """A node that keeps well, but for one peer."""
    pods = [PodPicture(name, (f"10.244.1.{n}",), f"veth{n * 2654435761 % 2**32:08x}") for n, name in enumerate(PODS, 2)]
    peers = [
        PeerPicture(name, f"192.0.2.{n}", (f"10.244.{n}.0/24",), "tunnel", ()) for n, name in enumerate(PEERS[:-1], 2)
    ]
    peers.append(
        PeerPicture(
            "node-6",
            "192.0.2.6",
            ("10.244.3.0/25",),
            "",
            ("claims 10.244.3.0/25, which overlaps 10.244.3.0/24 of peer node-3",),
        )
    )
    network = NetworkPicture(
        "podnet",
        "vxlan",
        (Subnet("10.244.1.0/24", 6, 253),),
        Device("cbr0", ("10.244.1.1/24",), "MTU 1450"),
        Device("slash24.1", ("192.0.2.1",), "VNI 1, UDP port 4789"),
        tuple(pods),
        tuple(peers),
    )
    services = (
        Service("agent", "runs", "pid 812"),
        Service("daemon", "runs", "pid 790"),
        Service("registry", "connected", "kubernetes, 6 records"),
    )
    repairs = (Event(41, "route 10.244.4.0/24 was deleted"),)
    errors = (Event(312, "ADD of 4f1b2c9d8e7a6 by portmap failed: host port 8080/tcp is taken"),)
    return NodePicture("node-1", services, (network,), repairs, errors)


def draw() -> str:
    """The picture as an SVG document."""
    return svg_of(example())


if __name__ == "__main__":
    (Path(__file__).parent / "status.svg").write_text(draw())
