"""`firewall` on real nodes: the rules in iptables, traffic on a node whose policy is drop, and cleanup."""

import json
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import ROOT
from tests.netns.cni import CNI, CNIFailure, with_prev
from tests.netns.nft_tools import chain, nft, table
from tests.netns.node import NODE_V4, OUTSIDE_V4, OUTSIDE_V6, Host, Node, Pod, ask

TABLE = "inet slash24_firewall"
POD_V4, POD_V6 = "10.1.2.2", "fd00:1::2"


def bridge(number: int = 1, **keys: object) -> dict:
    """Return a bridge network on br<number> with 10.<number>.2.0/24 and fd00:<number>::/64."""
    ranges = [[{"subnet": f"10.{number}.2.0/24"}], [{"subnet": f"fd00:{number}::/64"}]]
    conf = {"cniVersion": "1.1.0", "name": f"net{number}", "type": "bridge", "bridge": f"br{number}"}
    return {**conf, "isDefaultGateway": True, "ipam": {"type": "host-local", "ranges": ranges}, **keys}


class Member:
    """A pod on a network, with the bridge plugin's result."""

    def __init__(self, cni: CNI, name: str, number: int = 1) -> None:
        self.cni, self.node, self.pod, self.network = cni, cni.node, cni.node.pod(name), f"net{number}"
        self.result = cni.add(bridge(number), self.pod)
        self.v4, self.v6 = (ip["address"].partition("/")[0] for ip in self.result["ips"])
        assert self.pod.reaches(f"fd00:{number}::1", timeout=15)

    def conf(self, **keys: object) -> dict:
        """The plugin's configuration."""
        return {"cniVersion": "1.1.0", "name": self.network, "type": "firewall", **keys}

    def add(self, cni: CNI | None = None, **keys: object) -> dict:
        """ADD of firewall."""
        return (cni or self.cni).add(with_prev(self.conf(**keys), self.result), self.pod)

    def check(self, cni: CNI | None = None, **keys: object) -> None:
        """CHECK of firewall."""
        (cni or self.cni).check(self.conf(**keys), self.pod, self.result)

    def delete(self, cni: CNI | None = None, prev: Mapping | bool = True, **keys: object) -> None:
        """DEL of firewall."""
        (cni or self.cni).delete(self.conf(**keys), self.pod, self.result if prev else None)


@pytest.fixture
def outside(node: Node) -> Pod:
    """The host outside the node."""
    return node.outside()


@pytest.fixture
def dropping(node: Node) -> Node:
    """A node whose FORWARD policy is drop and whose first rule jumps to DOCKER-USER, as Docker sets it up."""
    for program in ("iptables", "ip6tables"):
        node.run([program, "-P", "FORWARD", "DROP"])
        node.run([program, "-N", "DOCKER-USER"])
        node.run([program, "-A", "DOCKER-USER", "-j", "RETURN"])
        node.run([program, "-I", "FORWARD", "-j", "DOCKER-USER"])
    return node


@pytest.fixture
def pod(cni: CNI, outside: Pod) -> Member:
    """A pod with 10.1.2.2 and fd00:1::2."""
    return Member(cni, "poda")


@pytest.fixture
def other(cni: CNI, pod: Member) -> Member:
    """A second pod on the same bridge."""
    return Member(cni, "podb")


def talks(client: Host, server: Host, address: str, kind: str = "tcp") -> bool:
    """Whether a message gets through and its reply comes back."""
    try:
        ask(client, server, address, 80, kind)
    except (TimeoutError, ConnectionError):
        return False
    return True


def shown(node: Node, program: str = "iptables") -> list[str]:
    """The rules of the filter table as `iptables -S` prints them."""
    return node.run([program, "-S"]).stdout.splitlines()


# -- rules ----------------------------------------------------------------------------------------------------------


