"""The configuration of `portmap`, its errors, and the cost of a call without ports."""

import io
import json
import subprocess
import sys
from socket import inet_pton

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.portmap import PLUGIN
from plugins.portmap.conf import Mapping, PortmapConf, mappings_if_valid, parse
from plugins.portmap.forwards import forwards_to, pod_addresses
from rules.conditions.condition import combined
from rules.conditions.parsing import parse as parse_conditions
from spec.config import Section
from spec.errors import CNIError
from spec.plugin import serve
from spec.result import Interface, IPConfig, Result
from tests.conftest import ROOT

HTTP = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}
PREV = {"cniVersion": "1.1.0", "interfaces": [{"name": "veth0"}], "ips": [{"address": "10.1.2.2/24"}]}


def conf(*ports: object, **keys: object) -> PortmapConf:
    """The parsed configuration with these ports and keys."""
    return parse(Section({"runtimeConfig": {"portMappings": list(ports)}, **keys}))


def refusal(*ports: object, **keys: object) -> str:
    """The message of the error 7 that these ports and keys raise."""
    with pytest.raises(CNIError) as caught:
        conf(*ports, **keys)
    assert caught.value.code == 7
    return caught.value.msg


def test_defaults() -> None:
    """Without keys: no ports, masquerading on."""
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
    """hostIP limits a port to one address or to one IP version."""
    assert conf({**HTTP, "hostIP": host_ip}).mappings == (Mapping(host, versions, 6, 8080, 80),)


@pytest.mark.parametrize(("name", "number"), [("tcp", 6), ("UDP", 17), ("Sctp", 132)])
def test_protocols(name: str, number: int) -> None:
    """Names match in any case."""
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
def test_errors_of_a_port(wrong: dict, said: str) -> None:
    """Each has the key, the value, and the allowed values; a DEL ignores the ports then."""
    assert said in refusal({**HTTP, **wrong})
    assert mappings_if_valid(Section({"runtimeConfig": {"portMappings": [{**HTTP, **wrong}]}})) == ()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"backend": "zz"}, '"backend": expected one of "", "iptables", "nftables", got "zz"'),
        ({"markMasqBit": 32}, "an integer of 0 to 31"),
        ({"markMasqBit": 5, "externalSetMarkChain": "X"}, "Cannot specify externalSetMarkChain and markMasqBit"),
        ({"snat": "true"}, "expected true or false"),
        ({"conditionsV4": "-s 10.0.0.0/8"}, "expected a list of strings"),
    ],
)
def test_errors_of_other_keys(keys: dict, said: str) -> None:
    """The keys at the top are checked with or without ports."""
    assert said in refusal(**keys)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"conditionsV4": ["-s", "2001:db8::1"]}, '"conditionsV4": expected matches of nft (ip, '),
        ({"conditionsV6": ["-m", "set", "--match-set", "x", "src"]}, "not understood: -m set, got"),
        ({"conditionsV6": ["ip6", "saddr", "@x"]}, "not understood: ip6 saddr @x, got"),
    ],
)
def test_errors_of_conditions(keys: dict, said: str) -> None:
    """Conditions that cannot be expressed are an error if there are ports, and ignored otherwise."""
    assert said in refusal(HTTP, **keys)
    assert conf(**keys).mappings == ()
    assert call("ADD", prevResult=PREV, **keys) == PREV
    for verb in ("CHECK", "DEL"):
        assert call(verb, prevResult=PREV, **keys) is None


def test_keys_without_effect() -> None:
    """The keys of the reference's backends are accepted."""
    for keys in ({"backend": "iptables"}, {"backend": "nftables"}, {"markMasqBit": 0}, {"externalSetMarkChain": "X"}):
        assert conf(HTTP, **keys) == conf(HTTP)


def test_equal_ports_are_merged_and_conflicting_ones_refused() -> None:
    """A host port is forwarded to one container port; the same mapping twice is one."""
    assert conf(HTTP, HTTP) == conf(HTTP)
    assert "is not already forwarded to containerPort 80" in refusal(HTTP, {**HTTP, "containerPort": 81})
    assert "is not already forwarded to" in refusal(HTTP, {**HTTP, "containerPort": 81, "hostIP": "::"})
    assert len(conf(HTTP, {**HTTP, "containerPort": 81, "hostIP": "192.0.2.1"}).mappings) == 2
    assert len(conf(HTTP, {**HTTP, "containerPort": 81, "protocol": "udp"}).mappings) == 2


