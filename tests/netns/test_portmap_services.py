"""`portmap` beside kube-proxy: a Service's traffic reaches the Service, in each mode and whichever rules came first.

The rules are those that kube-proxy writes, reduced to the Services here. IPVS itself is not needed: it handles what is
delivered to the node for an address of kube-ipvs0, so a listener on the node stands in for it.
"""

from collections.abc import Callable

import pytest

from tests.netns.cni import CNI, CNIFailure
from tests.netns.nft_tools import nft, table
from tests.netns.node import NODE_V4, NODE_V6, OUTSIDE_V4, OUTSIDE_V6, Host, Node, Pod, ask
from tests.netns.published import HTTP, OTHER_V4, POD_V4, POD_V6, TABLE, Member, port, sctp_arrives

CLUSTER_IP = {4: "10.96.0.1", 6: "fd00:96::1"}
NODE, OUTSIDE, POD = {4: NODE_V4, 6: NODE_V6}, {4: OUTSIDE_V4, 6: OUTSIDE_V6}, {4: POD_V4, 6: POD_V6}
PODS = {4: "10.1.2.0/24", 6: "fd00:1::/64"}
IPTABLES = {4: "iptables", 6: "ip6tables"}
LOCALHOST = {4: "127.0.0.0/8", 6: "::1/128"}
MARKS = (
    "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
    "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
    "-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0",
    "-A KUBE-POSTROUTING -j MASQUERADE --random-fully",
)


@pytest.fixture
def outside(node: Node) -> Pod:
    """The external host; created first, which gives the node its addresses."""
    return node.outside()


@pytest.fixture
def pod(cni: CNI, outside: Pod) -> Member:
    """The pod that gets the host ports, 10.1.2.2 and fd00:1::2."""
    made = Member(cni, "poda")
    assert made.pod.reaches("fd00:1::1", timeout=15)
    return made


@pytest.fixture
def client(cni: CNI, pod: Member) -> Member:
    """A pod that connects to ports of the node."""
    made = Member(cni, "client")
    assert made.pod.reaches("fd00:1::1", timeout=15)
    return made


def address_of(member: Member, version: int) -> str:
    """The pod's address of an IP version."""
    found = [ip["address"].partition("/")[0] for ip in member.result["ips"]]
    return next(address for address in found if (":" in address) == (version == 6))


def restore(node: Node, version: int, *lines: str) -> None:
    """Restore chains into iptables' nat table and insert jumps at the top of the built-in ones, as kube-proxy does."""
    chains = ("SERVICES", "NODEPORTS", "MARK-MASQ", "POSTROUTING", "SVC-HTTPS", "SEP-HTTPS")
    text = "\n".join(["*nat", *(f":KUBE-{chain} - [0:0]" for chain in chains), *MARKS, *lines, "COMMIT", ""])
    node.run([f"{IPTABLES[version]}-restore", "--noflush"], stdin=text)
    for hook, target in (("PREROUTING", "SERVICES"), ("OUTPUT", "SERVICES"), ("POSTROUTING", "POSTROUTING")):
        node.run([IPTABLES[version], "-t", "nat", "-I", hook, "-j", f"KUBE-{target}"])


