"""What `portmap` reads of its configuration, and how it refuses the rest; what it costs where there are no ports."""

import io
import json
import subprocess
import sys
from socket import inet_pton

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linux.packet_conditions import Condition
from linux.packet_conditions import parse as parse_conditions
from plugins.portmap import PLUGIN
from plugins.ports.conf import Mapping, PortmapConf, mappings_if_readable, parse
from plugins.ports.wish import forwards, pod_addresses
from spec.config import Section
from spec.errors import CNIError
from spec.plugin import serve
from spec.result import Interface, IPConfig, Result
from tests.conftest import ROOT

HTTP = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}
PREV = {"cniVersion": "1.1.0", "interfaces": [{"name": "veth0"}], "ips": [{"address": "10.1.2.2/24"}]}


def conf(*ports: object, **keys: object) -> PortmapConf:
    """What these ports and keys are read as."""
    return parse(Section({"runtimeConfig": {"portMappings": list(ports)}, **keys}))


def refusal(*ports: object, **keys: object) -> str:
    """The message of the error 7 with which they are refused."""
    with pytest.raises(CNIError) as caught:
        conf(*ports, **keys)
    assert caught.value.code == 7
    return caught.value.msg


def test_defaults() -> None:
    """Nothing given: no ports, masquerading on."""
    assert parse(Section({})) == PortmapConf((), {4: (), 6: ()}, snat=True, masquerade_all=False)


@pytest.mark.parametrize(
    ("host_ip", "host", "versions"),
    [
        (None, b"", (4, 6)),
        ("", b"", (4, 6)),
        ("0.0.0.0", b"", (4,)),
        ("::", b"", (6,)),
        ("192.0.2.1", bytes([192, 0, 2, 1]), (4,)),
        ("2001:db8::1", inet_pton(10, "2001:db8::1"), (6,)),
        ("::ffff:192.0.2.1", bytes([192, 0, 2, 1]), (4,)),
    ],
)
def test_host_ip(host_ip: str | None, host: bytes, versions: tuple[int, ...]) -> None:
    """hostIP limits a port to an address, or to an IP version."""
    assert conf({**HTTP, "hostIP": host_ip}).mappings == (Mapping(host, versions, 6, 8080, 80),)


@pytest.mark.parametrize(("name", "number"), [("tcp", 6), ("UDP", 17), ("Sctp", 132)])
def test_protocols(name: str, number: int) -> None:
    """In any case of letters."""
    assert conf({**HTTP, "protocol": name}).mappings[0].protocol == number


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"hostPort": 0}, 'portMappings[0].hostPort": expected an integer of 1 to 65535, got 0'),
        ({"hostPort": 65536}, "got 65536"),
        ({"hostPort": None}, "got nothing"),
        ({"hostPort": "80"}, 'got "80"'),
        ({"containerPort": -1}, 'containerPort": expected an integer of 1 to 65535, got -1'),
        ({"containerPort": None}, "got nothing"),
        ({"protocol": None}, 'protocol": expected one of "tcp", "udp", "sctp", got nothing'),
        ({"protocol": ""}, 'got ""'),
        ({"protocol": "icmp"}, 'got "icmp"'),
        ({"hostIP": "localhost"}, 'hostIP": expected an IP address, got "localhost"'),
        ({"hostIP": "192.0.2.1/32"}, "expected an IP address"),
        ({"hostIP": "192.0.2.01"}, "expected an IP address"),
        ({"hostIP": "fe80::1%eth0"}, "expected an IP address"),
        ({"hostIP": 7}, "expected a string"),
    ],
)
def test_wrong_ports(wrong: dict, said: str) -> None:
    """Each error names key, value and what would do; a DEL reads no ports then."""
    assert said in refusal({**HTTP, **wrong})
    assert mappings_if_readable(Section({"runtimeConfig": {"portMappings": [{**HTTP, **wrong}]}})) == ()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"backend": "zz"}, '"backend": expected one of "", "iptables", "nftables", got "zz"'),
        ({"markMasqBit": 32}, "an integer of 0 to 31"),
        ({"markMasqBit": 5, "externalSetMarkChain": "X"}, "Cannot specify externalSetMarkChain and markMasqBit"),
        ({"snat": "true"}, "expected true or false"),
        ({"conditionsV4": "-s 10.0.0.0/8"}, "expected a list of strings"),
        ({"conditionsV4": ["-s", "2001:db8::1"]}, '"conditionsV4": expected `ip saddr'),
        ({"conditionsV6": ["-p", "tcp"]}, "not understood: -p tcp"),
    ],
)
def test_wrong_keys(keys: dict, said: str) -> None:
    """The same of the keys at the top, whether or not there are ports."""
    assert said in refusal(**keys)