class Asking:
    """The part of a request that `pod_addresses` reads."""

    ifname = "eth0"


def test_the_first_address_of_the_pod_s_interface_is_used() -> None:
    """Of each IP version; addresses of the bridge or another interface are skipped, one without an interface is not."""
    links = (Interface("br0"), Interface("eth0", sandbox="/ns"), Interface("eth1", sandbox="/ns"), Interface("eth0"))
    places = [("10.0.0.1/8", 0), ("10.0.0.3/8", 2), ("10.0.0.4/8", 3), ("10.0.0.2/8", 1), ("10.0.0.5/8", None)]
    found = pod_addresses(Asking(), Result(links, tuple(IPConfig(a, interface=i) for a, i in places)))
    assert {version: address.cidr for version, address in found.items()} == {4: "10.0.0.2/8"}
    found = pod_addresses(Asking(), Result((), (IPConfig("fd00::5/64"), IPConfig("10.0.0.5/8"))))
    assert {version: address.cidr for version, address in found.items()} == {4: "10.0.0.5/8", 6: "fd00::5/64"}
    assert [str(one) for one in forwards_to(found, conf(HTTP).mappings)] == ["*:8080/tcp", "*:8080/tcp"]
    assert forwards_to({4: found[4]}, conf({**HTTP, "hostIP": "::"}).mappings) == ()


# -- conditions -----------------------------------------------------------------------------------------------------

CONDITIONS = [
    # as users write them: podman, MicroK8s, cni.dev, issues of the reference
    (["ip", "daddr", "!=", "{ 127.0.0.0/8, 198.19.254.254 }"], ["ip daddr != 127.0.0.0/8, 198.19.254.254"]),
    (["-m", "addrtype", "--src-type", "LOCAL"], ["fib saddr type 2"]),
    (["!", "-d", "192.0.2.0/24"], ["ip daddr != 192.0.2.0/24"]),
    (["-s", "192.0.2.7/24"], ["ip saddr 192.0.2.0/24"]),
    (["! -d 192.0.2.1", "-i", "eth+"], ["ip daddr != 192.0.2.1", "meta iifname eth*"]),
    (["--source", "10.0.0.0/255.0.0.0", "!", "--in-interface", "x"], ["ip saddr 10.0.0.0/8", "meta iifname != x"]),
    (["-s", "10.0.0.1,10.0.0.2"], ["ip saddr 10.0.0.1, 10.0.0.2"]),
    (["-m", "comment", "--comment", "not -s for all", "-p", "tcp"], ["meta l4proto 6"]),
    (['-m comment --comment "a b" -s 10.0.0.1'], ["ip saddr 10.0.0.1"]),
    (["-p", "all", "-m", "pkttype", "--pkt-type", "unicast"], ["pkttype 0"]),
    (["-m", "addrtype", "!", "--dst-type", "LOCAL,BROADCAST"], ["fib daddr type != 2, 3"]),
    (["-m", "conntrack", "--ctstate", "NEW,RELATED"], ["ct state any 8, 4"]),
    (["-m", "conntrack", "!", "--ctstate", "DNAT"], ["ct status any != 32"]),
    (["-m", "conntrack", "--ctstatus", "SEEN_REPLY", "--ctdir", "ORIGINAL"], ["ct status any 2", "ct direction 0"]),
    (["-m", "state", "--state", "NEW"], ["ct state any 8"]),
    (["-m", "mark", "!", "--mark", "0x4000/0x4000"], ["meta mark & 0x4000 != 16384"]),
    (["-m", "connmark", "--mark", "7"], ["ct mark 7"]),
    (["-m", "iprange", "--src-range", "10.0.0.1-10.0.0.9"], ["ip saddr 10.0.0.1-10.0.0.9"]),
    (["-p", "tcp", "-m", "tcp", "!", "--sport", "1000:2000", "--syn"],
     ["meta l4proto 6", "tcp sport != 1000-2000", "tcp flags & 0x17 2"]),
    (["-m", "multiport", "--dports", "80,8000:"], ["th dport 80, 8000-65535"]),
    (["-m", "mac", "--mac-source", "0A:00:00:00:00:01"], ["ether saddr 0a:00:00:00:00:01"]),
    (["-m", "owner", "--uid-owner", "0"], ["skuid 0"]),
    (["ip", "saddr", "192.0.2.0/24"], ["ip saddr 192.0.2.0/24"]),
    (["ip saddr != 10.0.0.0/8 ip daddr == 10.0.0.9"], ["ip saddr != 10.0.0.0/8", "ip daddr 10.0.0.9"]),
    (["ip saddr 10.0.0.1-10.0.0.9 ip protocol tcp"], ["ip saddr 10.0.0.1-10.0.0.9", "ip protocol 6"]),
    (["ip", "saddr", "{", "10.0.0.1,", "10.0.0.4/30,", "10.0.0.9 - 10.0.0.12,", "}"],
     ["ip saddr 10.0.0.1, 10.0.0.4/30, 10.0.0.9-10.0.0.12"]),
    (['iifname != "wan*"'], ["iifname != wan*"]),
    (["meta", "iifname", "{ eth0, eth1 }"], ["meta iifname eth0, eth1"]),
    (["iif", "lo", "meta", "nfproto", "ipv4"], ["iif lo", "meta nfproto 2"]),
    (["tcp sport >= 1024 th dport < 100"], ["tcp sport 1024-65535", "th dport 0-99"]),
    (["meta l4proto { tcp, udp }", "meta mark and 0xff != 0x1"], ["meta l4proto 6, 17", "meta mark & 0xff != 1"]),
    (["ct state new,established ct status != dnat"], ["ct state any 8, 2", "ct status != 32"]),
    (["tcp flags & (fin|syn|rst|ack) == syn"], ["tcp flags & 0x17 2"]),
    (["fib saddr type local fib daddr type != { local, broadcast }"],
     ["fib saddr type 2", "fib daddr type != 2, 3"]),
    (["ether saddr 0a:00:00:00:00:01", "meta skuid root"], ["ether saddr 0a:00:00:00:00:01", "meta skuid 0"]),
    ([], []),
]  # fmt: skip


