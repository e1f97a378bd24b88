"""policy/programming.py makes nftables equal to what the policies come to, whatever was there and comes between."""

import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest

from linux.netlink.socket import NetlinkError
from linux.ownership import owner_tag
from policy.compiled import (
    ADDRESSES4,
    ALLOW,
    DROP,
    INGRESS,
    NETWORKS4,
    AddressSet,
    Chain,
    ChainRule,
    Compiled,
    Delta,
    SetChange,
)
from policy.settings import Settings
from rules import policy
from tests.netns.nft_tools import at_once, chain, nft, on, table
from tests.netns.node import Node
from tests.netns.policy_tools import (
    A4,
    A6,
    B4,
    GROUP,
    MAC,
    SETTINGS,
    TABLE,
    Clock,
    addresses,
    attachment,
    delta_between,
    enforced,
    example,
    generation,
    hold,
    leads_to,
    listed,
    local_of,
    networks,
    programmer,
    random_compiled,
    release,
)


@pytest.fixture
def fresh() -> Iterator[Node]:
    """A second node, to compare with."""
    made = Node()
    yield made
    made.close()


# -- as nft lists it --------------------------------------------------------------------------------------------------


def test_golden_table(node: Node) -> None:
    """`nft list table` shows chains with what each rule says, sets with what they are, and owners of pods."""
    on(node, programmer(SETTINGS).resync, example(), local_of(example()))
    text = table(node, TABLE)
    assert chain(text, "in4_web") == [
        'jump admin comment "cluster-wide"',
        'ip saddr @peers4_shop meta l4proto . th dport @web accept comment "policy web in shop, ingress[0]"',
        'ip saddr @nets4_office tcp dport 8000-8080 accept comment "policy office in shop"',
        'goto denied_ingress comment "nothing else"',
    ]
    assert chain(text, "in6_web") == [
        "ip6 saddr @peers6_shop meta l4proto . th dport @web accept",
        "goto denied_ingress",
    ]
    assert chain(text, "out4_names") == [
        "ip daddr . meta l4proto . th dport @named4_http goto to_ingress",
        "goto denied_egress",
    ]
    assert chain(text, "node4") == ["tcp dport 22 goto denied_egress", "goto node_access"]
    assert chain(text, "admin") == ["udp dport 53 goto denied_ingress"]
    assert 'comment "pods of app=shop"\n\t\telements = { 10.1.2.7, 10.1.3.9 }' in text
    assert "flags interval\n\t\telements = { 198.51.100.0/24, 203.0.113.0/25 }" in text
    one, two = owner_tag(attachment(1)), owner_tag(attachment(2))
    assert f'elements = {{ {A4} comment "{one}" : goto in4_web }}' in text
    assert f'elements = {{ {A4} comment "{one}" : goto out4_names, {B4} comment "{two}" : goto out4_names }}' in text
    assert f'elements = {{ {A4} comment "{one}" : goto node4 }}' in text
    bridge = table(node, "bridge slash24_policy")
    assert f'set receivers {{\n\t\ttype ifname\n\t\telements = {{ "veth1" comment "{one}" }}' in bridge
    assert (
        f'set senders {{\n\t\ttype ifname\n\t\telements = {{ "veth1" comment "{one}", "veth2" comment "{two}" }}'
        in bridge
    )


