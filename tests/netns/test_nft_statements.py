"""Sets, elements and statements of nftables: what we send is what nft would have sent, and is read back as it was."""

from socket import IPPROTO_TCP, IPPROTO_UDP

import pytest

from linux.netlink.socket import NETLINK_NETFILTER, Netlink, NetlinkError
from linux.nftables import address_elements, listing, messages, uapi
from linux.nftables.expressions import (
    ACCEPT,
    CONCATENATION,
    DROP,
    TCP_ACK,
    TCP_FIN,
    TCP_RST,
    TCP_SYN,
    ct_state,
    goto,
    iifgroup,
    ip_daddr,
    ip_saddr,
    l4proto,
    l4proto_is,
    lookup,
    map_lookup,
    nfproto,
    oifgroup,
    tcp_flags_are,
    th_dport,
    th_sport,
)
from linux.nftables.messages import (
    DEVGROUP,
    ETHER_ADDR,
    INET_PROTO,
    INET_SERVICE,
    IP_ADDR,
    Element,
    Hook,
    Set,
    Step,
    TableName,
)
from linux.nftables.statements import (
    PACKET_HOST,
    counter,
    ether_daddr_set,
    limit,
    log,
    pkttype_set,
    reject_tcp_reset,
    set_update,
)
from spec.addresses import pack
from tests.netns.nft_tools import nft, on, table
from tests.netns.node import Node

INET, BRIDGE = TableName(messages.INET, "t"), TableName(messages.BRIDGE, "t")
FLOWS = {version: (*(IP_ADDR[version],) * 2, INET_PROTO, INET_SERVICE, INET_SERVICE) for version in (4, 6)}
DENIED = Set("denied", (IP_ADDR[4],), timeout=3600, size=65535, dynamic=True)

INET_TEXT = """\
table inet t {
	set cut4 {
		type ipv4_addr . ipv4_addr . inet_proto . inet_service . inet_service
		flags timeout
	}

	set cut6 {
		type ipv6_addr . ipv6_addr . inet_proto . inet_service . inet_service
		flags timeout
	}

	set denied {
		type ipv4_addr
		size 65535
		flags dynamic,timeout
		timeout 1h
	}

	set networks6 {
		type ipv6_addr
		flags interval
		elements = { fd00:1::/64, fd00:2::5-fd00:2::7 }
	}

	set services {
		type inet_proto . inet_service
		comment "web and names"
		elements = { tcp . 80, udp . 53 }
	}

	set named {
		type ipv4_addr . inet_proto . inet_service
		elements = { 10.1.2.5 . tcp . 8080 }
	}

	chain refuse {
		meta l4proto tcp reject with tcp reset comment "0"
		drop comment "1"
	}

	chain forward {
		type filter hook forward priority filter + 10; policy accept;
		ct state established,related accept comment "0"
		ct state invalid drop comment "1"
		ip saddr . ip daddr . meta l4proto . th sport . th dport @cut4 goto refuse comment "2"
		ip6 saddr . ip6 daddr . meta l4proto . th sport . th dport @cut6 goto refuse comment "3"
		tcp flags != syn / fin,syn,rst,ack goto refuse comment "4"
		meta l4proto . th dport @services accept comment "5"
		ip daddr . meta l4proto . th dport @named accept comment "6"
		ip6 saddr @networks6 accept comment "7"
		update @denied { ip saddr counter } comment "8"
		limit rate 10/second log prefix "denied " group 24 snaplen 128 comment "9"
		limit rate 10/second burst 50 packets counter packets 0 bytes 0 comment "10"
	}
}
"""
BRIDGE_TEXT = """\
table bridge t {
	map gateways {
		type devgroup : ether_addr
		elements = { 603979777 : 02:00:00:00:00:01 }
	}

	set groups {
		type devgroup
		elements = { 603979777 }
	}

	chain prerouting {
		type filter hook prerouting priority dstnat + 1; policy accept;
		ether daddr set iifgroup map @gateways meta pkttype set host comment "0"
	}

	chain output {
		type filter hook output priority filter; policy accept;
		oifgroup @groups accept comment "0"
	}
}
"""


def key(*loads: tuple) -> list[bytes]:
    """Loads of fields of these sizes, one after the other: (load, size) each."""
    at, found = 0, []
    for load, size in loads:
        found.append(load(CONCATENATION[at]))
        at += size + 3 >> 2
    return found


def flow(version: int) -> list[bytes]:
    """The load of `ip saddr . ip daddr . meta l4proto . th sport . th dport`."""
    size = 4 if version == 4 else 16
    return key(
        (lambda register: ip_saddr(version, register), size),
        (lambda register: ip_daddr(version, register), size),
        (l4proto, 1),
        (th_sport, 2),
        (th_dport, 2),
    )


