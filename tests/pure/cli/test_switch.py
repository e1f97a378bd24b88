"""What is a provider's, decided on listings; without a kernel that has all kinds of them."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from cli.facts.networks import Network, read_networks
from cli.switch import files, find, firewall, names, routing, seen
from cli.switch.files import Configurations
from cli.switch.leftover import Leftover
from cli.switch.providers import ALL, AWS, CALICO, CILIUM, FLANNEL, KUBE_ROUTER, LYFT, WEAVE, Provider
from cli.switch.seen import Seen, parse_saved
from linux.ipsets import IPSet
from linux.rtnl.links import Link
from linux.rtnl.policy_routing import LOCAL, MAIN, PolicyRule


def link(name: str, kind: str, *, mac: str = "02:00:00:00:00:01", alias: str = "", flags: int = 0) -> Link:
    """A link of that name and kind; flags as IFF_*."""
    return Link(7, name, kind, mac, 1500, flags, "UP", alias, 0, 0, None, 0, 1000, b"", b"")


def rule(priority: int, table: int, **more: object) -> PolicyRule:
    """A rule of policy routing."""
    plain = {"src": "", "dst": "", "mark": 0, "mask": 0, "iif": "", "oif": "", "inverted": False, "message": b""}
    return PolicyRule(family=2, priority=priority, table=table, **{**plain, **more})


@pytest.mark.parametrize(
    ("provider", "name", "kind", "mac"),
    [
        ("flannel", "flannel.1", "vxlan", ""),
        ("flannel", "flannel-v6.4096", "vxlan", ""),
        ("flannel", "flannel0", "tun", ""),
        ("flannel", "flannel.ipip", "ipip", ""),
        ("flannel", "flannel-wg-v6", "wireguard", ""),
        ("calico", "cali0123456789a", "veth", ""),
        ("calico", "vxlan-v6.calico", "vxlan", ""),
        ("calico", "wg-v6.cali", "wireguard", ""),
        ("calico", "bpfin.cali", "veth", ""),
        ("cilium", "cilium_geneve", "geneve", ""),
        ("cilium", "lxc_health", "veth", ""),
        ("weave", "datapath", "openvswitch", ""),
        ("weave", "vethwedu", "dummy", ""),
        ("kube-router", "kube-tunnel-if", "ipip", ""),
        ("kube-router", "tun-0a1b2c3d4e5", "ip6tnl", ""),
        ("kindnet", "knet-xfrm0", "xfrm", ""),
        ("kopeio", "vxlan1", "vxlan", "00:53:0a:f4:01:00"),
        ("romana", "romana-gw", "dummy", ""),
        ("aws", "vlan.eth.12", "vlan", ""),
    ],
)
def test_a_link_is_one_providers(provider: str, name: str, kind: str, mac: str) -> None:
    """And no other's; not if it is slash24's now."""
    one = link(name, kind, **({"mac": mac} if mac else {}))
    assert [each.name for each in ALL if routing.is_link_of(each, one)] == [provider]
    for alias in ("slash24 vtep", "v1:net:container:eth0"):
        assert not any(routing.is_link_of(each, link(name, kind, mac=mac, alias=alias)) for each in ALL)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("vxlan1", "vxlan"),
        ("lxcbr0", "bridge"),
        ("lxc0123456789ab", "bridge"),
        ("datapath", "bridge"),
        ("veth0123456", "veth"),
        ("eni0123456789a", ""),
        ("vxlan.100", "vxlan"),
        ("slash24.1", "vxlan"),
        ("cni0", "bridge"),
        ("docker0", "bridge"),
        ("kube-ipvs0", "dummy"),
        ("tunl0", "ipip"),
        ("tun-vpn", "tun"),
    ],
)
def test_other_links_are_nobodys(name: str, kind: str) -> None:
    """Whatever they resemble."""
    assert [each.name for each in ALL if routing.is_link_of(each, link(name, kind))] == []


def test_the_tunnel_that_cannot_be_deleted() -> None:
    """Calico's IPIP uses the link that the kernel makes with the module: it is emptied, if it is up."""
    (found,) = routing.find_fallback_links(CALICO, Seen(links=[link("tunl0", "ipip", flags=1)]))
    assert found.commands == ("ip addr flush dev tunl0", "ip link set tunl0 down")
    assert list(routing.find_fallback_links(CALICO, Seen(links=[link("tunl0", "ipip")]))) == []
    assert list(routing.find_fallback_links(FLANNEL, Seen(links=[link("tunl0", "ipip", flags=1)]))) == []