def test_chains_of_the_configuration(node: Node) -> None:
    """Metadata service, ports of the node and logging are as configured; with another configuration they change."""
    on(node, programmer(SETTINGS).resync, Compiled(), {})
    text = table(node, TABLE)
    assert chain(text, "metadata") == [
        'ip daddr 169.254.169.254 ip saddr != @exempt4 goto denied_egress comment "metadataAccess deny v4"',
        'ip6 daddr fd00:ec2::254 ip6 saddr != @exempt6 goto denied_egress comment "metadataAccess deny v6"',
    ]
    assert chain(text, "node_access") == [
        'meta l4proto icmp accept comment "nodeAccess ICMP"',
        'meta l4proto ipv6-icmp accept comment "nodeAccess ICMPv6"',
        'tcp dport 53 accept comment "nodeAccess tcp/53"',
        'udp dport 30000-32767 accept comment "nodeAccess udp/30000-32767"',
        'meta l4proto sctp accept comment "nodeAccess sctp"',
        'goto denied_egress comment "nodeAccess nothing else"',
    ]
    for direction in ("egress", "ingress"):
        assert chain(text, f"log_{direction}") == [
            f'limit rate 10/second burst 20 packets log prefix "{direction} " group 24 comment "log group 24"'
        ]
    on(node, programmer(Settings()).resync, Compiled(), {})
    text = table(node, TABLE)
    assert [chain(text, name) for name in ("metadata", "node_access", "log_egress", "log_ingress")] == [[], [], [], []]


def test_nft_restores_its_own_listing(node: Node) -> None:
    """`nft -f` restores what `nft list ruleset` has printed.

    Only a range of ports, which nft writes as two comparisons, is then written anew, once.
    """
    made = programmer(SETTINGS)
    on(node, made.resync, example(), local_of(example()))
    right = listed(node)
    nft(node, "-f", "-", stdin=f"flush ruleset\n{node.ruleset()}")
    assert listed(node) == right
    before = generation(node)
    for _ in range(2):
        on(node, made.resync, example(), local_of(example()))
        assert (listed(node), generation(node)) == (right, before + 1)


def test_odd_comments(node: Node) -> None:
    """Comments with quotes, line ends, other alphabets or more than nft takes are written so that nft reads them."""
    odd = ("a" * 120, 'say "x"\n', "ü" * 100, "日本" * 60)
    compiled = Compiled(
        pods={A4: enforced(1, ingress="odd")},
        chains={"odd": Chain(INGRESS, tuple(ChainRule(ALLOW, 4, "peers", comment=text) for text in odd))},
        sets={"peers": AddressSet(ADDRESSES4, frozenset(), odd[1] * 60)},
    )
    test = programmer()
    on(node, test.resync, compiled, local_of(compiled))
    assert len(chain(table(node, TABLE), "odd")) == len(odd)
    nft(node, "-f", "-", stdin=f"flush ruleset\n{node.ruleset()}")
    before = generation(node)
    on(node, test.resync, compiled, local_of(compiled))
    assert generation(node) == before


# -- deltas -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_deltas_lead_where_a_resync_leads(node: Node, fresh: Node, seed: int) -> None:
    """Random values, made of each other by deltas while pods come and go, list as each written from nothing."""
    chance, clock = random.Random(seed), Clock()
    settings = SETTINGS if seed % 2 else Settings()
    made, now = programmer(settings, clock), Compiled()
    on(node, made.resync, now, {})
    attached: dict[int, tuple[str, ...]] = {}
    for _ in range(12):
        for number in range(1, 7):
            ips = (f"10.1.2.{number}", f"fd00:1::{number}")[: chance.randrange(1, 3)]
            if number in attached and chance.random() < 0.2:
                release(node, number, *attached.pop(number))
            elif number not in attached and chance.random() < 0.5:
                hold(node, number, *ips)
                attached[number] = ips
        then = random_compiled(chance, attached)
        on(node, made.apply, delta_between(now, then))
        now = then
        clock.now += chance.choice((0, 1, 3))
        on(node, made.sweep)
    clock.now += 3
    on(node, made.sweep)
    on(fresh, programmer(settings).resync, now, local_of(now))
    on(fresh, policy.set_gateway, GROUP, MAC)
    assert listed(node) == listed(fresh)
    before = generation(node)
    on(node, made.resync, now, local_of(now))
    assert generation(node) == before