def test_iptables_shows_the_references_rules(pod: Member, dropping: Node, reference: CNI) -> None:
    """`iptables -S` prints the same lines after our ADD as after the reference plugin's, except for one rule."""
    ours = {}
    for cni in (pod.cni, reference):
        pod.add(cni)
        ours[cni] = [dropping.run([program, "-S"]).stdout for program in ("iptables", "ip6tables")]
        saved = dropping.run(["iptables-save"]).stdout + dropping.run(["iptables", "-L", "-n", "-v"]).stdout
        assert "incompatible" not in saved
        pod.delete(cni)
        dropping.run(["sh", "-c", "for i in iptables ip6tables; do $i -D FORWARD 1; $i -F CNI-FORWARD; done"])
        dropping.run(["sh", "-c", "for i in iptables ip6tables; do $i -X CNI-FORWARD; $i -X CNI-ADMIN; done"])
    more = [f"-A CNI-FORWARD -d {a} -m conntrack --ctstate DNAT -j ACCEPT" for a in (f"{POD_V4}/32", f"{POD_V6}/128")]
    assert all(line in text for line, text in zip(more, ours[pod.cni], strict=True))
    without = [text.replace(f"{line}\n", "") for line, text in zip(more, ours[pod.cni], strict=True)]
    assert without == ours[reference]
    assert ours[reference][0].splitlines()[-6:] == [
        '-A FORWARD -m comment --comment "CNI firewall plugin rules" -j CNI-FORWARD',
        "-A FORWARD -j DOCKER-USER",
        '-A CNI-FORWARD -m comment --comment "CNI firewall plugin admin overrides" -j CNI-ADMIN',
        f"-A CNI-FORWARD -d {POD_V4}/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        f"-A CNI-FORWARD -s {POD_V4}/32 -j ACCEPT",
        "-A DOCKER-USER -j RETURN",
    ]


def test_golden(pod: Member) -> None:
    """Our table as `nft list table` prints it; `nft -f` restores it exactly."""
    pod.add(ingressPolicy="same-bridge")
    owner = 'comment "v1:net1:poda:eth0"'
    text = table(pod.node, TABLE)
    for line in (
        f"elements = {{ {POD_V4} {owner} }}",
        f"elements = {{ {POD_V6} {owner} }}",
        f'elements = {{ "br1" . {POD_V4} {owner} : goto same-bridge }}',
        f'elements = {{ "br1" . {POD_V6} {owner} : goto same-bridge }}',
        'elements = { "br1" comment "shared" }',
        'elements = { "br1" . "br1" comment "shared" }',
        "type filter hook forward priority filter; policy accept;",
    ):
        assert text.count(line) == 1, f"{line} not in\n{text}"
    assert {name: chain(text, name) for name in ("forward", "same-bridge", "isolated", "admin")} == {
        "forward": [
            'jump admin comment "of the administrator"',
            'oifname . ip daddr vmap @policed4 comment "pods v4"',
            'oifname . ip6 daddr vmap @policed6 comment "pods v6"',
        ],
        "same-bridge": [
            'iifname . oifname @same return comment "within a bridge"',
            'iifname @bridges drop comment "from a bridge"',
        ],
        "isolated": ['iifname @bridges drop comment "from a bridge"'],
        "admin": [],
    }
    saved = pod.node.ruleset()
    nft(pod.node, "-f", "-", stdin=f"flush ruleset\n{saved}")
    assert pod.node.ruleset() == saved
    pod.check(ingressPolicy="same-bridge")


def test_no_iptables_chains_are_created_on_a_node_without_them(pod: Member, node: Node) -> None:
    """On a node without iptables chains, ADD creates none, unless the configuration names the iptables backend."""
    pod.add()
    pod.check()
    assert "filter FORWARD" not in node.ruleset()
    assert "CNI-FORWARD" not in node.ruleset()
    pod.add(backend="iptables")
    pod.check(backend="iptables")
    assert f"-A CNI-FORWARD -s {POD_V4}/32 -j ACCEPT" in shown(node)
    assert f"-A CNI-FORWARD -s {POD_V6}/128 -j ACCEPT" in shown(node, "ip6tables")
    assert "-P FORWARD ACCEPT" in shown(node)
    node.run(["iptables", "-P", "FORWARD", "DROP"])
    pod.check()