INET_RULES = {
    "refuse": [[*l4proto_is(IPPROTO_TCP), reject_tcp_reset()], [DROP]],
    "forward": [
        [*ct_state(uapi.CT_STATE_ESTABLISHED | uapi.CT_STATE_RELATED), ACCEPT],
        [*ct_state(uapi.CT_STATE_INVALID), DROP],
        [*nfproto(4), *flow(4), lookup("cut4"), goto("refuse")],
        [*nfproto(6), *flow(6), lookup("cut6"), goto("refuse")],
        [*tcp_flags_are(TCP_SYN, TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK, inverted=True), goto("refuse")],
        [*key((l4proto, 1), (th_dport, 2)), lookup("services"), ACCEPT],
        [
            *nfproto(4),
            *key((lambda register: ip_daddr(4, register), 4), (l4proto, 1), (th_dport, 2)),
            lookup("named"),
            ACCEPT,
        ],
        [*nfproto(6), ip_saddr(6), lookup("networks6"), ACCEPT],
        [*nfproto(4), ip_saddr(4), set_update("denied", counted=True)],
        [limit(10), log(24, "denied ", snaplen=128)],
        [limit(10, burst=50), counter()],
    ],
}
BRIDGE_RULES = {
    "prerouting": [[iifgroup(), map_lookup("gateways"), ether_daddr_set(), *pkttype_set(PACKET_HOST)]],
    "output": [[oifgroup(), lookup("groups"), ACCEPT]],
}
HOOKS = {
    "forward": Hook("filter", uapi.NF_INET_FORWARD, uapi.NF_IP_PRI_FILTER + 10),
    "prerouting": Hook("filter", uapi.NF_BR_PRE_ROUTING, uapi.NF_BR_PRI_NAT_DST_BRIDGED + 1),
    "output": Hook("filter", uapi.NF_BR_LOCAL_OUT, uapi.NF_BR_PRI_FILTER_BRIDGED),
}


def rules(name: TableName, chains: dict[str, list]) -> list[Step]:
    """Steps that add chains with their rules."""
    steps = [messages.add_chain(name, chain, HOOKS.get(chain)) for chain in chains]
    for chain, every in chains.items():
        steps += [messages.add_rule(name, chain, one, str(number)) for number, one in enumerate(every)]
    return steps


def commit(node: Node, steps: list[Step]) -> None:
    """Commit steps on the node."""

    def send() -> None:
        with Netlink(NETLINK_NETFILTER) as netlink:
            messages.commit(netlink, steps)

    on(node, send)


def make(node: Node) -> None:
    """Both tables."""
    services, named = (INET_PROTO, INET_SERVICE), (IP_ADDR[4], INET_PROTO, INET_SERVICE)
    ranges = [pack(first) + pack(last) for first, last in (("fd00:1::", "fd00:1::ffff:ffff:ffff:ffff"),)]
    ranges.append(pack("fd00:2::5") + pack("fd00:2::7"))
    group = (0x24000001).to_bytes(4, "little")
    commit(
        node,
        [
            messages.add_table(INET, None),
            *(messages.add_set(INET, Set(f"cut{version}", FLOWS[version], timeouts=True)) for version in (4, 6)),
            messages.add_set(INET, DENIED),
            messages.add_set(INET, Set("networks6", (IP_ADDR[6],), intervals=True)),
            messages.add_set(INET, Set("services", services, comment="web and names")),
            messages.add_set(INET, Set("named", named)),
            *messages.add_encoded_elements(INET, "networks6", address_elements.of_ranges(6, ranges)),
            messages.add_element(INET, Element("services", messages.padded(services, b"\x06\0\x50"), "")),
            messages.add_element(INET, Element("services", messages.padded(services, b"\x11\0\x35"), "")),
            messages.add_element(
                INET, Element("named", messages.padded(named, pack("10.1.2.5") + b"\x06\x1f\x90"), "")
            ),
            *rules(INET, INET_RULES),
            messages.add_table(BRIDGE, None),
            messages.add_set(BRIDGE, Set("gateways", (DEVGROUP,), (ETHER_ADDR,))),
            messages.add_set(BRIDGE, Set("groups", (DEVGROUP,))),
            messages.add_element(BRIDGE, Element("gateways", group, "", value=bytes([2, 0, 0, 0, 0, 1]))),
            messages.add_element(BRIDGE, Element("groups", group, "")),
            *rules(BRIDGE, BRIDGE_RULES),
        ],
    )


