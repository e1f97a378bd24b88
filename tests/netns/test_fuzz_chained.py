"""Chained plugins with malformed results: ADD and CHECK fail with a clear error, and DEL succeeds."""

import io
import json
import re
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from plugins.__main__ import load
from spec.plugin import serve
from tests.netns.node import Node, Pod
from tests.netns.overlay_tools import inside

KINDS = ["bandwidth", "firewall", "loopback", "portmap", "tuning"]
LIMITS = {"ingressRate": 8_000, "ingressBurst": 80_000, "egressRate": 8_000, "egressBurst": 80_000}
PORTS = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
OWN = {
    "bandwidth": LIMITS,
    "firewall": {"backend": "nftables", "ingressPolicy": "same-bridge"},
    "portmap": {"runtimeConfig": {"portMappings": PORTS}},
    "tuning": {"sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}, "mtu": 1400},
}

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
names = text | st.sampled_from(
    ["", "lo", "eth0", "a/b", "..", "%d", "all", "x" * 15, "x" * 16, "ä" * 8, "a\0b", "br0", *["host0"] * 6]
)
numbers = st.integers(-2, 5) | st.sampled_from([2**31, 2**32 - 1])
interfaces = st.fixed_dictionaries(
    {"name": names}, optional={"mac": text, "sandbox": text, "mtu": numbers, "socketPath": text, "pciID": text}
)
v4 = st.tuples(st.ip_addresses(v=4), st.integers(0, 32))
v6 = st.tuples(st.ip_addresses(v=6), st.integers(0, 128))
networks = (v4 | v6).map(lambda pair: f"{pair[0]}/{pair[1]}")
addresses = st.ip_addresses().map(str)
ips = st.fixed_dictionaries({"address": networks}, optional={"gateway": addresses, "interface": numbers})
routes = st.fixed_dictionaries({"dst": networks}, optional={"gw": addresses, "mtu": numbers, "table": numbers})
results = st.fixed_dictionaries(
    {},
    optional={
        "interfaces": st.lists(interfaces, max_size=3),
        "ips": st.lists(ips, max_size=3),
        "routes": st.lists(routes, max_size=2),
        "dns": st.fixed_dictionaries({}, optional={"nameservers": st.lists(text, max_size=2), "domain": text}),
    },
)


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Node, Pod]]:
    """One node with a pod and its link, for all examples."""
    node = Node()
    try:
        pod = node.pod("poda")
        node.run(["ip", "link", "add", "host0", "type", "veth", "peer", "name", "eth0", "netns", "poda"])
        yield node, pod
    finally:
        node.close()


def call(kind: str, verb: str, conf: dict, netns: str) -> tuple[int, dict]:
    """Make a call in this process; return its status and its output document."""
    environ = {"CNI_COMMAND": verb, "CNI_CONTAINERID": "poda", "CNI_NETNS": netns, "CNI_IFNAME": "eth0"}
    streams = {"stdin": io.BytesIO(json.dumps(conf).encode()), "stdout": io.BytesIO(), "stderr": io.StringIO()}
    status = serve(load(kind), environ={**environ, "CNI_PATH": "/nowhere"}, **streams)
    output = streams["stdout"].getvalue()
    return status, json.loads(output) if output else {}


@settings(max_examples=300)
@given(kind=st.sampled_from(KINDS), result=results)
@example(kind="bandwidth", result={"interfaces": [{"name": "x" * 16}]})
@example(kind="firewall", result={"interfaces": [{"name": "x" * 40}], "ips": [{"address": "10.0.0.1/8"}]})
@example(kind="firewall", result={"interfaces": [{"name": ""}], "ips": [{"address": "::/0"}]})
def test_arbitrary_result_of_the_previous_plugin(world: tuple[Node, Pod], kind: str, result: dict) -> None:
    """Errors are protocol errors, not Python exceptions; DEL and GC always succeed."""
    node, pod = world
    conf = {"cniVersion": "1.1.0", "name": "net", "type": kind, **OWN.get(kind, {}), "prevResult": result}
    conf["dataDir"] = str(node.path("/run/tuning"))
    with inside(node):
        netns = str(node.path(pod.path))
        for verb in ("ADD", "CHECK"):
            document = call(kind, verb, conf, netns)[1]
            assert not re.match(r"[A-Za-z]*(Error|Exception)\b", document.get("msg", "")), document
            assert "Numerical result out of range" not in document.get("msg", ""), document
            assert "Invalid argument" not in document.get("msg", ""), document
        for _ in range(2):
            assert call(kind, "DEL", conf, netns) == (0, {})
        assert call(kind, "GC", {**conf, "cni.dev/valid-attachments": []}, netns) == (0, {})
        assert call(kind, "DEL", {**conf, "prevResult": []}, "") == (0, {})