def test_repeated_add(pod: Member, dropping: Node) -> None:
    """A second ADD changes nothing; an ADD with other addresses replaces the old ones."""
    pod.add(ingressPolicy="isolated")
    before = dropping.ruleset()
    pod.add(ingressPolicy="isolated")
    assert dropping.ruleset() == before
    moved = {**pod.result, "ips": [{"address": "10.1.2.77/24"}]}
    pod.cni.add(with_prev(pod.conf(), moved), pod.pod)
    assert POD_V4 not in dropping.ruleset()
    assert POD_V6 not in dropping.ruleset()
    assert "shared" not in dropping.ruleset()
    assert "-A CNI-FORWARD -s 10.1.2.77/32 -j ACCEPT" in shown(dropping)


# -- packets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_dropping_node_lets_pods_through(pod: Member, dropping: Node, outside: Pod, kind: str) -> None:
    """The pod reaches the outside and gets replies; unsolicited traffic does not reach it; after DEL nothing passes."""
    assert not talks(pod.pod, outside, OUTSIDE_V4, kind)
    pod.add()
    assert talks(pod.pod, outside, OUTSIDE_V4, kind)
    assert talks(pod.pod, outside, OUTSIDE_V6, kind)
    assert not talks(outside, pod.pod, POD_V4, kind)
    assert not talks(outside, pod.pod, POD_V6, kind)
    pod.delete()
    assert not talks(pod.pod, outside, OUTSIDE_V4, kind)
    assert POD_V4 not in dropping.ruleset()
    assert POD_V6 not in dropping.ruleset()


@pytest.mark.parametrize("program", ["iptables", "nft"])
def test_a_published_port_works_on_a_dropping_node(
    pod: Member, other: Member, dropping: Node, outside: Pod, program: str
) -> None:
    """Traffic that portmap or an iptables rule translates to the pod's address is accepted, for this pod only."""
    pod.add()
    if program == "nft":
        ports = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
        conf = {"cniVersion": "1.1.0", "name": "net1", "type": "portmap", "runtimeConfig": ports}
        pod.cni.add(with_prev(conf, pod.result), pod.pod)
    else:
        for number, target in ((8080, POD_V4), (8081, other.v4)):
            words = f"-t nat -A PREROUTING -p tcp --dport {number} -j DNAT --to {target}:80"
            dropping.run(["iptables", *words.split()])
        with pytest.raises(TimeoutError):
            ask(outside, other.pod, other.v4, 80, "tcp", to=(NODE_V4, 8081))
    assert ask(outside, pod.pod, POD_V4, 80, "tcp", to=(NODE_V4, 8080)) == OUTSIDE_V4


@pytest.mark.parametrize("place", ["iptables", "nftables", "named"])
def test_the_administrators_chain_comes_first(pod: Member, dropping: Node, outside: Pod, place: str) -> None:
    """What the administrator's chain in iptables or nftables drops stays dropped; no command changes that chain."""
    keys = {"iptablesAdminChainName": "MY-ADMIN"} if place == "named" else {}
    name = {"iptables": "CNI-ADMIN", "named": "MY-ADMIN", "nftables": ""}[place]
    pod.add(**keys)
    assert talks(pod.pod, outside, OUTSIDE_V4)
    if name:
        dropping.run(["iptables", "-A", name, "-s", POD_V4, "-j", "DROP"])
    else:
        nft(dropping, f"add rule {TABLE} admin ip saddr {POD_V4} drop")
    assert not talks(pod.pod, outside, OUTSIDE_V4)
    before = dropping.ruleset()
    pod.add(**keys)
    assert dropping.ruleset() == before
    pod.delete(**keys)
    assert f"-A {name} -s {POD_V4}/32 -j DROP" in shown(dropping) or f"{POD_V4} drop" in table(dropping, TABLE)


