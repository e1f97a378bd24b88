"""`portmap` on a node: the rules it writes, the owner of each port, and cleanup."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import ROOT
from tests.netns.cni import CNI, PATH, CNIFailure, with_prev
from tests.netns.nft_tools import chain, nft, table
from tests.netns.node import NODE_V4, NODE_V6, OUTSIDE_V4, Node, Pod, ask
from tests.netns.published import HTTP, POD_V4, POD_V6, TABLE, Member, port, portmap


@pytest.fixture
def outside(node: Node) -> Pod:
    """The external host; created first, which gives the node its addresses."""
    return node.outside()


@pytest.fixture
def pod(cni: CNI, outside: Pod) -> Member:
    """A pod with 10.1.2.2 and fd00:1::2, whose gateway answers."""
    made = Member(cni, "poda")
    assert made.pod.reaches("fd00:1::1", timeout=15)
    return made


@pytest.fixture
def other(cni: CNI, pod: Member) -> Member:
    """A second pod, 10.1.2.3 and fd00:1::3."""
    made = Member(cni, "podb")
    assert made.pod.reaches("fd00:1::1", timeout=15)
    return made


# -- rules ----------------------------------------------------------------------------------------------------------

OWNER = 'comment "v1:net:poda:eth0"'


def test_golden_table(pod: Member) -> None:
    """`nft list table` after an ADD, in full; `nft -f` restores exactly the same."""
    pod.add(HTTP, port(8053, 53, "udp", NODE_V4), port(8132, 132, "SCTP", "::"))
    text = table(pod.node, TABLE)
    for line in (
        f"tcp . 8080 {OWNER} : {POD_V4} . 80",
        f"{NODE_V4} . udp . 8053 {OWNER} : {POD_V4} . 53",
        f"tcp . 8080 {OWNER} : {POD_V6} . 80",
        f"sctp . 8132 {OWNER} : {POD_V6} . 132",
        f"{POD_V4} . tcp . 80 . 8080 {OWNER} : goto from-10.1.2.0/24",
        f"{POD_V6} . tcp . 80 . 8080 {OWNER} : goto from-fd00_1__/64",
    ):
        assert text.count(line) == 1, f"{line} not in\n{text}"
    assert text.count(OWNER) == 8
    assert {name: chain(text, name) for name in GOLDEN_CHAINS} == GOLDEN_CHAINS
    hooks = [line.strip() for line in text.splitlines() if "hook" in line]
    assert hooks == [
        "type filter hook prerouting priority raw; policy accept;",
        "type nat hook prerouting priority dstnat + 5; policy accept;",
        "type nat hook output priority -95; policy accept;",
        "type nat hook postrouting priority srcnat; policy accept;",
    ]
    nft(pod.node, "-f", "-", stdin=f"flush ruleset\n{pod.node.ruleset()}")
    assert table(pod.node, TABLE) == text
    pod.check(HTTP, port(8053, 53, "udp", NODE_V4), port(8132, 132, "sctp", "::"))


GOLDEN_CHAINS = {
    "prerouting": ['fib daddr type local goto to-the-node comment "to the node"'],
    "output": ['fib daddr type local goto to-the-node comment "to the node"'],
    "to-the-node": [
        'ip daddr @services4 return comment "services v4"',
        'ip6 daddr @services6 return comment "services v6"',
        'meta nfproto ipv4 meta mark & 0x00001000 == 0x00000000 return comment "iptables has v4"',
        'meta nfproto ipv6 meta mark & 0x00001000 == 0x00000000 return comment "iptables has v6"',
        'meta mark set meta mark & 0xffffefff comment "the mark has served"',
        'goto hostports comment "host ports"',
    ],
    "hostports": [
        'ip daddr . meta l4proto . th dport vmap @conditional_hosts4 comment "conditions v4"',
        'ip6 daddr . meta l4proto . th dport vmap @conditional_hosts6 comment "conditions v6"',
        'goto exact comment "without conditions"',
    ],
    "exact": [
        'dnat ip to ip daddr . meta l4proto . th dport map @hosts4 comment "forward v4"',
        'dnat ip6 to ip6 daddr . meta l4proto . th dport map @hosts6 comment "forward v6"',
        'goto wildcard comment "any address"',
    ],
    "wildcard": [
        'meta nfproto ipv4 meta l4proto . th dport vmap @conditional_ports4 comment "conditions v4"',
        'meta nfproto ipv6 meta l4proto . th dport vmap @conditional_ports6 comment "conditions v6"',
        'goto any comment "without conditions"',
    ],
    "any": [
        'dnat ip to meta l4proto . th dport map @ports4 comment "forward v4"',
        'dnat ip6 to meta l4proto . th dport map @ports6 comment "forward v6"',
    ],
    "postrouting": ['ct status dnat goto answers comment "sent on"'],
    "answers": [
        f'{ip} daddr . meta l4proto . {name} dport . ct original proto-dst vmap @answers{v} comment "{name} v{v}"'
        for name in ("tcp", "udp", "sctp")
        for ip, v in (("ip", 4), ("ip6", 6))
    ],
    "from-10.1.2.0/24": [
        'ip saddr 10.1.2.0/24 masquerade comment "own subnet"',
        'ip saddr 127.0.0.0/8 masquerade comment "the node itself"',
    ],
    "from-fd00_1__/64": ['ip6 saddr fd00:1::/64 masquerade comment "own subnet"'],
    "loopback": [
        'iifname != "lo" ip saddr 127.0.0.0/8 drop comment "from loopback"',
        'iifname != "lo" ip daddr 127.0.0.0/8 drop comment "to loopback"',
    ],
}


def test_without_ports_the_ruleset_is_unchanged(pod: Member) -> None:
    """ADD only passes the result on."""
    before = pod.node.ruleset()
    assert pod.add() == pod.result
    assert pod.node.ruleset() == before


def test_a_repeated_add_replaces_the_ports(pod: Member) -> None:
    """Only the ports of the second ADD remain; repeating it changes nothing."""
    pod.add(HTTP, port(8081, 81), conditionsV4=["-s", "10.0.0.0/8"])
    pod.add(port(8080, 8000), port(8082, 82))
    text = table(pod.node, TABLE)
    assert "8081" not in text
    assert "-if-" not in text
    assert f"tcp . 8080 {OWNER} : {POD_V4} . 8000" in text
    generation = nft(pod.node, "--debug=netlink", "list", "table", *TABLE.split())
    pod.add(port(8080, 8000), port(8082, 82))
    assert nft(pod.node, "--debug=netlink", "list", "table", *TABLE.split()) == generation


# -- port ownership -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host_ip", ["", NODE_V4, NODE_V6])
def test_a_taken_port_is_refused(pod: Member, other: Member, host_ip: str) -> None:
    """The second pod's ADD fails with the owner's name and leaves nothing; the first pod's rules are unchanged."""
    wanted = port(8080, 80, host_ip=host_ip)
    pod.add(wanted)
    before = pod.node.ruleset()
    with pytest.raises(CNIFailure, match="v1:net:poda:eth0") as caught:
        other.add(port(8081, 80), wanted)
    assert "8080/tcp is taken by" in caught.value.msg
    assert pod.node.ruleset() == before
    pod.delete()
    other.add(port(8081, 80), wanted)