def by_iptables(node: Node, version: int, endpoint: str = "") -> None:
    """Mode iptables: a ClusterIP, an external address that is the node's own, and a NodePort, all translated."""
    endpoint = endpoint or OUTSIDE[version]
    target = {4: f"{endpoint}:9443", 6: f"[{endpoint}]:9443"}[version]
    restore(
        node,
        version,
        f"-A KUBE-SERVICES -d {CLUSTER_IP[version]} -p tcp -m tcp --dport 443 -j KUBE-SVC-HTTPS",
        f"-A KUBE-SERVICES -d {CLUSTER_IP[version]} -p udp -m udp --dport 443 -j KUBE-SVC-HTTPS",
        f"-A KUBE-SERVICES -d {CLUSTER_IP[version]} -p sctp -m sctp --dport 443 -j KUBE-SVC-HTTPS",
        f"-A KUBE-SERVICES -d {NODE[version]} -p tcp -m tcp --dport 443 -j KUBE-SVC-HTTPS",
        f"-A KUBE-SERVICES -d {NODE[version]} -p udp -m udp --dport 443 -j KUBE-SVC-HTTPS",
        f"-A KUBE-SERVICES -d {NODE[version]} -p sctp -m sctp --dport 443 -j KUBE-SVC-HTTPS",
        f"-A KUBE-SERVICES ! -d {LOCALHOST[version]} -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",
        "-A KUBE-NODEPORTS -p tcp -m tcp --dport 30443 -j KUBE-SVC-HTTPS",
        "-A KUBE-NODEPORTS -p udp -m udp --dport 30443 -j KUBE-SVC-HTTPS",
        "-A KUBE-NODEPORTS -p sctp -m sctp --dport 30443 -j KUBE-SVC-HTTPS",
        "-A KUBE-SVC-HTTPS -j KUBE-MARK-MASQ",
        "-A KUBE-SVC-HTTPS -j KUBE-SEP-HTTPS",
        f"-A KUBE-SEP-HTTPS -p tcp -m tcp -j DNAT --to-destination {target}",
        f"-A KUBE-SEP-HTTPS -p udp -m udp -j DNAT --to-destination {target}",
        f"-A KUBE-SEP-HTTPS -p sctp -m sctp -j DNAT --to-destination {target}",
    )


def by_nftables(node: Node, version: int, endpoint: str = "") -> None:
    """Mode nftables: the same."""
    ip, target = {4: "ip", 6: "ip6"}[version], endpoint or OUTSIDE[version]
    services = ", ".join(
        f"{address} . {protocol} . 443 : goto service-https"
        for address in (CLUSTER_IP[version], NODE[version])
        for protocol in ("tcp", "udp", "sctp")
    )
    nodeports = ", ".join(f"{protocol} . 30443 : goto service-https" for protocol in ("tcp", "udp", "sctp"))
    nft(node, "-f", "-", stdin=f"""
        table {ip} kube-proxy {{
            map service-ips {{ type {ip}{"v4" if version == 4 else ""}_addr . inet_proto . inet_service : verdict
                elements = {{ {services} }}
            }}
            map service-nodeports {{ type inet_proto . inet_service : verdict
                elements = {{ {nodeports} }}
            }}
            set nodeport-ips {{ type {ip}{"v4" if version == 4 else ""}_addr; elements = {{ {NODE[version]} }} }}
            chain service-https {{
                mark set mark or 0x4000
                meta l4proto {{ tcp, udp, sctp }} dnat to {f"[{target}]" if version == 6 else target}:9443
            }}
            chain services {{
                {ip} daddr . meta l4proto . th dport vmap @service-ips
                {ip} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
            }}
            chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
            chain nat-output {{ type nat hook output priority -100; jump services; }}
            chain nat-postrouting {{ type nat hook postrouting priority srcnat; mark and 0x4000 != 0 masquerade; }}
        }}""".replace("ip6_addr", "ipv6_addr"))  # fmt: skip


def by_ipvs(node: Node, version: int) -> None:
    """Mode ipvs: the ClusterIP is on kube-ipvs0, and iptables accepts packets to it."""
    node.run(["sh", "-c", "ip link show kube-ipvs0 2>/dev/null || ip link add kube-ipvs0 up type bridge"])
    node.run(["ip", "address", "add", f"{CLUSTER_IP[version]}/{32 if version == 4 else 128}", "dev", "kube-ipvs0", *(
        ["nodad"] if version == 6 else [])])  # fmt: skip
    is_service = [f"-d {CLUSTER_IP[version]} -p {kind} -m {kind} --dport 443" for kind in ("tcp", "udp", "sctp")]
    restore(
        node,
        version,
        f"-A KUBE-SERVICES -s {LOCALHOST[version]} -j RETURN",
        *(f"-A KUBE-SERVICES ! -s {PODS[version]} {one} -j KUBE-MARK-MASQ" for one in is_service),
        "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",
        *(f"-A KUBE-SERVICES {one} -j ACCEPT" for one in is_service),
    )


ORDERS = pytest.mark.parametrize("first", ["kube-proxy", "host ports"])
PORTS = [port(number, 80, kind) for number in (443, 30443, 8080) for kind in ("tcp", "udp", "sctp")]