def test_keys_without_effect() -> None:
    """What the reference's backends know is taken."""
    for keys in ({"backend": "iptables"}, {"backend": "nftables"}, {"markMasqBit": 0}, {"externalSetMarkChain": "X"}):
        assert conf(HTTP, **keys) == conf(HTTP)


def test_equal_ports_are_one_and_unequal_ones_an_error() -> None:
    """A port leads to one place; said twice, it is said once."""
    assert conf(HTTP, HTTP) == conf(HTTP)
    assert "does not lead to containerPort 80 already" in refusal(HTTP, {**HTTP, "containerPort": 81})
    assert "does not lead to" in refusal(HTTP, {**HTTP, "containerPort": 81, "hostIP": "::"})
    assert len(conf(HTTP, {**HTTP, "containerPort": 81, "hostIP": "192.0.2.1"}).mappings) == 2
    assert len(conf(HTTP, {**HTTP, "containerPort": 81, "protocol": "udp"}).mappings) == 2


class Asking:
    """Of a request, what pod_addresses looks at."""

    ifname = "eth0"


def test_the_first_address_of_the_pods_interface_counts() -> None:
    """Of each version; not that of the bridge, nor of another interface; one without an interface does."""
    links = (Interface("br0"), Interface("eth0", sandbox="/ns"), Interface("eth1", sandbox="/ns"), Interface("eth0"))
    places = [("10.0.0.1/8", 0), ("10.0.0.3/8", 2), ("10.0.0.4/8", 3), ("10.0.0.2/8", 1), ("10.0.0.5/8", None)]
    found = pod_addresses(Asking(), Result(links, tuple(IPConfig(a, interface=i) for a, i in places)))
    assert {version: address.cidr for version, address in found.items()} == {4: "10.0.0.2/8"}
    found = pod_addresses(Asking(), Result((), (IPConfig("fd00::5/64"), IPConfig("10.0.0.5/8"))))
    assert {version: address.cidr for version, address in found.items()} == {4: "10.0.0.5/8", 6: "fd00::5/64"}
    assert [str(one) for one in forwards(conf(HTTP).mappings, found)] == ["*:8080/tcp", "*:8080/tcp"]
    assert forwards(conf({**HTTP, "hostIP": "::"}).mappings, {4: found[4]}) == ()


# -- conditions -----------------------------------------------------------------------------------------------------

CONDITIONS = [
    (["-s", "192.0.2.7/24"], [("saddr", "192.0.2.0/24", False)]),
    (["!", "-s", "192.0.2.0/24"], [("saddr", "192.0.2.0/24", True)]),
    (["! -d 192.0.2.1", "-i", "eth+"], [("daddr", "192.0.2.1/32", True), ("iifname", "eth*", False)]),
    (["--source", "10.0.0.0/8", "!", "--in-interface", "x"], [("saddr", "10.0.0.0/8", False), ("iifname", "x", True)]),
    (["ip", "saddr", "192.0.2.0/24"], [("saddr", "192.0.2.0/24", False)]),
    (["ip saddr != 10.0.0.0/8 ip daddr == 10.0.0.9"], [("saddr", "10.0.0.0/8", True), ("daddr", "10.0.0.9/32", False)]),
    (['iifname != "wan*"'], [("iifname", "wan*", True)]),
    ([], []),
]  # fmt: skip


