"""`static` as the IPAM plugin of `bridge`: the pod gets the configured addresses, in one process."""

import json
import re
from pathlib import Path

import pytest

from tests.netns.cni import CNI, CNIFailure
from tests.netns.node import Node

IPAM = {
    "type": "static",
    "addresses": [
        {"address": "10.1.2.9/24", "gateway": "10.1.2.1"},
        {"address": "fd00:1::9/64", "gateway": "fd00:1::1"},
    ],
    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    "dns": {"nameservers": ["10.1.2.53"]},
}
CONF = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "b0", "isGateway": True, "ipam": IPAM}


def test_pod_has_the_configured_addresses(cni: CNI, node: Node) -> None:
    """Addresses, gateways, routes and resolvers are those of the configuration; the pod reaches its gateways."""
    pod = node.pod("pod")
    result = cni.add(CONF, pod)
    assert pod.addresses("eth0") == {"10.1.2.9/24", "fd00:1::9/64"}
    assert {pod.routes()[dst]["gateway"] for dst in ("default", "default6")} == {"10.1.2.1", "fd00:1::1"}
    assert result["dns"] == IPAM["dns"]
    assert pod.reaches("10.1.2.1")
    assert pod.reaches("fd00:1::1")
    cni.check(CONF, pod, result)
    cni.status(CONF)
    cni.gc(CONF, pod)
    cni.check(CONF, pod, result)
    cni.delete(CONF, pod, result)
    assert set(pod.links()) == {"lo"}


def test_check_reports_an_address_missing_from_the_result(cni: CNI, node: Node) -> None:
    """The bridge's CHECK calls static, which fails for a configured address that the result lacks."""
    pod = node.pod("pod")
    result = cni.add(CONF, pod)
    more = {**CONF, "ipam": {**IPAM, "addresses": [*IPAM["addresses"], {"address": "10.1.2.10/24"}]}}
    with pytest.raises(CNIFailure, match="static: Failed to match addr 10.1.2.10/24 on interface eth0"):
        cni.check(more, pod, result)


@pytest.mark.cold(reason="watches what the plugin's own process does")
def test_bridge_executes_no_ipam_plugin(node: Node, bin_dir: Path) -> None:
    """ADD and DEL of the bridge execute nothing else: static runs in the bridge's process."""
    pod, conf = node.pod("pod"), json.dumps(CONF)
    for verb in ("ADD", "DEL"):
        strace = ["strace", "-f", "-qq", "-e", "trace=execve", "-o", "/run/trace", bin_dir / "bridge"]
        node.run(strace, env=CNI(node, bin_dir).environ(verb, pod), stdin=conf)
        executed = re.findall(r'execve\("([^"]*)".* = 0', node.path("/run/trace").read_text())
        assert {Path(path).name for path in executed} == {"bridge"}  # the launcher, and what is frozen behind it


def test_a_requested_address_is_the_only_one(cni: CNI, node: Node) -> None:
    """The address that the runtime requests by capability is the pod's only one."""
    pod = node.pod("pod")
    cni.add({**CONF, "ipam": {"type": "static"}, "runtimeConfig": {"ips": ["10.1.2.77/24"]}}, pod)
    assert pod.addresses("eth0") == {"10.1.2.77/24"}