def both(pod: Member, first: str, proxy: Callable[[Node, int], None]) -> None:
    """Set up the pod's ports and kube-proxy's rules, in the order that `first` gives."""
    if first == "host ports":
        pod.add(*PORTS)
    for version in (4, 6):
        proxy(pod.node, version)
    if first == "kube-proxy":
        pod.add(*PORTS)


def clients(pod: Member, client: Member, outside: Pod) -> dict[str, Host]:
    """The hosts that connect."""
    return {"pod": client.pod, "node": pod.node, "outside": outside, "the pod itself": pod.pod}


@ORDERS
@pytest.mark.parametrize("proxy", [by_iptables, by_nftables])
def test_services_that_kube_proxy_translates_take_precedence(
    pod: Member, client: Member, outside: Pod, first: str, proxy: Callable
) -> None:
    """ClusterIP, external address and NodePort lead to the Service's endpoint although a pod has these host ports.

    The endpoint is outside the node, so clients outside are left out.
    """
    both(pod, first, proxy)
    for version in (4, 6):
        for asks, host in clients(pod, client, outside).items():
            if asks == "outside":
                continue
            for to in ((CLUSTER_IP[version], 443), (NODE[version], 443), (NODE[version], 30443)):
                for kind in ("tcp", "udp"):
                    if asks == "node" and to[0] == CLUSTER_IP[version]:
                        continue  # routed to the world without kube-proxy's own route
                    assert ask(host, outside, OUTSIDE[version], 9443, kind, to=to), f"{asks} {to} {kind}"


@ORDERS
@pytest.mark.parametrize("proxy", [by_iptables, by_nftables])
def test_services_take_precedence_for_clients_outside_too(
    pod: Member, client: Member, outside: Pod, first: str, proxy: Callable
) -> None:
    """The same for clients outside the node; the endpoint is a pod."""
    both(pod, first, lambda node, version: proxy(node, version, address_of(client, version)))
    for version in (4, 6):
        for to in ((NODE[version], 443), (NODE[version], 30443)):
            for kind in ("tcp", "udp"):
                assert ask(outside, client.pod, address_of(client, version), 9443, kind, to=to), f"{to} {kind}"


@ORDERS
@pytest.mark.parametrize("proxy", [by_iptables, by_nftables])
def test_sctp(pod: Member, client: Member, outside: Pod, first: str, proxy: Callable) -> None:
    """The same over SCTP: a Service's port leads to its endpoint, any other host port to the pod."""
    both(pod, first, proxy)
    for to in ((CLUSTER_IP[4], 443), (NODE_V4, 443), (NODE_V4, 30443)):
        assert sctp_arrives(client.pod, OTHER_V4, to, outside) == 9443
    assert sctp_arrives(outside, OUTSIDE_V4, (NODE_V4, 8080), pod.pod) == 80


@ORDERS
@pytest.mark.parametrize("proxy", [by_iptables, by_nftables, by_ipvs])
def test_host_ports_work_beside_kube_proxy(
    pod: Member, client: Member, outside: Pod, first: str, proxy: Callable
) -> None:
    """A port that belongs to no Service leads to the pod, at every address of the node and from every client."""
    both(pod, first, proxy)
    for version in (4, 6):
        for asks, host in clients(pod, client, outside).items():
            gateway = {4: "10.1.2.1", 6: "fd00:1::1"}[version]
            for to in (NODE[version], *(() if asks == "outside" else (gateway,))):
                for kind in ("tcp", "udp"):
                    assert ask(host, pod.pod, POD[version], 80, kind, to=(to, 8080)), f"{asks} {to} {kind}"
    assert ask(pod.node, pod.pod, POD_V4, 80, "tcp", to=("127.0.0.1", 8080))
    pod.check(*PORTS)


@ORDERS
def test_services_in_ipvs_mode_take_precedence(pod: Member, client: Member, outside: Pod, first: str) -> None:
    """The Service answers at its address, which is local to the node; at other addresses the port leads to the pod."""
    both(pod, first, by_ipvs)
    for version in (4, 6):
        for host in clients(pod, client, outside).values():
            for kind in ("tcp", "udp"):
                assert ask(host, pod.node, CLUSTER_IP[version], 443, kind)
                assert ask(host, pod.pod, POD[version], 80, kind, to=(NODE[version], 443))