@pytest.mark.parametrize(("words", "expected"), CONDITIONS)
def test_conditions(words: list[str], expected: list[str]) -> None:
    """In the syntax of iptables or of nft, as one string or several."""
    assert [one.text for one in parse_conditions(words, 4)] == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ip6", "daddr", "!=", "{ ::1, fd00::/8 }"], ["ip6 daddr != ::1, fd00::/8"]),
        (["!", "-s", "fd00::1/64", "-m", "iprange", "--dst-range", "fd00::1-fd00::9"],
         ["ip6 saddr != fd00::/64", "ip6 daddr fd00::1-fd00::9"]),
        (["ip6 nexthdr udp ip6 hoplimit 64"], ["ip6 nexthdr 17", "ip6 hoplimit 64"]),
    ],
)  # fmt: skip
def test_conditions_of_ipv6(words: list[str], expected: list[str]) -> None:
    """The same for IPv6."""
    assert [one.text for one in parse_conditions(words, 6)] == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-p", "nosuch"], "-p nosuch"),
        (["!", "-s"], "! -s"),
        (["!"], "!"),
        (["-m", "set", "--match-set", "x", "src"], "-m set"),
        (["-m", "physdev", "--physdev-in", "eth0"], "-m physdev"),
        (["!", "-m", "comment"], "! -m comment"),
        (["-j", "ACCEPT"], "-j ACCEPT"),
        (["-i", "eth*"], "-i eth*"),
        (["-m", "conntrack", "--ctstate", "NEW,DNAT"], "--ctstate NEW,DNAT"),
        (["-m", "mark", "--mark", "0x100000000"], "--mark 0x100000000"),
        (["--dst-range", "10.0.0.9-10.0.0.1"], "--dst-range 10.0.0.9-10.0.0.1"),
        (["--dport", "70000"], "--dport 70000"),
        (["ip6", "saddr", "::1"], "ip6 saddr"),
        (["ip", "saddr", "@blocked"], "ip saddr @blocked"),
        (["ip saddr { 10.0.0.1, accept }"], "ip saddr { 10.0.0.1 , accept"),
        (["ip saddr { 10.0.0.1"], "ip saddr { 10.0.0.1"),
        (["ip saddr !="], "ip saddr !="),
        (["iifname", "a-name-of-sixteen"], "iifname a-name-of-sixteen"),
        (["iifname"], "iifname"),
        (["tcp", "dport", "< 0"], "tcp dport < 0"),
        (["counter", "accept"], "counter accept"),
        (["meta mark & (1 2)"], "meta mark & ( 1 2"),
        (["fib daddr . iif type local"], "fib daddr"),
        (["-m", "addrtype", "--dst-type", "LOCAL", "--limit-iface-in"], "--limit-iface-in"),
        (["-s", "10.0.0.0/33"], "-s 10.0.0.0/33"),
        (["-s", "10.0.0.0/255.0.255.0"], "-s 10.0.0.0/255.0.255.0"),
        (['-m comment --comment "open'], "No closing quotation"),
        (["ip saddr {", ",".join(f"10.0.0.{n}" for n in range(64)), "} th sport {", ",".join(map(str, range(64))), "}"],
         "sets that need 4096 rules (at most 1024)"),
    ],
)  # fmt: skip
def test_unsupported_conditions(words: list[str], said: str) -> None:
    """The error has the words that were not understood."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared)
        parse_conditions(words, 4)
    assert str(caught.value) == said


WORDS = ["!", "-s", "-d", "-i", "-m", "-p", "mark", "--mark", "--ctstate", "NEW", "--dport", "1:2", "addrtype", "local",
         "--src-type", "ip", "ip6", "tcp", "sport", "flags", "ct", "state", "new", "meta", "fib", "saddr", "daddr", ".",
         "iif", "type", "iifname", "!=", "==", "<", "&", "{", "}", ",", "-", "(", ")", "|", "1", "0-3", "10.0.0.0/8",
         "::1", "eth+", "/", '"', "'", "@x", "\x00", "é"]  # fmt: skip


@given(st.lists(st.sampled_from(WORDS), max_size=12))
def test_conditions_are_parsed_or_a_value_error(words: list[str]) -> None:
    """Any words give conditions that can be turned into expressions of that IP version, or raise ValueError."""
    for version in (4, 6):
        try:
            found = parse_conditions(words, version)
        except ValueError:
            continue
        assert all(combined(found)) or not found
        assert all(not condition.negated or "!=" in condition.text for condition in found)


# -- without ports --------------------------------------------------------------------------------------------------


def call(verb: str, **keys: object) -> dict | None:
    """The document that a call prints, on a machine without the namespace and the pod."""
    stdin = json.dumps({"cniVersion": "1.1.0", "name": "net", "type": "portmap", **keys}).encode()
    environ = {"CNI_COMMAND": verb, "CNI_CONTAINERID": "pod", "CNI_IFNAME": "eth0", "CNI_PATH": "/nowhere"}
    environ["CNI_NETNS"] = "/nowhere/pod"
    out = io.BytesIO()
    serve(PLUGIN, environ=environ, stdin=io.BytesIO(stdin), stdout=out, stderr=io.StringIO())
    return json.loads(out.getvalue()) if out.getvalue() else None


def test_without_ports() -> None:
    """ADD passes the previous result on, CHECK succeeds; without a previous result both fail."""
    assert call("ADD", prevResult=PREV) == PREV
    assert call("CHECK", prevResult=PREV) is None
    assert call("ADD")["msg"] == "must be called as chained plugin"
    assert call("CHECK")["msg"] == "Required prevResult missing"


def test_without_ports_no_netlink_is_imported() -> None:
    """A cold ADD of a pod without ports loads neither netlink nor nftables modules."""
    code = (
        "import io, sys; from spec.plugin import serve; from plugins.__main__ import load\n"
        "env = dict(CNI_COMMAND='ADD', CNI_CONTAINERID='p', CNI_NETNS='/x', CNI_IFNAME='eth0', CNI_PATH='/x')\n"
        f"conf = io.BytesIO(b'''{json.dumps({'cniVersion': '1.1.0', 'name': 'n', 'prevResult': PREV})}''')\n"
        "assert serve(load('portmap'), environ=env, stdin=conf, stdout=io.BytesIO(), stderr=sys.stderr) == 0\n"
        "print([name for name in sys.modules if name.startswith(('pyroute2', 'linux', 'netaddr'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