@pytest.mark.parametrize("policy", ["open", "same-bridge", "isolated"])
def test_policies(cni: CNI, pod: Member, other: Member, outside: Pod, policy: str) -> None:
    """`same-bridge` and `isolated` drop traffic from other bridges with a policy, `isolated` also from neighbours."""
    far = Member(cni, "far", 2)
    for member in (pod, other, far):
        member.add(ingressPolicy=policy)
        member.check(ingressPolicy=policy)
    assert talks(far.pod, pod.pod, pod.v4) == (policy == "open")
    assert talks(pod.pod, far.pod, far.v6) == (policy == "open")
    filtered = pod.node.sysctl("bridge/bridge-nf-call-iptables") == "1"  # of packets that the bridge only forwards
    assert talks(other.pod, pod.pod, pod.v4) == (policy != "isolated" or not filtered)
    assert talks(outside, pod.pod, pod.v4)
    assert talks(pod.node, pod.pod, pod.v6)
    assert talks(pod.pod, outside, OUTSIDE_V6)


def test_isolated_drops_traffic_routed_back_to_the_same_bridge(cni: CNI, pod: Member, other: Member) -> None:
    """`isolated` also drops traffic that the node routes back out of the same bridge; `same-bridge` does not."""
    pod.pod.run(["ip", "route", "add", f"{other.v4}/32", "via", "10.1.2.1"])
    other.pod.run(["ip", "route", "add", f"{pod.v4}/32", "via", "10.1.2.1"])
    for policy, passes in (("same-bridge", True), ("isolated", False)):
        for member in (pod, other):
            member.add(ingressPolicy=policy)
        assert talks(pod.pod, other.pod, other.v4) == passes


def test_a_bridge_has_a_policy_until_its_last_pod_is_deleted(
    cni: CNI, pod: Member, other: Member, outside: Pod
) -> None:
    """A bridge counts as having a policy until the last pod with one is deleted."""
    far = Member(cni, "far", 2)
    for member in (pod, other, far):
        member.add(ingressPolicy="same-bridge")
    pod.delete()
    assert not talks(other.pod, far.pod, far.v4)
    other.delete(prev=False)
    assert '"br1"' not in table(pod.node, TABLE)
    assert talks(other.pod, far.pod, far.v4)


# -- ownership ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["no prevResult", "no namespace", "broken", "GC"])
def test_del_removes_all_rules_of_a_pod(pod: Member, other: Member, dropping: Node, how: str) -> None:
    """The owner identifies the rules even if DEL gets no address; the other pod's rules stay."""
    for member in (pod, other):
        member.add(ingressPolicy="same-bridge")
    match how:
        case "no prevResult":
            pod.delete(prev=False)
        case "no namespace":
            pod.pod.vanish()
            pod.cni.delete(pod.conf(), pod.pod, None, netns=None)
        case "broken":
            pod.delete(prev=False, backend="firewalld", ingressPolicy=7, iptablesAdminChainName=[])
        case "GC":
            pod.cni.gc(pod.conf(), other.pod)
    rules = dropping.ruleset()
    assert "poda" not in rules
    assert f"{POD_V4} " not in rules
    assert f"{POD_V6} " not in rules
    other.check(ingressPolicy="same-bridge")
    pod.delete()


def test_a_late_del_keeps_the_rules_of_the_new_owner(pod: Member, other: Member, dropping: Node) -> None:
    """A late DEL of a deleted pod does not cut off the pod that now has its address."""
    pod.add()
    heir = with_prev(pod.conf(), pod.result)
    pod.cni.add(heir, other.pod)
    pod.delete()
    pod.cni.check(pod.conf(), other.pod, pod.result)
    assert "poda" not in dropping.ruleset()