@pytest.mark.parametrize("link", ["kube-ipvs0", "kube-dummy-if"])
def test_addresses_of_an_ipvs_proxy_have_no_host_ports(pod: Member, client: Member, link: str) -> None:
    """As of the last ADD, even without visible rules (iptables-legacy, kube-router); unless another link has them."""
    node = pod.node
    node.run(["ip", "link", "add", link, "up", "type", "bridge"])
    for address in (f"{CLUSTER_IP[4]}/32", f"{CLUSTER_IP[6]}/128", f"{NODE_V4}/32"):
        node.run(["ip", "address", "add", address, "dev", link, *(["nodad"] if ":" in address else [])])
    pod.add(port(443, 80))
    for version in (4, 6):
        for host in (client.pod, node):
            assert ask(host, node, CLUSTER_IP[version], 443, "tcp")
            assert ask(host, pod.pod, POD[version], 80, "tcp", to=(NODE[version], 443))
    assert 'elements = { fd00:96::1 comment "services" }' in table(node, TABLE)
    pod.check(port(443, 80))
    node.run(["ip", "link", "delete", link])
    client.add(HTTP)
    assert 'services" }' not in table(node, TABLE)
    client.delete()
    pod.check(port(443, 80))


def test_the_mark_bit_is_cleared_before_other_chains_see_it(pod: Member, client: Member) -> None:
    """The other bits of the packet's mark are kept."""
    node = pod.node
    pod.add(HTTP)
    nft(node, "-f", "-", stdin="""
        table inet watch {
            counter marked { }
            counter kept { }
            chain before { type filter hook prerouting priority -150; meta mark set 0x40; }
            chain after { type filter hook prerouting priority -90;
                meta mark & 0x1000 != 0 counter name marked
                meta mark 0x40 ct state new counter name kept
            }
            chain input { type filter hook input priority 0; meta mark & 0x1000 != 0 counter name marked; }
            chain forward { type filter hook forward priority 0; meta mark & 0x1000 != 0 counter name marked; }
        }""")  # fmt: skip
    assert ask(client.pod, pod.pod, POD_V4, 80, "tcp", to=(NODE_V4, 8080))
    assert ask(client.pod, node, NODE_V4, 99, "tcp")
    assert "packets 0 " in nft(node, "list", "counter", "inet", "watch", "marked")
    assert "packets 2 " in nft(node, "list", "counter", "inet", "watch", "kept")


@pytest.mark.parametrize("version", [4, 6])
def test_iptables_can_handle_the_rules(pod: Member, version: int) -> None:
    """It lists, saves and restores them, and deletes them by their listed form."""
    pod.add(HTTP)
    shown = pod.node.run([f"{IPTABLES[version]}-save", "-t", "nat"]).stdout
    rules = [line for line in shown.splitlines() if "slash24" in line]
    assert [line.split()[1] for line in rules] == ["PREROUTING", "OUTPUT"], shown
    assert all("--dst-type LOCAL" in line and line.endswith("--set-xmark 0x1000/0x1000") for line in rules)
    pod.node.run([f"{IPTABLES[version]}-restore"], stdin=shown)
    pod.check(HTTP)
    for line in rules:
        pod.node.run(["sh", "-c", f"{IPTABLES[version]} -t nat {line.replace('-A', '-D', 1)}"])
    assert "slash24" not in pod.node.run([f"{IPTABLES[version]}-save", "-t", "nat"]).stdout


def test_check_reports_flushed_iptables_rules_and_add_restores_them(pod: Member, client: Member, outside: Pod) -> None:
    """The next ADD of any pod restores the host ports of all pods."""
    pod.add(HTTP)
    for version in (4, 6):
        pod.node.run([IPTABLES[version], "-t", "nat", "-F"])
        with pytest.raises(CNIFailure, match="host ports get no packets"):
            pod.check(HTTP)
        client.add(port(8081, 81))
        pod.check(HTTP)
        assert ask(outside, pod.pod, POD[version], 80, "tcp", to=(NODE[version], 8080)) == OUTSIDE[version]


