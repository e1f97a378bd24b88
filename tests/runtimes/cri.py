"""Networks and pods for tests of containerd's CRI."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.netns.node import Host, wait_until
from tests.runtimes.engines import NET_D, Containerd
from tests.runtimes.machine import Machine

GATEWAY_V4, GATEWAY_V6 = "10.40.0.1", "fd00:40::1"
_CHAINED = (
    {"type": "portmap", "capabilities": {"portMappings": True}},
    {"type": "bandwidth", "capabilities": {"bandwidth": True}},
)


def network(name: str = "cri", subnet: str = "10.40.0.0/24", **more: object) -> dict:
    """A dual-stack network with host ports and limits; `more`: keys of its bridge."""
    ranges = [[{"subnet": subnet}], [{"subnet": "fd00:40::/64"}]]
    bridge = {"type": "bridge", "bridge": "cri0", "isDefaultGateway": True, "ipMasq": True, "hairpinMode": True}
    bridge |= {"ipam": {"type": "host-local", "ranges": ranges}} | more
    return {"cniVersion": "1.0.0", "cniVersions": ["1.0.0", "1.1.0"], "name": name, "plugins": [bridge, *_CHAINED]}


def conflist(machine: Machine) -> Path:
    """The file of the network that `configured` writes."""
    return machine.path(f"{NET_D}/00-cri.conflist")


@contextmanager
def configured(machine: Machine, containerd: Containerd, conf: Mapping) -> Iterator[None]:
    """The network is the first of the node, and containerd uses it. Afterwards its bridge is gone."""
    path = conflist(machine)
    change(containerd, path, conf)
    try:
        yield
    finally:
        path.unlink()
        machine.run(["ip", "link", "del", "cri0"], check=False)


def change(containerd: Containerd, path: Path, conf: Mapping) -> None:
    """Write the network, and wait until containerd has read it."""
    path.with_name(".new").write_text(json.dumps(conf))
    path.with_name(".new").rename(path)
    assert wait_until(lambda: containerd.network() == conf)


@contextmanager
def running(containerd: Containerd, *names: str) -> Iterator[list[Host]]:
    """Pods with these names, started at once; afterwards all pods are removed."""
    try:
        yield containerd.start_together("cri", names)
    finally:
        if names := containerd.known():
            containerd.remove_together(names)


def ipv4(pod: Host) -> str:
    """The pod's IPv4 address."""
    return min(pod.addresses("eth0")).partition("/")[0]