def test_an_empty_delta_writes_nothing(node: Node) -> None:
    """No transaction without a change."""
    made = programmer()
    on(node, made.resync, example(), local_of(example()))
    before = generation(node)
    on(node, made.apply, Delta())
    on(node, made.sweep)
    assert generation(node) == before


def test_transactions_of_a_delta(node: Node) -> None:
    """A change of labels is one transaction; new chains and sets are one more, before the pods are led to them."""
    made = programmer()
    on(node, made.resync, example(), local_of(example()))
    labels = Delta(sets={"peers4_shop": SetChange(ADDRESSES4, addresses("10.1.2.7"), addresses("10.1.2.8"))})
    more = Delta(
        new_sets={"new": AddressSet(NETWORKS4, networks("10.0.0.0-10.0.0.9"))},
        new_chains={"other": Chain(INGRESS, (ChainRule(ALLOW, 4, "new"), ChainRule(DROP)))},
        pods={A4: enforced(1, ingress="other")},
    )
    for delta, transactions in ((labels, 1), (more, 2)):
        before = generation(node)
        on(node, made.apply, delta)
        assert generation(node) == before + transactions


def test_a_large_delta_that_is_refused(node: Node) -> None:
    """If the kernel refuses thousands of rules, the error names the first, and nothing has changed."""
    made = programmer()
    on(node, made.resync, example(), local_of(example()))
    right = listed(node)
    nft(node, "-f", "-", stdin=f"flush chain {TABLE} in6_web\ndelete set {TABLE} peers6_shop")
    damaged = listed(node)
    rules = tuple(ChainRule(ALLOW, 6, "peers6_shop", protocol=6, first=port, last=port) for port in range(1, 5001))
    with pytest.raises(NetlinkError, match="add a rule to chain many of table inet slash24_policy: No such file"):
        on(node, made.apply, Delta(new_chains={"many": Chain(INGRESS, rules)}, pods={A6: enforced(1, ingress="many")}))
    assert listed(node) == damaged
    on(node, made.resync, example(), local_of(example()))
    assert listed(node) == right


def test_a_large_set(node: Node) -> None:
    """Ten thousand addresses are written and read back; a resync that finds them writes nothing."""
    many = frozenset(number.to_bytes(4, "big") for number in range(10 << 24, (10 << 24) + 10000))
    ranges = frozenset(first + first[:3] + bytes([first[3] | 1]) for first in many if not first[3] & 3)
    compiled = Compiled(
        pods={A4: enforced(1, ingress="odd")},
        chains={
            "odd": Chain(INGRESS, (ChainRule(ALLOW, 4, "many"), ChainRule(ALLOW, 4, "ranges"), ChainRule(DROP))),
        },
        sets={"many": AddressSet(ADDRESSES4, many), "ranges": AddressSet(NETWORKS4, ranges)},
    )
    hold(node, 1, A4)
    made = programmer()
    on(node, made.resync, Compiled(), {A4: owner_tag(attachment(1))})
    on(node, made.apply, delta_between(Compiled(), compiled))
    assert nft(node, "list", "set", *TABLE.split(), "many").count("10.0.") == len(many)
    before = generation(node)
    on(node, made.resync, compiled, local_of(compiled))
    assert generation(node) == before
    less = replace(compiled, sets=compiled.sets | {"many": AddressSet(ADDRESSES4, frozenset(sorted(many)[::2]))})
    on(node, made.apply, delta_between(compiled, less))
    assert nft(node, "list", "set", *TABLE.split(), "many").count("10.0.") == len(many) // 2


# -- pods that come and go meanwhile ----------------------------------------------------------------------------------

OPEN = Compiled(
    chains={"all": Chain(INGRESS, (ChainRule(ALLOW),)), "none": Chain(INGRESS, (ChainRule(DROP),))},
)


def known(node: Node) -> "tuple":
    """A programmer that knows two chains and no pods."""
    made = programmer()
    on(node, made.resync, OPEN, {})
    return made