def test_a_datapath_needs_its_program() -> None:
    """Links of Open vSwitch cannot be deleted by rtnetlink; without ovs-dpctl that is told."""
    (found,) = routing.find_links(WEAVE, Seen(links=[link("datapath", "openvswitch")]))
    assert found.commands == ("ovs-dpctl del-dp datapath",)
    with pytest.raises(OSError, match="needs the program ovs-dpctl, which is not installed"):
        found.remove()


@pytest.mark.parametrize(
    ("provider", "one", "expected"),
    [
        (AWS, rule(512, MAIN, dst="10.1.2.3/32"), True),
        (AWS, rule(512, MAIN), False),
        (AWS, rule(512, MAIN, mark=0x2000, mask=0xFFFFFFFF), False),
        (AWS, rule(10, 105, iif="vlan.eth.5"), True),
        (AWS, rule(10, 105, iif="eth0"), False),
        (AWS, rule(20, LOCAL), True),
        (AWS, rule(0, LOCAL), False),
        (CILIUM, rule(0, LOCAL), False),
        (CILIUM, rule(100, LOCAL), True),
        (CALICO, rule(99, 1, mark=0x100000, mask=0x100000, inverted=True), True),
        (CALICO, rule(99, 1), False),
        (LYFT, rule(1024, MAIN, mark=0x80, mask=0x80), False),
        (LYFT, rule(1024, 300, iif="veth1"), True),
        (KUBE_ROUTER, rule(32765, 79), True),
        (KUBE_ROUTER, rule(32766, MAIN), False),
    ],
)
def test_rules_of_policy_routing(provider: Provider, one: PolicyRule, expected: bool) -> None:
    """By what each provider puts into them; the kernel's own are nobody's."""
    choices = [choice for choice in (provider.rules, provider.weak_rules) if choice]
    assert any(choice(one) for choice in choices) is expected


SAVED = """# Generated by iptables-save v1.8.9
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:WEAVE - [0:0]
:OTHERS - [0:0]
-A POSTROUTING -j WEAVE
-A POSTROUTING -m comment --comment "it's another's" -j OTHERS
-A POSTROUTING -o weave+ -j ACCEPT
-A POSTROUTING -m set --match-set weave-a src -j RETURN
-A WEAVE -m set --match-set weaver-no-masq-local dst -j RETURN
-A OTHERS "unbalanced
COMMIT
"""


def test_rules_of_iptables_legacy() -> None:
    """Those that lead to chains come first, and all are deleted by their own words."""
    table = parse_saved("iptables-legacy", "nat", SAVED)
    assert table.chains == ("WEAVE", "OTHERS")
    ((need, found),) = firewall.find_chains(WEAVE, Seen(xtables=[table]), weak=False)
    assert need == ""
    start = "iptables-legacy -w 10 -t nat"
    assert found.commands == (
        f"{start} -D POSTROUTING -j WEAVE",
        f"{start} -D POSTROUTING -o weave+ -j ACCEPT",
        f"{start} -D POSTROUTING -m set --match-set weave-a src -j RETURN",
        f"{start} -F WEAVE",
        f"{start} -X WEAVE",
    )


