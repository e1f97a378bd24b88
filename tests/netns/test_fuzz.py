"""Arbitrary bytes on stdin and in the environment: never a traceback, a false success or a leftover."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from subprocess import PIPE

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.conformance.support import DUAL, host_local, network, traces
from tests.netns.cni import CNI, one_document
from tests.netns.node import Node, Pod

EXAMPLES = 60  # each starts one or two processes
bounded = settings(max_examples=EXAMPLES)
plugins = st.sampled_from(["bridge", "host-local"])
verbs = st.sampled_from(["ADD", "DEL", "CHECK", "GC", "STATUS"])
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | st.text(max_size=20)
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
# What an environment variable can hold: anything but NUL.
values = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
CONF = network(host_local(routes=[{"dst": "10.9.0.0/16", "mtu": 1300}]), ipMasq=True, macspoofchk=True, mtu=1400,
               vlanTrunk=None, runtimeConfig={"mac": "c2:b0:57:49:47:f1", "ips": ["10.1.2.9"]}, dns={"search": ["a"]},
               args={"cni": {"ips": []}}, hairpinMode=False, forceAddress=False, enabledad=False)  # fmt: skip


@pytest.fixture(scope="module")
def world(bin_dir: Path) -> Iterator[tuple[CNI, Pod]]:
    """One node for all examples: none may leave anything behind, so they are independent."""
    node = Node()
    try:
        yield CNI(node, bin_dir), node.pod("poda")
    finally:
        node.close()


def refused(cni: CNI, plugin: str, env: Mapping[str, str], stdin: bytes) -> bool:
    """Whether the call failed; in either case its output is well-formed, and stderr has no traceback."""
    process = cni.node.start([cni.folder / plugin], env=env, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    stdout, stderr = process.communicate(stdin)
    assert process.returncode in (0, 1)
    assert b"Traceback" not in stdout + stderr
    if process.returncode:
        error = one_document(stdout.decode())
        assert error["code"] > 0
        assert error["msg"]
    elif stdout:
        assert "code" not in one_document(stdout.decode())
    return process.returncode != 0


@bounded
@given(plugin=plugins, verb=verbs, stdin=st.binary(max_size=200) | documents.map(lambda d: json.dumps(d).encode()))
@example(plugin="bridge", verb="ADD", stdin=b"\xff\xfe{}")
@example(plugin="bridge", verb="DEL", stdin=b"[" * 100_000)
@example(plugin="host-local", verb="ADD", stdin=b'{"name": "net", "cniVersion": "1.1.0", "mtu": ' + b"9" * 5000 + b"}")
def test_arbitrary_stdin(world: tuple[CNI, Pod], plugin: str, verb: str, stdin: bytes) -> None:
    """Input that is not a network configuration is refused, and nothing is created."""
    cni, pod = world
    before = traces(cni.node, pod)
    assert refused(cni, plugin, cni.environ(verb, pod), stdin)
    assert traces(cni.node, pod) == before


@bounded
@given(plugin=plugins, name=st.sampled_from(["COMMAND", "CONTAINERID", "IFNAME", "NETNS", "ARGS"]), value=values)
@example(plugin="bridge", name="ARGS", value="IP=\u0660.1.2.3")
@example(plugin="bridge", name="IFNAME", value="eth0\n")
def test_arbitrary_variables(world: tuple[CNI, Pod], plugin: str, name: str, value: str) -> None:
    """A CNI variable with arbitrary text is refused, or accepted by an ADD whose DEL removes everything."""
    cni, pod = world
    before = traces(cni.node, pod)
    env = cni.environ("ADD", pod) | {f"CNI_{name}": value}
    if not refused(cni, plugin, env, json.dumps(CONF).encode()):
        assert name in ("CONTAINERID", "IFNAME", "ARGS", "NETNS") or value == ""
        assert not refused(cni, plugin, env | {"CNI_COMMAND": "DEL"}, json.dumps(CONF).encode())
        cni.node.run(["ip", "link", "del", "br0"], check=False)  # the network's bridge, which DEL keeps
    assert traces(cni.node, pod) == before


def places(value: object) -> list[tuple]:
    """The paths to all values nested in a JSON value, except itself."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in pairs for place in [(key,), *((key, *rest) for rest in places(inner))]]


def mutated(conf: dict, place: tuple, value: object) -> dict:
    """A copy of the configuration with the value at `place` replaced."""
    copy = json.loads(json.dumps(conf))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return copy


@bounded
@given(verb=verbs, place=st.sampled_from(places(CONF)), value=documents)
def test_arbitrary_values(world: tuple[CNI, Pod], verb: str, place: tuple, value: object) -> None:
    """One value of a valid configuration is replaced: the call is refused, or ADD and DEL succeed and leave nothing."""
    cni, pod = world
    before = traces(cni.node, pod)
    conf = mutated(CONF, place, value)
    if not refused(cni, "bridge", cni.environ(verb, pod), json.dumps(conf).encode()) and verb == "ADD":
        assert not refused(cni, "bridge", cni.environ("DEL", pod), json.dumps(conf).encode())
        for name in set(cni.node.links()) - {"lo"}:
            cni.node.run(["ip", "link", "del", name])  # the bridge, which DEL keeps
    assert traces(cni.node, pod) == before


@bounded
@given(verb=st.sampled_from(["CHECK", "DEL"]), place=st.sampled_from(places({"prevResult": 0})), value=documents)
def test_arbitrary_results(world: tuple[CNI, Pod], verb: str, place: tuple, value: object) -> None:
    """With one value of prevResult replaced, CHECK never passes and DEL never fails."""
    cni, pod = world
    conf = mutated(network(DUAL), place, value)
    assert refused(cni, "bridge", cni.environ(verb, pod), json.dumps(conf).encode()) is (verb == "CHECK")