DAMAGES = {
    "answers": f"iptables -D CNI-FORWARD -d {POD_V4} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "translated": f"iptables -D CNI-FORWARD -d {POD_V4} -m conntrack --ctstate DNAT -j ACCEPT",
    "source": f"ip6tables -D CNI-FORWARD -s {POD_V6} -j ACCEPT",
    "way in": "iptables -D FORWARD 1",
    "way to the administrator": "iptables -D CNI-FORWARD 1",
    "all of iptables": "iptables -F",
    "owner": f"nft delete element {TABLE} pods4 {{ {POD_V4} }}",
    "policy": f'nft delete element {TABLE} policed6 {{ "br1" . {POD_V6} }}',
    "bridge": f"nft flush set {TABLE} bridges",
    "chain": f"nft flush chain {TABLE} same-bridge",
    "table": f"nft delete table {TABLE}",
}
SENTENCES = {
    "answers": f"CNI-FORWARD of table ip filter .* replies to {POD_V4}",
    "translated": f"CNI-FORWARD of table ip filter .* translated .*to {POD_V4}",
    "source": f"CNI-FORWARD of table ip6 filter .* from {POD_V6}",
    "way in": " FORWARD of table ip filter .* CNI-FORWARD",
    "way to the administrator": "CNI-FORWARD of table ip filter .* CNI-ADMIN",
    "all of iptables": " FORWARD of table ip filter .* CNI-FORWARD",
    "owner": "set pods4 .* v1:net1:poda:eth0",
    "policy": "set policed6 .* v1:net1:poda:eth0",
    "bridge": "set bridges .* v1:net1:poda:eth0",
    "chain": "chain same-bridge of table inet slash24_firewall",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_check_tells_damage_and_add_repairs_it(pod: Member, other: Member, dropping: Node, damage: str) -> None:
    """CHECK fails if any rule or element is missing; the next ADD restores it."""
    for member in (other, pod):
        member.add(ingressPolicy="same-bridge")
    pod.check(ingressPolicy="same-bridge")
    dropping.run(["sh", "-ec", DAMAGES[damage]])
    if damage == "table":  # as after an ADD by the reference plugin, whose pods CHECK accepts
        pod.check()
        other.add(ingressPolicy="same-bridge")
    else:
        with pytest.raises(CNIFailure, match=SENTENCES[damage]):
            pod.check(ingressPolicy="same-bridge")
    pod.add(ingressPolicy="same-bridge")
    pod.check(ingressPolicy="same-bridge")
    other.add(ingressPolicy="same-bridge")
    other.check(ingressPolicy="same-bridge")


def test_status(pod: Member, dropping: Node) -> None:
    """STATUS leaves nothing behind, and fails if the rules cannot be created."""
    before = dropping.ruleset()
    pod.cni.status(pod.conf())
    assert dropping.ruleset() == before
    nft(dropping, f"add table {TABLE}; add chain {TABLE} forward {{ type filter hook input priority 0; }}")
    with pytest.raises(CNIFailure) as caught:
        pod.cni.status(pod.conf())
    assert caught.value.code == 50


# -- failures and concurrency ---------------------------------------------------------------------------------------


def test_add_undoes_itself_whichever_request_is_refused(pod: Member, dropping: Node) -> None:
    """An ADD is one transaction: if it is refused, nothing changes."""
    conf = with_prev(pod.conf(ingressPolicy="isolated"), pod.result)
    script = ROOT / "tests" / "netns" / "refuse_rules.py"
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    done = dropping.run([sys.executable, script, "firewall", "poda"], stdin=json.dumps(conf), env=env)
    story = json.loads(done.stdout)
    assert [entry["status"] for entry in story] == [1, 0]
    assert story[0]["left"] == []


def test_sixteen_at_once(cni: CNI, outside: Pod, dropping: Node) -> None:
    """Sixteen concurrent first ADDs create each jump once and three rules per address; DELs may run beside ADDs."""
    members = [Member(cni, f"pod{number}") for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda member: member.add(ingressPolicy="same-bridge"), members))
        rules = shown(dropping)
        assert sum("-j CNI-FORWARD" in rule for rule in rules) == 1
        assert sum("-j CNI-ADMIN" in rule for rule in rules) == 1
        assert sum(rule.startswith("-A CNI-FORWARD") for rule in rules) == 1 + 3 * 16
        jobs = [pool.submit(member.delete) for member in members[:8]]
        jobs += [pool.submit(member.add, ingressPolicy="isolated") for member in members[8:]]
        for job in jobs:
            job.result()
    for member in members[8:]:
        member.check(ingressPolicy="isolated")
    assert sum(rule.startswith("-A CNI-FORWARD") for rule in shown(dropping)) == 1 + 3 * 8
    assert all(talks(member.pod, outside, OUTSIDE_V4) for member in members[8:10])