def test_tables_that_cannot_be_listed_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without iptables-legacy-save nobody knows what is in them."""
    listed = tmp_path / "ip_tables_names"
    listed.write_text("nat\nfilter\n")
    monkeypatch.setattr(seen, "_LEGACY", (("no-such-iptables", str(listed)), ("no-such", str(tmp_path / "none"))))
    notes: list[str] = []
    assert list(seen._legacy_tables(notes)) == []
    assert notes == [
        "there are tables of no-such-iptables (nat, filter), which only no-such-iptables-save can list: install it"
    ]


def test_a_rule_by_a_match_alone_is_weak() -> None:
    """kube-router's IPVS rules have no other mark, and somebody else may use the match."""
    text = "*nat\n-A POSTROUTING -m ipvs --ipvs --vdir ORIGINAL -j SNAT --to-source 192.0.2.1\n"
    there = Seen(xtables=[parse_saved("iptables-legacy", "nat", text)])
    assert list(firewall.find_chains(KUBE_ROUTER, there, weak=False)) == []
    assert len(list(firewall.find_chains(KUBE_ROUTER, there, weak=True))) == 1


def test_sets_that_contain_sets_come_first() -> None:
    """The others cannot be destroyed before."""
    sets = [IPSet("weave-a", "hash:ip"), IPSet("weave-b", "list:set"), IPSet("KUBE-CLUSTER-IP", "hash:ip")]
    assert [one.name for one in firewall.find_sets(WEAVE, Seen(sets=sets))] == ["weave-b", "weave-a"]


def networks(folder: Path, **lists: Sequence[dict]) -> Configurations:
    """The configurations of a folder with these lists, by the names of files."""
    for name, plugins in lists.items():
        document = {"cniVersion": "1.0.0", "name": name, "plugins": plugins}
        (folder / f"{name}.conflist").write_text(json.dumps(document))
    return Configurations(read_networks(str(folder)))


def of(configurations: Configurations, provider: str) -> list[str]:
    """The names of a provider's networks."""
    (one,) = (each for each in ALL if each.name == provider)
    return [network.name for network in configurations.of(one)]


def test_whose_a_configuration_is(tmp_path: Path) -> None:
    """By its plugins; a plain bridge only beside a configuration of slash24, and no tool's own networks."""
    plain = {"type": "bridge", "bridge": "cni0", "ipam": {"type": "host-local"}}
    lists = {
        "plain": [plain],
        "kubenets": [{**plain, "bridge": "cbr0"}],
        "routers": [{**plain, "bridge": "kube-bridge"}],
        "nerdctls": [{**plain, "nerdctlID": "x"}],
        "podman": [plain],
        "chained": [{"type": "ptp"}, {"type": "cilium-cni"}],
        "strange": [{"type": "bridge", "bridge": 5}],
    }
    before = networks(tmp_path, **lists)
    assert of(before, "bridge") == []
    after = networks(tmp_path, **lists, ours=[{"type": "kubenet"}])
    assert of(after, "bridge") == ["plain", "strange"]
    assert of(after, "kubenet") == ["kubenets"]
    assert of(after, "kube-router") == ["routers"]
    assert of(after, "cilium") == ["chained"]
    assert [network.name for network in after.own] == ["ours"]


def test_the_folder_of_leases() -> None:
    """Of host-local alone, and where its dataDir says."""
    ipam = {"type": "host-local", "dataDir": "/var/lib/other"}
    assert files.lease_folder(Network("", "net", plugins=({"type": "bridge", "ipam": ipam},))) == "/var/lib/other/net"
    assert files.lease_folder(Network("", "net", plugins=({"type": "calico", "ipam": {"type": "calico-ipam"}},))) == ""
    assert files.lease_folder(Network("", "net", plugins=({"type": "bridge", "ipam": 5},))) == ""


def test_a_backup_does_not_replace_an_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets a number."""
    monkeypatch.setattr(files, "BACKUP", str(tmp_path / "backup"))
    moved: list[Leftover] = []
    for text in ("one", "two"):
        (tmp_path / "conf").write_text(text)
        moved.append(files.moved("file", WEAVE, str(tmp_path / "conf"), "a file"))
        moved[-1].remove()
        moved[-1].remove()
    where = tmp_path / "backup" / "weave" / str(tmp_path).lstrip("/")
    assert {path.name: path.read_text() for path in where.iterdir()} == {"conf": "one", "conf.1": "two"}


def test_names_are_those_of_the_inventory() -> None:
    """Commands know them without reading it."""
    assert set(names.NAMES) == set(find._BY_NAME)
    assert list(names.NAMES) == sorted(names.NAMES)