def test_a_pod_that_was_deleted_stays_deleted(node: Node) -> None:
    """A delta about a pod whose DEL has come before adds nothing."""
    made = known(node)
    hold(node, 1, A4)
    release(node, 1, A4)
    before = listed(node)
    on(node, made.apply, Delta(pods={A4: enforced(1, ingress="all")}))
    assert listed(node) == before


def test_the_pod_that_has_the_address_by_now_stays_held(node: Node) -> None:
    """Neither a delta about the pod that had an address nor its end touches the one that has it now."""
    made = known(node)
    hold(node, 1, A4)
    on(node, made.apply, Delta(pods={A4: enforced(1, ingress="all")}))
    assert leads_to(node, A4) == "all"
    hold(node, 2, A4)
    before = listed(node)
    for value in (enforced(1, ingress="none"), None):
        on(node, made.apply, Delta(pods={A4: value}))
        assert listed(node) == before
    on(node, made.apply, Delta(pods={A4: enforced(2, ingress="none")}))
    assert leads_to(node, A4) == "none"


def test_a_pod_that_was_held_again(node: Node) -> None:
    """After a repeated ADD the same value is in force again, though the programmer has written it already."""
    made = known(node)
    delta = Delta(pods={A4: enforced(1, ingress="all")})
    hold(node, 1, A4)
    on(node, made.apply, delta)
    right = listed(node)
    hold(node, 1, A4)
    assert leads_to(node, A4) == "held"
    on(node, made.apply, delta)
    assert listed(node) == right


@pytest.mark.parametrize("is_there", [False, True])
def test_a_pod_that_nobody_knows_any_more(node: Node, is_there: bool) -> None:
    """It is held as long as its host veth exists; without, its elements go, and its addresses are noted as left."""
    made = known(node)
    if is_there:
        node.run(["ip", "link", "add", "veth1", "type", "veth", "peer", "name", "other"])
    hold(node, 1, A4)
    on(node, made.apply, Delta(pods={A4: enforced(1, ingress="all", to_node="none")}))
    on(node, made.apply, Delta(pods={A4: None}))
    assert leads_to(node, A4) == ("held" if is_there else "")
    assert leads_to(node, A4, "to_node4") == ""
    assert (A4 in nft(node, "list", "set", *TABLE.split(), "pods4")) == is_there
    assert (A4 in nft(node, "list", "set", *TABLE.split(), "left4")) == (not is_there)


def test_both_addresses_of_a_pod_count_for_its_host_veth(node: Node) -> None:
    """Frames are filtered as long as one address is isolated, also if a delta has only the other one."""
    made = known(node)
    hold(node, 1, A4, A6)
    on(node, made.apply, Delta(pods={A4: enforced(1, ingress="all"), A6: enforced(1)}))
    on(node, made.apply, Delta(pods={A6: enforced(1, to_node="none")}))
    assert '"veth1"' in nft(node, "list", "set", "bridge", "slash24_policy", "receivers")
    assert '"veth1"' not in nft(node, "list", "set", "bridge", "slash24_policy", "senders")
    on(node, made.apply, Delta(pods={A4: enforced(1)}))
    assert '"veth1"' not in nft(node, "list", "set", "bridge", "slash24_policy", "receivers")


def test_resync_holds_what_is_attached_and_not_known(node: Node) -> None:
    """A pod that is only attached is held, whatever it had; the elements of one that is not even local go away."""
    made = known(node)
    hold(node, 1, A4)
    hold(node, 2, B4)
    everything = replace(OPEN, pods={A4: enforced(1, ingress="all"), B4: enforced(2, ingress="all")})
    on(node, made.apply, delta_between(OPEN, everything))
    on(node, made.resync, OPEN, {A4: owner_tag(attachment(1))})
    assert (leads_to(node, A4), leads_to(node, A4, "egress4")) == ("held", "held")
    assert (leads_to(node, B4), B4 in nft(node, "list", "set", *TABLE.split(), "left4")) == ("", True)