def test_add_moves_the_rule_behind_rules_appended_since(pod: Member, client: Member) -> None:
    """A rule appended behind ours is in front of it after the next ADD."""
    pod.add(HTTP)
    pod.node.run(["iptables", "-t", "nat", "-A", "PREROUTING", "-d", NODE_V4, "-j", "ACCEPT"])
    client.add(port(8081, 81))
    rules = pod.node.run(["iptables", "-t", "nat", "-S", "PREROUTING"]).stdout.splitlines()
    assert ["ACCEPT" in rule for rule in rules[1:]] == [True, False]


def test_a_foreign_mark_rule_is_not_taken_for_ours(pod: Member, client: Member) -> None:
    """Another program's rule that sets the same bit stays, and does not count as our missing rule."""
    theirs = ["-d", NODE_V4, "-p", "tcp", "--dport", "9", "-j", "MARK", "--set-xmark", "0x1000/0x1000"]
    pod.node.run(["iptables", "-t", "nat", "-A", "PREROUTING", *theirs])
    pod.node.run(["iptables", "-t", "nat", "-A", "OUTPUT", "-j", "MARK", "--set-xmark", "0x1000/0xffff"])
    pod.add(HTTP)
    pod.check(HTTP)
    pod.node.run(["iptables", "-t", "nat", "-C", "PREROUTING", *theirs])
    for chain in ("PREROUTING", "OUTPUT"):
        rules = pod.node.run(["iptables", "-t", "nat", "-S", chain]).stdout.splitlines()
        assert ["slash24" in rule for rule in rules[1:]] == [False, True]


def test_host_ports_work_without_the_iptables_rule(pod: Member, outside: Pod) -> None:
    """If it cannot be added (here: another chain has the name), packets do not need its mark."""
    nft(pod.node, "add table ip nat; add chain ip nat PREROUTING { type filter hook input priority 0; }")
    pod.add(HTTP)
    pod.check(HTTP)
    assert "iptables has v4" not in table(pod.node, TABLE)
    for version in (4, 6):
        assert ask(outside, pod.pod, POD[version], 80, "tcp", to=(NODE[version], 8080)) == OUTSIDE[version]


def test_firewalld_lets_host_ports_pass(pod: Member, client: Member, outside: Pod) -> None:
    """Its forward chain accepts translated packets before it rejects the rest; its own translations come after ours."""
    pod.add(HTTP)
    nft(pod.node, "-f", "-", stdin="""
        table inet firewalld {
            chain nat_PREROUTING { type nat hook prerouting priority dstnat + 10; }
            chain filter_FORWARD { type filter hook forward priority filter + 10;
                ct state { established, related } accept
                ct status dnat accept
                reject with icmpx admin-prohibited
            }
        }""")  # fmt: skip
    for version in (4, 6):
        assert ask(outside, pod.pod, POD[version], 80, "tcp", to=(NODE[version], 8080)) == OUTSIDE[version]
        assert ask(client.pod, pod.pod, POD[version], 80, "tcp", to=(NODE[version], 8080))


@pytest.mark.parametrize("nat", ["none", "docker's"])
def test_a_failed_first_add_leaves_iptables_as_it_was(pod: Member, nat: str) -> None:
    """Our rules are deleted with the table that needed them; other programs' rules stay."""
    if nat == "docker's":
        pod.node.run(["iptables", "-t", "nat", "-N", "DOCKER"])
        pod.node.run(["iptables", "-t", "nat", "-A", "PREROUTING", "-j", "DOCKER"])
        pod.node.run(["iptables", "-t", "nat", "-A", "OUTPUT", "-j", "DOCKER"])
    before = rules_of(pod.node)
    pod.node.run(["mount", "--bind", "-o", "ro", "/proc/sys", "/proc/sys"])
    with pytest.raises(CNIFailure, match="route from"):
        pod.add(HTTP)
    assert rules_of(pod.node) == before


def rules_of(node: Node) -> str:
    """The rules of the node, without counters."""
    return node.run(["nft", "-s", "list", "ruleset"]).stdout
