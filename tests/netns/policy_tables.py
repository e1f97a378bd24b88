"""For tests of network policies: the tables as `nft list table` prints them, and a pod that is in them."""

import re

from linux.ownership import group_of
from rules import policy
from spec.attachment import Attachment
from tests.netns.nft_tools import nft, on, table
from tests.netns.node import Node

INET, BRIDGE = "inet slash24_policy", "bridge slash24_policy"
ALICE = Attachment("net1", "alice", "eth0")
BOB = Attachment("net1", "bob", "eth0")
EVE = Attachment("net2", "eve", "eth0")
IPS = ("10.1.2.5", "fd00:1::5")
GROUP, MAC = group_of("net1"), "0a:58:0a:f4:01:01"
TAG = 'comment "v1:net1:alice:eth0"'


FLOW = "ADDR . ADDR . inet_proto . inet_service . inet_service"
COUNTING = "\t\tsize 65535\n\t\tflags dynamic,timeout\n\t\ttimeout 1h\n"


def of_both_versions(kind: str, *names: str, more: str = "") -> str:
    """Declarations of sets or maps for each IP version; `more`: what follows the type."""
    return "".join(
        f"\t{kind} {name}{version} {{\n\t\ttype {key.replace('ADDR', f'ipv{version}_addr')}\n{more}\t}}\n\n"
        for name, key in (name.split(" ", 1) for name in names)
        for version in (4, 6)
    )