def sorted_text(text: str) -> str:
    """A table with the elements of each set in order."""
    lines = []
    for line in text.splitlines(keepends=True):
        head, brace, rest = line.partition("elements = { ")
        lines.append(f"{head}{brace}{', '.join(sorted(rest[:-3].split(', ')))} }}\n" if brace else line)
    return "".join(lines)


def test_text(node: Node) -> None:
    """nft lists sets, elements and rules as they are meant, and a ruleset that is saved and restored is the same."""
    make(node)
    for _ in range(2):
        assert sorted_text(table(node, "inet t")) == INET_TEXT
        assert table(node, "bridge t") == BRIDGE_TEXT
        nft(node, "-f", "-", stdin=f"flush ruleset\n{node.ruleset()}")


def test_timeouts_and_counters(node: Node) -> None:
    """An element expires as it says; those that rules add are listed with counters, and expire as the set says."""
    make(node)
    packed = pack("10.1.2.5") + pack("10.1.2.6") + bytes([IPPROTO_TCP, 0, 80, 1, 0])
    element = Element("cut4", messages.padded(FLOWS[4], packed), "", timeout=60)
    commit(node, [messages.add_element(INET, element)])
    assert "10.1.2.5 . 10.1.2.6 . tcp . 80 . 256 timeout 1m expires" in table(node, "inet t")
    commit(node, rules(INET, {"output": [[*nfproto(4), ip_daddr(4), set_update("denied", counted=True)]]}))
    with node.socket("127.0.0.1", "udp") as sender:
        sender.sendto(b"four", ("127.0.0.1", 9))
        sender.sendto(b"four", ("127.0.0.1", 9))
    found = {one.key: one for one in listed(node, "denied")}[pack("127.0.0.1")]
    assert found.packets >= 2
    assert found.bytes >= 64
    assert 3500 < found.expires <= 3600
    (cut,) = listed(node, "cut4")
    assert (cut.key, cut.packets) == (element.key, 0)
    assert 50 < cut.expires <= 60


def listed(node: Node, name: str) -> list[listing.Counted]:
    """The elements of a set."""

    def read() -> list[listing.Counted]:
        with Netlink(NETLINK_NETFILTER) as netlink:
            return listing.list_counted(netlink, INET, name)

    return on(node, read)


def test_an_element_may_be_there_already(node: Node) -> None:
    """Unless it must be new, or has another value: then EEXIST (older kernels: EBUSY)."""
    make(node)
    same = Element("gateways", (0x24000001).to_bytes(4, "little"), "", value=bytes([2, 0, 0, 0, 0, 1]))
    other = Element("gateways", same.key, "", value=bytes([2, 0, 0, 0, 0, 2]))
    commit(node, [messages.add_element(BRIDGE, same, must_be_new=False)])
    with pytest.raises(NetlinkError, match="exists"):
        commit(node, [messages.add_element(BRIDGE, same)])
    with pytest.raises(NetlinkError, match="exists|busy"):
        commit(node, [messages.add_element(BRIDGE, other, must_be_new=False)])
    assert table(node, "bridge t") == BRIDGE_TEXT


def test_a_key_of_another_length_is_refused() -> None:
    """A key without all of its parts is a mistake of the caller."""
    with pytest.raises(ValueError, match="has 2 bytes, expected 3"):
        messages.padded((INET_PROTO, INET_SERVICE), bytes([IPPROTO_UDP, 0]))


def test_more_elements_than_fit_into_a_message(node: Node) -> None:
    """Thousands of long elements with comments are added and deleted in one transaction."""
    make(node)
    flows = [pack("10.1.2.5") + pack("10.1.2.6") + bytes([6, *divmod(port, 256), 1, 0]) for port in range(3000)]
    elements = [messages.encoded(Element("cut4", messages.padded(FLOWS[4], one), "x" * 100)) for one in flows]
    commit(node, [*messages.add_encoded_elements(INET, "cut4", elements)])
    assert len(listed(node, "cut4")) == 3000
    commit(node, [*messages.delete_encoded_elements(INET, "cut4", elements)])
    assert listed(node, "cut4") == []


def test_whether_a_set_is_as_it_should_be(node: Node) -> None:
    """A set of another type, or with other flags, is told from the one that is wanted; so is a missing one."""
    make(node)

    def look(wanted: Set) -> bool | None:
        with Netlink(NETLINK_NETFILTER) as netlink:
            return listing.set_is_like(netlink, INET, wanted)

    assert on(node, look, DENIED) is True
    assert on(node, look, Set("denied", (IP_ADDR[4],))) is False
    assert on(node, look, Set("services", (IP_ADDR[6],))) is False
    assert on(node, look, Set("missing", (IP_ADDR[6],))) is None
