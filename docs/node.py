#!/usr/bin/env python3
"""Draw docs/node.svg: a node with two pods, and how a runtime's call becomes a pod's network."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from cli.drawing import box, line, picture, words


def draw() -> str:
    """The picture as an SVG document."""
    elements = [
        *box(10, 10, 700, 470, kind="frame"),
        words(26, 34, "node", "title"),
        # How a call is served.
        *box(30, 52, 220, 44, "container runtime", "containerd, CRI-O, podman"),
        line((140, 96), (140, 138), end=True),
        words(150, 122, "ADD, DEL, CHECK, ...", "small"),
        *box(30, 140, 220, 44, "launcher", "/opt/cni/bin/kubenet", kind="ours"),
        line((90, 184), (90, 230), end=True),
        words(100, 212, "Unix socket", "small"),
        line((215, 184), (215, 318), end=True),
        *box(30, 232, 160, 44, "slash24-agent", "plugins, loaded once", kind="ours"),
        *box(30, 320, 220, 44, "frozen plugin", "if no agent runs", kind="ours"),
        *box(30, 412, 220, 44, "leases", "/var/lib/cni/networks/<network>"),
        line((110, 276), (110, 302), (18, 302), (18, 434), (28, 434), end=True),
        line((140, 364), (140, 410), end=True),
        line((190, 254), (318, 254), end=True),
        words(222, 247, "netlink, sysctl", "small"),
        line((250, 342), (318, 342), end=True),
        words(258, 335, "the same", "small"),
        # What the kernel has then.
        *box(320, 52, 370, 404, kind="frame"),
        words(336, 74, "kernel", "small"),
        *box(350, 84, 140, 44, "pod", "eth0  10.244.1.2"),
        *box(520, 84, 140, 44, "pod", "eth0  10.244.1.3"),
        line((420, 128), (420, 168)),
        line((590, 128), (590, 168)),
        words(428, 152, "veth pair", "small"),
        words(598, 152, "veth pair", "small"),
        *box(350, 168, 310, 44, "bridge cbr0", "gateway 10.244.1.1/24"),
        line((505, 212), (505, 252)),
        *box(
            350,
            252,
            310,
            62,
            "routing and nftables",
            "masquerade, host ports, firewall,",
            "MAC and source address filters",
        ),
        line((420, 314), (420, 388)),
        line((590, 314), (590, 388)),
        words(428, 344, "kubenet: routes", "small"),
        words(428, 361, "to node addresses", "small"),
        words(598, 344, "vxlan: routes", "small"),
        words(598, 361, "to the tunnel", "small"),
        *box(350, 388, 140, 44, "eth0", "192.0.2.1"),
        *box(520, 388, 140, 44, "slash24.1", "VXLAN device"),
        line((520, 410), (490, 410), end=True),
        # The other nodes.
        line((420, 432), (420, 508), start=True, end=True),
        *box(320, 510, 370, 44, "other nodes", "each with a subnet: 10.244.2.0/24, 10.244.3.0/24, ..."),
    ]
    return picture(720, 566, "A slash24 node: how a call is served, and what it makes in the kernel", elements)


if __name__ == "__main__":
    (Path(__file__).parent / "node.svg").write_text(draw())