SETS = "".join(
    (
        of_both_versions("set", "pods ADDR"),
        of_both_versions("map", "egress ADDR : verdict", "ingress ADDR : verdict", "to_node ADDR : verdict"),
        of_both_versions("set", "isolated ADDR", "self ADDR . ADDR", "exempt ADDR"),
        of_both_versions("set", f"cut {FLOW}", more="\t\tflags timeout\n"),
        of_both_versions("set", "left ADDR"),
        of_both_versions("set", "vacant ADDR", more=COUNTING.replace("1h", "5d")),
        of_both_versions("set", "denied_egress ADDR", "denied_ingress ADDR", more=COUNTING),
        "\tset bridges {\n\t\ttype ifname\n\t}\n\n",
    )
)
HEAD = """\
table inet slash24_policy {
	comment "slash24: network policies of pods"
"""
CHAINS = """\
	chain metadata {
	}

	chain node_access {
	}

	chain log_egress {
	}

	chain log_ingress {
	}

	chain held {
		drop comment "held"
	}

	chain refuse {
		meta l4proto tcp reject with tcp reset comment "reset"
		drop comment "refused"
	}

	chain to_bridge {
		ip daddr @pods4 accept comment "pods IPv4"
		ip6 daddr @pods6 accept comment "pods IPv6"
		ip daddr 224.0.0.0/4 accept comment "groups IPv4"
		ip6 daddr ff00::/8 accept comment "groups IPv6"
		ip6 daddr fe80::/10 accept comment "link-local"
		update @vacant4 { ip daddr } accept comment "vacant IPv4"
		update @vacant6 { ip6 daddr } accept comment "vacant IPv6"
		drop comment "too many"
	}

	chain unopened {
		ip saddr @isolated4 goto refuse comment "from IPv4"
		ip6 saddr @isolated6 goto refuse comment "from IPv6"
		ip daddr @isolated4 goto refuse comment "to IPv4"
		ip6 daddr @isolated6 goto refuse comment "to IPv6"
		oifname @bridges goto to_bridge comment "to a bridge"
		accept comment "not isolated"
	}

	chain invalid {
		ip saddr @isolated4 drop comment "from IPv4"
		ip6 saddr @isolated6 drop comment "from IPv6"
		ip daddr @isolated4 drop comment "to IPv4"
		ip6 daddr @isolated6 drop comment "to IPv6"
		oifname @bridges goto to_bridge comment "to a bridge"
		accept comment "not isolated"
	}

	chain denied_egress {
		update @denied_egress4 { ip saddr counter } comment "denied egress IPv4"
		update @denied_egress6 { ip6 saddr counter } comment "denied egress IPv6"
		jump log_egress comment "log"
		drop comment "denied"
	}

	chain denied_ingress {
		update @denied_ingress4 { ip daddr counter } comment "denied ingress IPv4"
		update @denied_ingress6 { ip6 daddr counter } comment "denied ingress IPv6"
		jump log_ingress comment "log"
		drop comment "denied"
	}

	chain to_ingress {
		accept comment "allowed"
	}

	chain connection {
		ip saddr . ip daddr @self4 accept comment "itself IPv4"
		ip6 saddr . ip6 daddr @self6 accept comment "itself IPv6"
		ip saddr . ip daddr . meta l4proto . th sport . th dport @cut4 goto refuse comment "cut IPv4"
		ip6 saddr . ip6 daddr . meta l4proto . th sport . th dport @cut6 goto refuse comment "cut IPv6"
		ip saddr @pods4 jump metadata comment "metadata IPv4"
		ip6 saddr @pods6 jump metadata comment "metadata IPv6"
		ct state invalid goto invalid comment "invalid"
		tcp flags != syn / fin,syn,rst,ack goto unopened comment "unopened"
		ip saddr vmap @egress4 comment "egress IPv4"
		ip6 saddr vmap @egress6 comment "egress IPv6"
		goto to_ingress comment "ingress"
	}

	chain incoming {
		ip saddr . ip daddr @self4 accept comment "itself IPv4"
		ip6 saddr . ip6 daddr @self6 accept comment "itself IPv6"
		ip daddr vmap @ingress4 comment "ingress IPv4"
		ip6 daddr vmap @ingress6 comment "ingress IPv6"
		oifname @bridges goto to_bridge comment "to a bridge"
		accept comment "not isolated"
	}

	chain from_pod {
		ip saddr . ip daddr . meta l4proto . th sport . th dport @cut4 goto refuse comment "cut IPv4"
		ip6 saddr . ip6 daddr . meta l4proto . th sport . th dport @cut6 goto refuse comment "cut IPv6"
		jump metadata comment "metadata"
		ip saddr vmap @to_node4 comment "to the node IPv4"
		ip6 saddr vmap @to_node6 comment "to the node IPv6"
		goto node_access comment "node access"
	}

	chain by_another_link {
		oifname != @bridges fib saddr type local accept comment "switched from the node"
		oifname != @bridges fib daddr type local accept comment "switched to the node"
		meta iifkind "bridge" return comment "by a bridge"
		ip saddr @pods4 drop comment "forged IPv4"
		ip6 saddr @pods6 drop comment "forged IPv6"
	}

	chain forward {
		type filter hook forward priority filter + 10; policy accept;
		ct state established,related accept comment "open"
		ip6 hoplimit 255 icmpv6 type nd-neighbor-solicit accept comment "solicitations"
		ip6 hoplimit 255 icmpv6 type nd-neighbor-advert accept comment "advertisements"
		ip daddr 224.0.0.0/4 meta l4proto igmp accept comment "groups"
		iifname != @bridges jump by_another_link comment "by another link"
		goto connection comment "new"
	}

	chain forward_ingress {
		type filter hook forward priority 11; policy accept;
		ct state established,related accept comment "open"
		ip6 hoplimit 255 icmpv6 type nd-neighbor-solicit accept comment "solicitations"
		ip6 hoplimit 255 icmpv6 type nd-neighbor-advert accept comment "advertisements"
		ip daddr 224.0.0.0/4 meta l4proto igmp accept comment "groups"
		iifname != @bridges jump by_another_link comment "by another link"
		goto incoming comment "new"
	}

	chain output {
		type filter hook output priority filter + 10; policy accept;
		icmp type redirect oifname @bridges drop comment "redirects IPv4"
		icmpv6 type nd-redirect oifname @bridges drop comment "redirects IPv6"
		ct state established,related accept comment "open"
		ip saddr . ip daddr . meta l4proto . th sport . th dport @cut4 goto refuse comment "cut IPv4"
		ip6 saddr . ip6 daddr . meta l4proto . th sport . th dport @cut6 goto refuse comment "cut IPv6"
		ip6 saddr fe80::/10 accept comment "own link-local"
		fib saddr type local accept comment "own"
		tcp flags rst / syn,rst accept comment "resets"
		goto connection comment "new"
	}

	chain output_ingress {
		type filter hook output priority 11; policy accept;
		ct state established,related accept comment "open"
		ip6 saddr fe80::/10 accept comment "own link-local"
		fib saddr type local accept comment "own"
		tcp flags rst / syn,rst accept comment "resets"
		goto incoming comment "new"
	}

	chain input {
		type filter hook input priority 101; policy accept;
		ct state established,related accept comment "open"
		ip6 hoplimit 255 icmpv6 type nd-neighbor-solicit accept comment "solicitations"
		ip6 hoplimit 255 icmpv6 type nd-neighbor-advert accept comment "advertisements"
		ip saddr @pods4 goto from_pod comment "pods IPv4"
		ip6 saddr @pods6 goto from_pod comment "pods IPv6"
		iifname @bridges ip6 saddr fe80::/10 meta l4proto != ipv6-icmp drop comment "link-local"
		iifname @bridges ip6 saddr :: meta l4proto != ipv6-icmp drop comment "nobody IPv6"
		iifname @bridges ip saddr 0.0.0.0 meta l4proto igmp accept comment "groups"
		iifname @bridges ip saddr 0.0.0.0 udp dport 67 goto node_access comment "DHCP"
		iifname @bridges ip saddr 0.0.0.0 drop comment "nobody IPv4"
	}
}
"""
EMPTY = HEAD + SETS + CHAINS