def test_leftover_ports_are_removed(pod: Member, outside: Pod, node: Node) -> None:
    """IPAM has given the old pod's address to a new pod, so the old pod no longer exists: all its ports are removed."""
    pod.add(HTTP, port(8081, 81), conditionsV4=["-s", "203.0.113.0/24"])
    pod.cni.add(with_prev(portmap(HTTP), pod.result), pod.pod, containerid="heir")
    assert "poda" not in table(node, TABLE)
    assert "8081" not in table(node, TABLE)
    assert ask(outside, pod.pod, POD_V4, 80, "tcp", to=(NODE_V4, 8080)) == OUTSIDE_V4


def test_gc_and_del_with_a_broken_configuration(pod: Member, other: Member) -> None:
    """GC removes the ports of invalid attachments; DEL removes its own, whatever the configuration says by then."""
    pod.add(HTTP)
    other.add(port(8081, 81))
    pod.cni.gc(portmap(), other.pod)
    assert "poda" not in table(pod.node, TABLE)
    other.check(port(8081, 81))
    pod.delete(prev=False)
    broken = portmap({"hostPort": "x"}, conditionsV4=7, markMasqBit=99, backend="zz")
    for _ in range(2):
        pod.cni.delete(broken, other.pod, None, netns=None)
    assert "v1:" not in table(pod.node, TABLE)


# -- CHECK and STATUS -----------------------------------------------------------------------------------------------