def test_resync_does_not_release_a_pod_that_an_add_has_just_held(node: Node) -> None:
    """Between its elements and its file a pod is not local yet; its host veth is there, so it stays held."""
    made = known(node)
    node.run(["ip", "link", "add", "veth1", "type", "veth", "peer", "name", "other"])
    hold(node, 1, A4, A6)
    before = listed(node)
    on(node, made.resync, OPEN, {})
    assert listed(node) == before
    assert leads_to(node, A4) == "held"


def test_while_adds_and_dels_go_on(node: Node) -> None:
    """No delta fails while other processes attach and detach the same pods; then each pod has what it should."""
    made = known(node)
    others = [partial(come_and_go, number) for number in (1, 2, 3)]
    worker = threading.Thread(target=lambda: failed.append(at_once(node, others)))
    failed: list[int] = []
    worker.start()
    values = [("all", ""), ("none", "all"), ("", "")]
    while worker.is_alive():
        chains = values[len(values) % 3]
        values.append(chains)
        pods = {f"10.1.2.{number}": enforced(number, ingress=chains[0], egress=chains[1]) for number in (1, 2, 3)}
        on(node, made.apply, Delta(pods=pods))
    worker.join()
    assert failed == [0]
    right = Delta(pods={f"10.1.2.{number}": enforced(number, ingress="all") for number in (1, 2, 3)})
    on(node, made.apply, right)
    assert [leads_to(node, f"10.1.2.{number}") for number in (1, 2, 3)] == ["all"] * 3
    before = generation(node)
    everything = replace(OPEN, pods=right.pods)
    on(node, made.resync, everything, local_of(everything))
    assert generation(node) == before


def come_and_go(number: int) -> None:
    """Attach and detach a pod a hundred times, and attach it in the end."""
    ips, link = (f"10.1.2.{number}",), f"veth{number}"
    for _ in range(100):
        policy.hold(attachment(number), ips, link, GROUP, MAC)
        policy.release(attachment(number), ips, link)
    policy.hold(attachment(number), ips, link, GROUP, MAC)


# -- counters and cuts ------------------------------------------------------------------------------------------------


def test_cut_in_portions(node: Node) -> None:
    """Thousands of connections of both families are noted, for ten seconds."""
    made = programmer()
    on(node, made.resync, Compiled(), {})
    (four,), (six,) = addresses(A4), addresses(A6)
    on(node, made.cut, [(one, one, 6, port, 80) for one in (four, six) for port in range(1, 6001)])
    for name in ("cut4", "cut6"):
        text = nft(node, "list", "set", *TABLE.split(), name)
        assert text.count("timeout 10s") == 6000
    assert f"{A4} . {A4} . tcp . 6000 . 80 timeout 10s" in nft(node, "list", "set", *TABLE.split(), "cut4").replace(
        "\n", " "
    )


def test_counters_of_denied_packets(node: Node) -> None:
    """They are read by direction and address."""
    made = programmer()
    on(node, made.resync, Compiled(), {})
    assert on(node, made.denied) == {}
    nft(node, "add", "element", *TABLE.split(), "denied_egress4", f"{{ {A4} counter packets 7 bytes 80 }}")
    nft(node, "add", "element", *TABLE.split(), "denied_ingress6", f"{{ {A6} counter packets 3 bytes 80 }}")
    assert on(node, made.denied) == {("egress", A4): 7, ("ingress", A6): 3}


def test_a_new_base_keeps_what_is_above_it(node: Node) -> None:
    """If the base's rules change, as they may with a new version, chains, sets and pods stay in force."""
    on(node, programmer(SETTINGS).resync, example(), local_of(example()))
    right = listed(node)
    nft(node, "-f", "-", stdin=f"flush chain {TABLE} connection\nadd rule {TABLE} connection goto to_ingress")
    on(node, policy.ensure_base)
    assert listed(node) == right