EMPTY_BRIDGE = """\
table bridge slash24_policy {
	comment "slash24: the node routes between pods with network policies"
	map gateways {
		type devgroup : ether_addr
	}

	set groups {
		type devgroup
	}

	set routers {
		type devgroup . ether_addr
	}

	set receivers {
		type ifname
	}

	set senders {
		type ifname
	}

	chain switched {
		meta pkttype host accept comment "routed"
		iifgroup 620756992 accept comment "from the node"
		meta protocol arp accept comment "ARP"
		icmpv6 type 130-136 accept comment "neighbours"
		icmpv6 type mld2-listener-report accept comment "MLD"
		ip protocol igmp accept comment "IGMP"
		drop comment "others"
	}

	chain not_ipv4 {
		ether type != ip6 return comment "not IP"
		ip6 daddr fe80::/10 return comment "to link-local"
		ip6 saddr fe80::/10 return comment "from link-local"
		icmpv6 type 130-137 return comment "neighbours"
		ip6 daddr != ff00::/8 ether daddr set iifgroup map @gateways meta pkttype set host comment "IPv6"
	}

	chain prerouting {
		type filter hook prerouting priority dstnat + 1; policy accept;
		iifgroup . ether saddr @routers drop comment "forged"
		ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 return comment "to many"
		ether type != ip goto not_ipv4 comment "not IPv4"
		ip daddr != 224.0.0.0/4 ether daddr set iifgroup map @gateways meta pkttype set host comment "IPv4"
	}

	chain forward {
		type filter hook forward priority filter; policy accept;
		icmp type redirect oifgroup @groups drop comment "redirects IPv4"
		icmpv6 type nd-redirect oifgroup @groups drop comment "redirects IPv6"
		oifgroup != 620756992 iifgroup . ether daddr @routers drop comment "astray"
		oifname @receivers goto switched comment "receivers"
		iifname @senders goto switched comment "senders"
	}
}
"""


def holding(text: str, **elements: str) -> str:
    """A table as `nft list table` prints it, with these elements by set or map."""
    for name, listed in elements.items():
        head = re.search(rf"(set|map) {name} {{\n(\t\t.*\n)+", text)[0]
        text = text.replace(head, f"{head}\t\telements = {{ {listed} }}\n")
    return text


GATEWAY = {"gateways": f"{GROUP} : {MAC}", "groups": f"{GROUP}", "routers": f"{GROUP} . {MAC}"}
HELD = {
    f"{name}{version}": f"{ip} {TAG}{verdict}"
    for version, ip in zip((4, 6), IPS, strict=True)
    for name, verdict in {"pods": "", "isolated": "", "egress": " : goto held", "ingress": " : goto held"}.items()
} | {"bridges": '"cbr0"', "self4": f"{IPS[0]} . {IPS[0]} {TAG}", "self6": f"{IPS[1]} . {IPS[1]} {TAG}"}
LINK = {"receivers": f'"vetha" {TAG}', "senders": f'"vetha" {TAG}'}


def hold(node: Node, owner: Attachment = ALICE, ips: tuple[str, ...] = IPS, link: str = "vetha") -> frozenset[str]:
    """Hold a pod of net1."""
    return on(node, policy.hold, owner, ips, link, GROUP, MAC, "cbr0")


POLICIES = """
add chain inet slash24_policy in-1
add chain inet slash24_policy to-1
add rule inet slash24_policy in-1 goto denied_ingress
"""
DECIDED = f"""
delete element inet slash24_policy egress4 {{ 10.1.2.5 }}
delete element inet slash24_policy ingress4 {{ 10.1.2.5 }}
add element inet slash24_policy ingress4 {{ 10.1.2.5 {TAG} : goto in-1 }}
add element inet slash24_policy to_node4 {{ 10.1.2.5 {TAG} : goto to-1 }}
add element inet slash24_policy exempt4 {{ 10.1.2.5 }}
delete element bridge slash24_policy senders {{ vetha }}
"""


def decide(node: Node) -> None:
    """Do as the daemon does: let alice's IPv4 address lead to the chains of her policies."""
    nft(node, "-f", "-", stdin=POLICIES)
    nft(node, "-f", "-", stdin=DECIDED)


def assert_nothing_but_gateway(node: Node, **left: str) -> None:
    """The tables hold no elements of pods."""
    assert table(node, INET) == holding(EMPTY, bridges='"cbr0"', **left)
    assert table(node, BRIDGE) == holding(EMPTY_BRIDGE, **GATEWAY)


def assert_alice_is_held(node: Node) -> None:
    """The tables hold nothing but the base and alice, held."""
    assert table(node, INET) == holding(EMPTY, **HELD)
    assert table(node, BRIDGE) == holding(EMPTY_BRIDGE, **GATEWAY, **LINK)
    assert on(node, policy.problems, ALICE, IPS, "vetha") == []
    assert on(node, policy.is_held, IPS) is True