DAMAGES = {
    "element deleted": f"nft delete element {TABLE} ports4 {{ tcp . 8080 }}",
    "element elsewhere": f"nft delete element {TABLE} ports4 {{ tcp . 8080 }}; "
    f"nft add element {TABLE} ports4 {{ tcp . 8080 : 10.9.9.9 . 80 }}",
    "masquerade deleted": f"nft delete element {TABLE} answers6 {{ fd00:1::2 . tcp . 80 . 8080 }}",
    "conditions deleted": f"nft flush map {TABLE} conditional_ports4",
    "conditions flushed": f"nft flush chain {TABLE} $(nft list table {TABLE} | grep -o 'port-if-[0-9a-f]*' | head -1)",
    "entry flushed": f"nft flush chain {TABLE} output",
    "table deleted": f"nft delete table {TABLE}",
    "route_localnet": "echo 0 >/proc/sys/net/ipv4/conf/br0/route_localnet",
}
SENTENCES = {
    "element deleted": r"map ports4\b",
    "element elsewhere": "port .*8080/tcp .* belongs to another program",
    "masquerade deleted": r"map answers6\b",
    "conditions deleted": r"map conditional_ports4\b",
    "conditions flushed": "chain port-if-[0-9a-f]+ of table inet slash24_portmap",
    "entry flushed": "chain output of table inet slash24_portmap",
    "table deleted": "chain exact of table inet slash24_portmap",
    "route_localnet": "route_localnet",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_check_reports_damage_and_add_repairs_it(pod: Member, node: Node, damage: str) -> None:
    """CHECK fails for anything that is missing; the next ADD restores it."""
    keys = {"conditionsV4": ["!", "-s", "203.0.113.0/24"]}
    pod.add(HTTP, **keys)
    whole = table(node, TABLE)
    pod.check(HTTP, **keys)
    node.run(["sh", "-ec", DAMAGES[damage]])
    with pytest.raises(CNIFailure, match=SENTENCES[damage]):
        pod.check(HTTP, **keys)
    if damage == "element elsewhere":
        nft(node, "delete", "element", *TABLE.split(), "ports4", "{ tcp . 8080 }")
    pod.add(HTTP, **keys)
    pod.check(HTTP, **keys)
    assert sorted(table(node, TABLE).splitlines()) == sorted(whole.splitlines())


def test_status(cni: CNI, node: Node) -> None:
    """STATUS leaves nothing behind, and fails with code 50 if the rules cannot be made."""
    before = node.ruleset()
    cni.status(portmap())
    assert node.ruleset() == before
    nft(node, f"add table {TABLE}; add chain {TABLE} output {{ type filter hook input priority 0; }}")
    with pytest.raises(CNIFailure) as caught:
        cni.status(portmap())
    assert caught.value.code == 50


# -- the reference --------------------------------------------------------------------------------------------------

BACKENDS = pytest.mark.parametrize("backend", ["iptables", "nftables"])


@BACKENDS
@pytest.mark.parametrize("told", ["everything", "nothing"])
def test_reference_add_our_del(pod: Member, other: Member, reference: CNI, backend: str, told: str) -> None:
    """Our DEL removes what the reference's ADD made, even without ports and result; its other pod keeps its ports."""
    ports = (HTTP, port(8053, 53, "udp"))
    pod.add(*ports, cni=reference, backend=backend)
    other.add(port(8081, 81), cni=reference, backend=backend)
    pod.check(*ports, backend=backend)
    pod.delete(*(ports if told == "everything" else ()), prev=told == "everything")
    rules = pod.node.ruleset()
    assert "10.1.2.2:" not in rules
    assert "[fd00:1::2]:" not in rules
    assert "poda" not in rules
    other.check(port(8081, 81), cni=reference, backend=backend)
    with pytest.raises(CNIFailure, match="chain exact of table inet slash24_portmap"):
        pod.check(*ports, backend=backend)


@BACKENDS
def test_our_add_reference_del(pod: Member, reference: CNI, backend: str) -> None:
    """The reference's DEL of a pod that we added succeeds; our GC removes the rules that it does not know."""
    pod.add(HTTP)
    pod.delete(HTTP, cni=reference, backend=backend)
    pod.cni.gc(portmap())
    assert "v1:" not in table(pod.node, TABLE)


def test_the_documented_commands_for_changing_back(pod: Member, reference: CNI) -> None:
    """The commands in docs/portmap.md delete everything of ours and nothing of the reference's."""
    pod.add(HTTP, cni=reference, backend="iptables")
    before = pod.node.run(["nft", "-s", "list", "ruleset"]).stdout
    pod.cni.add(with_prev(portmap(port(8081, 81)), pod.result), pod.pod, ifname="eth0", containerid="ours")
    text = (ROOT / "docs" / "portmap.md").read_text().partition("## Changing back")[2]
    commands = text.split("```sh\n")[1].split("```")[0].replace("conf.cni0.", "conf.br0.")
    pod.node.run(["sh", "-ec", commands], env={"PATH": PATH})
    assert pod.node.run(["nft", "-s", "list", "ruleset"]).stdout == before
    assert pod.node.sysctl("ipv4/conf/br0/route_localnet") == "0"


# -- failure, concurrency and cost ----------------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["fresh", "others"])
def test_add_undoes_itself_whichever_request_is_refused(pod: Member, other: Member, node: Node, before: str) -> None:
    """Whichever change the kernel refuses, the ADD fails and the previous state is restored."""
    if before == "others":
        other.add(port(8081, 81))
        node.run(["sh", "-c", "echo 0 >/proc/sys/net/ipv4/conf/br0/route_localnet"])
    conf = with_prev(portmap(HTTP, port(8053, 53, "udp"), conditionsV4=["-s", "10.0.0.0/8"]), pod.result)
    script = ROOT / "tests" / "netns" / "refuse_rules.py"
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    done = node.run([sys.executable, script, "portmap", "poda"], stdin=json.dumps(conf), env=env)
    story = json.loads(done.stdout)
    assert story[-1]["status"] == 0
    assert [entry["status"] for entry in story[:2]] == [1, 1], "the rules and the setting"
    assert [entry for entry in story if entry["left"]] == []


@pytest.mark.cold(reason="watches what the plugin's own process does")
def test_no_verb_runs_a_program(pod: Member, node: Node) -> None:
    """With ports, conditions, UDP flows and rules of both suites, nothing but the plugin itself is executed."""
    conf = with_prev(portmap(HTTP, port(8053, 53, "udp"), conditionsV4=["-s", "10.0.0.0/8"]), pod.result)
    for verb in ("ADD", "CHECK", "DEL", "GC", "STATUS"):
        asked = {**conf, "cni.dev/valid-attachments": []}
        for kind in ("portmap", "firewall"):
            trace = ["strace", "-f", "-qq", "-e", "trace=execve", "-o", "/run/trace", pod.cni.folder / kind]
            done = node.run(trace, env=pod.cni.environ(verb, pod.pod), stdin=json.dumps(asked), check=False)
            assert done.returncode == 0, done.stdout
            runs = [line for line in node.path("/run/trace").read_text().splitlines() if "= 0" in line]
            runs = [line for line in runs if f'/{kind}"' not in line]
            assert runs == [], f"{kind} {verb}"


def test_sixteen_concurrent_calls(cni: CNI, outside: Pod, node: Node) -> None:
    """Sixteen ADDs on a node without rules, then DELs and ADDs mixed: all succeed, and all rules are in place."""
    members = [Member(cni, f"pod{number}") for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda numbered: numbered[1].add(port(9000 + numbered[0], 80, "udp")), enumerate(members)))
        for number, member in enumerate(members):
            member.check(port(9000 + number, 80, "udp"))
        jobs = [pool.submit(member.delete) for member in members[:8]]
        jobs += [pool.submit(member.add, port(9100 + number, 80)) for number, member in enumerate(members[8:])]
        for job in jobs:
            job.result()
    for number, member in enumerate(members[8:]):
        member.check(port(9100 + number, 80))
    assert chain(table(node, TABLE), "prerouting") == GOLDEN_CHAINS["prerouting"]
    assert table(node, TABLE).count("v1:net:") == 4 * 8


def test_one_of_sixteen_concurrent_adds_gets_the_port(cni: CNI, outside: Pod, node: Node) -> None:
    """All others fail with the owner's name."""
    members = [Member(cni, f"pod{number}") for number in range(16)]

    def attempt(member: Member) -> str:
        try:
            member.add(HTTP)
        except CNIFailure as failure:
            return failure.msg
        return ""

    with ThreadPoolExecutor(16) as pool:
        said = sorted(pool.map(attempt, members))
    assert said[0] == ""
    assert all("is taken by v1:net:pod" in message for message in said[1:])
    assert table(node, TABLE).count("v1:net:") == 4