@pytest.mark.parametrize(("words", "expected"), CONDITIONS)
def test_conditions(words: list[str], expected: list[tuple]) -> None:
    """Both languages, in one string or many."""
    assert parse_conditions(words, 4) == tuple(Condition(*one) for one in expected)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-p", "tcp"], "-p tcp"),
        (["!", "-s"], "saddr "),
        (["!"], "!"),
        (["-m", "comment", "--comment", "x"], "-m comment"),
        (["-s", "10.0.0.1,10.0.0.2"], "saddr 10.0.0.1,10.0.0.2"),
        (["tcp", "dport", "80"], "tcp dport"),
        (["ip6", "saddr", "::1"], "ip6 saddr"),
        (["ip", "ttl", "5"], "ip ttl 5"),
        (["ip", "saddr", "{", "10.0.0.1", "}"], "saddr {"),
        (["iifname", "a-name-of-sixteen"], "iifname a-name-of-sixteen"),
        (["iifname"], "iifname "),
        (["-s", "10.0.0.0/33"], "saddr 10.0.0.0/33"),
    ],
)
def test_conditions_not_understood(words: list[str], said: str) -> None:
    """The words that were not understood are named."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared)
        parse_conditions(words, 4)
    assert str(caught.value) == said


WORDS = ["!", "-s", "-d", "-i", "ip", "ip6", "saddr", "daddr", "iifname", "!=", "==", "10.0.0.0/8", "::1", "eth+", "/"]


@given(st.lists(st.sampled_from(WORDS)))
def test_conditions_never_surprise(words: list[str]) -> None:
    """Whatever the words: conditions of that version, which can be made into expressions, or a ValueError."""
    for version in (4, 6):
        try:
            found = parse_conditions(words, version)
        except ValueError:
            continue
        for condition in found:
            assert condition.expressions(version)
            assert not condition.negated or "!=" in condition.text


# -- without ports --------------------------------------------------------------------------------------------------


def call(verb: str, **keys: object) -> dict | None:
    """What a call answers, on a machine that has neither the namespace nor the pod."""
    stdin = json.dumps({"cniVersion": "1.1.0", "name": "net", "type": "portmap", **keys}).encode()
    environ = {"CNI_COMMAND": verb, "CNI_CONTAINERID": "pod", "CNI_IFNAME": "eth0", "CNI_PATH": "/nowhere"}
    environ["CNI_NETNS"] = "/nowhere/pod"
    out = io.BytesIO()
    serve(PLUGIN, environ=environ, stdin=io.BytesIO(stdin), stdout=out, stderr=io.StringIO())
    return json.loads(out.getvalue()) if out.getvalue() else None


def test_without_ports() -> None:
    """The result is passed on; without one there is nothing to pass on, which is an error."""
    assert call("ADD", prevResult=PREV) == PREV
    assert call("CHECK", prevResult=PREV) is None
    assert call("ADD")["msg"] == "must be called as chained plugin"
    assert call("CHECK")["msg"] == "Required prevResult missing"


def test_without_ports_nothing_heavy_is_imported() -> None:
    """A cold ADD of a pod without ports costs no netlink and no nftables."""
    code = (
        "import io, sys; from spec.plugin import serve; from plugins.__main__ import load\n"
        "env = dict(CNI_COMMAND='ADD', CNI_CONTAINERID='p', CNI_NETNS='/x', CNI_IFNAME='eth0', CNI_PATH='/x')\n"
        f"conf = io.BytesIO(b'''{json.dumps({'cniVersion': '1.1.0', 'name': 'n', 'prevResult': PREV})}''')\n"
        "assert serve(load('portmap'), environ=env, stdin=conf, stdout=io.BytesIO(), stderr=sys.stderr) == 0\n"
        "print([name for name in sys.modules if name.startswith(('pyroute2', 'linux', 'netaddr'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
