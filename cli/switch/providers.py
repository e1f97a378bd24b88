"""What each provider of pod networks makes on a node: names and patterns, by which what it left is recognised.

Patterns are regular expressions of the whole text. What is common enough to be somebody else's is `weak`: it counts
only where something that is the provider's alone was found too.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from linux.rtnl.policy_routing import LOCAL, MAIN, PolicyRule

MOVE, DELETE = "move", "delete"
"""What becomes of a file: configuration is kept in the backup folder, state is deleted."""

Choice = Callable[[PolicyRule], bool]


@dataclass(frozen=True)
class File:
    """Files or folders of a provider: a path that may have * in its last part, and what becomes of them."""

    path: str
    fate: str


@dataclass(frozen=True)
class Named:
    """Links of a provider: a pattern of their names, the kinds that they may have (none: any), how their MAC begins."""

    name: str
    kinds: tuple[str, ...] = ()
    mac: str = ""


@dataclass(frozen=True)
class Provider:
    """What one provider leaves.

    `links`: its own links. `fallback_links`: those that the kernel makes with a module, and that cannot be deleted.
    `pods`: names of the host's ends of pods' links. `routes_to_pods`: these have any name, and each a route of its own
    that leads there. `bridges`: those on which pods are. `tables`: "family name" of nftables tables. `chains`,
    `weak_chains`, `comments`, `interfaces`: of chains of iptables, of rules in others' chains, of links that such rules
    name. `masquerade`, `pod_rules`: those chains and comments that running pods need until something else masquerades
    for them, or until the last one is gone. `matches`: weak matches of x_tables in rules. `rules`, `weak_rules`: of
    policy routing. `protocols`: of routes. `filters`: names of BPF programs of tc. `mark`, `interface_id`: of policies
    and states of IPsec, 0 for none. `types`: of plugins in configurations. `processes`: whose names mean that the
    provider runs. `by_hand`: sentences on what is not done here.
    """

    name: str
    title: str
    links: tuple[Named, ...] = ()
    fallback_links: tuple[str, ...] = ()
    pods: tuple[str, ...] = ()
    routes_to_pods: bool = False
    bridges: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    chains: tuple[str, ...] = ()
    weak_chains: tuple[str, ...] = ()
    comments: tuple[str, ...] = ()
    masquerade: tuple[str, ...] = ()
    pod_rules: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()
    matches: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    rules: Choice | None = None
    weak_rules: Choice | None = None
    protocols: tuple[int, ...] = ()
    weak_protocols: tuple[int, ...] = ()
    filters: tuple[str, ...] = ()
    mark: int = 0
    interface_id: int = 0
    types: tuple[str, ...] = ()
    executables: tuple[str, ...] = ()
    files: tuple[File, ...] = ()
    processes: tuple[str, ...] = ()
    by_hand: tuple[str, ...] = ()


def matches(patterns: tuple[str, ...], text: str) -> bool:
    """Whether the whole text is like one of the patterns."""
    return any(re.fullmatch(pattern, text) for pattern in patterns)


_ETH = ("veth",)
_HEX = "[0-9a-f]"

KUBENET = Provider(
    "kubenet",
    "kubenet, and the templates that succeeded it",
    chains=("KUBE-HOSTPORTS", "KUBE-HP-.*", "KUBE-DEDUP", "AKS-DEDUP.*"),
    weak_chains=("IP-MASQ",),
    comments=(
        "kubenet: SNAT for outbound traffic from cluster",
        "kube hostport portals",
        "SNAT for localhost access to hostports",
    ),
    masquerade=("kubenet: SNAT .*", "IP-MASQ"),
    pod_rules=("KUBE-HOSTPORTS", "KUBE-HP-.*", "kube hostport portals", "SNAT for localhost .*"),
    by_hand=(
        "routes that the cloud made: its controller removes them with --configure-cloud-routes=false",
        "kops' unit cni-iptables-setup.service makes the chain IP-MASQ again at every boot: `systemctl disable` it",
    ),
)

FLANNEL = Provider(
    "flannel",
    "flannel",
    links=(
        Named(r"flannel\.\d+", ("vxlan",)),
        Named(r"flannel-v6\.\d+", ("vxlan",)),
        Named("flannel0", ("tun",)),
        Named(r"flannel\.ipip"),
        Named("flannel-wg(-v6)?"),
    ),
    tables=("ip flannel-ipv4", "ip6 flannel-ipv6"),
    chains=("FLANNEL-.*",),
    comments=("flanneld masq", "flanneld forward"),
    masquerade=("FLANNEL-POSTRTG", "flanneld masq", "ip6? flannel-ipv[46]"),
    pod_rules=("FLANNEL-FWD", "flanneld forward"),
    types=("flannel",),
    executables=("flannel", "flannel-.*"),
    files=(File("/run/flannel", DELETE), File("/etc/kube-flannel", MOVE)),
    processes=("flanneld",),
    by_hand=(
        "k3s and RKE2 contain flannel and make it all again, unless they are started with --flannel-backend=none",
        "its DaemonSet, its ConfigMap, and the Nodes' annotations flannel.alpha.coreos.com/*, after the last node",
    ),
)

CALICO = Provider(
    "calico",
    "Calico",
    links=(
        Named(r"vxlan(-v6)?\.calico", ("vxlan",)),
        Named(r"(wireguard|wg-v6)\.cali"),
        Named(r"bpf(in|out)\.cali"),
        Named(f"cali{_HEX}{{11}}", _ETH),
    ),
    fallback_links=("tunl0",),
    pods=(f"cali{_HEX}{{11}}",),
    tables=("ip calico", "ip6 calico", "bridge calico", "inet calico"),
    chains=("cali-.*",),
    comments=("cali:.*",),
    sets=("cali[46][0t].*",),
    weak_rules=lambda rule: rule.priority in (98, 99, 100) and rule.table not in (MAIN, LOCAL) and bool(rule.mask),
    protocols=(80,),
    weak_protocols=(12,),
    filters=("cali_.*", "calico_.*"),
    types=("calico",),
    executables=("calico", "calico-ipam"),
    files=(
        File("/etc/cni/net.d/calico-kubeconfig", MOVE),
        File("/etc/cni/net.d/calico-tls", MOVE),
        File("/etc/calico", MOVE),
        File("/var/lib/calico", MOVE),
        File("/run/calico", DELETE),
        File("/sys/fs/bpf/tc/globals/cali_*", DELETE),
        File("/sys/fs/bpf/calico", DELETE),
    ),
    processes=("calico-node", "calico-felix"),
    by_hand=("its CRDs (*.projectcalico.org), its DaemonSet and Typha, after the last node",),
)

CILIUM = Provider(
    "cilium",
    "Cilium",
    links=(
        Named("cilium_(host|net|vxlan|geneve|wg0|ipip4|ipip6|tunl|ip6tnl|dummy)"),
        Named(f"lxc{_HEX}{{5,12}}|lxc_health", _ETH),
    ),
    pods=(f"lxc{_HEX}{{5,12}}",),
    chains=("(OLD_)?CILIUM_.*",),
    comments=("cilium-feeder:.*", "cilium-xfrm-notrack:.*"),
    sets=("cilium_node_set_v[46]",),
    rules=lambda rule: rule.table in (2004, 2005) and rule.mask in (0xF00, 0xE00),
    weak_rules=lambda rule: (
        (rule.priority == 100 and rule.table == LOCAL)
        or (rule.priority in (1, 109, 110, 111) and rule.table not in (MAIN, LOCAL))
    ),
    filters=("cil_.*", "bpf_(netdev|host|lxc|overlay)[._].*"),
    types=("cilium-cni",),
    executables=("cilium-cni",),
    files=(
        File("/run/cilium", DELETE),
        File("/var/lib/cilium", DELETE),
        File("/sys/fs/bpf/tc/globals/cilium_*", DELETE),
        File("/sys/fs/bpf/cilium", DELETE),
    ),
    processes=("cilium-agent",),
    by_hand=(
        "programs on XDP or on control groups: `ip link set dev LINK xdp off`, and a reboot for the rest",
        "configurations that it renamed to *.cilium_bak in /etc/cni/net.d: rename those that are wanted",
        "its CRDs (*.cilium.io) and its DaemonSet, after the last node",
    ),
)

WEAVE = Provider(
    "weave",
    "Weave Net",
    links=(
        Named("weave"),
        Named("datapath", ("openvswitch",)),
        Named("vethwe-(bridge|datapath|pcap)|vethwedu"),
        Named("vxlan-6784", ("vxlan",)),
        Named(f"vethwepl{_HEX}*", _ETH),
    ),
    pods=(f"vethwepl{_HEX}*",),
    bridges=("weave",),
    chains=("WEAVE(-.*)?",),
    interfaces=("weave",),
    sets=("weave-.*", "weaver-no-masq-local"),
    mark=0x20000,
    types=("weave-net",),
    executables=("weave-net", "weave-ipam", "weave-plugin-.*"),
    files=(File("/var/lib/weave", DELETE), File("/run/weave", DELETE)),
    processes=("weaver", "weave-npc"),
    by_hand=("states of its encryption, which carry no mark of it (`ip xfrm state`): they end with a reboot",),
)

KUBE_ROUTER = Provider(
    "kube-router",
    "kube-router",
    links=(
        Named("kube-bridge", ("bridge",)),
        Named("kube-dummy-if|kube-tunnel-if|kube-tunnel-v6"),
        Named(f"tun-{_HEX}{{8,11}}", ("ipip", "ip6tnl", "sit", "gre")),
    ),
    bridges=("kube-bridge",),
    tables=("ip kube-router-filter-ipv4", "ip6 kube-router-filter-ipv6"),
    chains=("KUBE-ROUTER-.*", "KUBE-POD-FW-.*", "KUBE-NWPLCY-.*"),
    comments=(
        "kube-router netpol.*",
        "allow outbound node port traffic on node interface with which node ip is associated",
    ),
    interfaces=("kube-bridge",),
    matches=("ipvs",),
    sets=("(inet6:)?(KUBE-SRC-|KUBE-DST-|kube-router-).*",),
    weak_rules=lambda rule: rule.table in (77, 78, 79),
    weak_protocols=(17,),
    files=(File("/var/lib/kube-router", MOVE),),
    processes=("kube-router",),
    by_hand=(
        "k3s contains kube-router and makes its rules again, unless it is started with --disable-network-policy",
        "services of IPVS, if it was the service proxy: `ipvsadm -C`, then start kube-proxy",
        "its marks for direct server return, which name no owner: `iptables -t mangle -S`",
        "its lines in /etc/iproute2/rt_tables (kube-router, kube-router-dsr, external_ip), which do nothing",
    ),
)

KINDNET = Provider(
    "kindnet",
    "kindnet, kube-network-policies",
    links=(Named("knet-xfrm0"), Named(f"knet{_HEX}+", _ETH)),
    pods=(f"knet{_HEX}+",),
    tables=("(inet|ip|ip6) kindnet-.*", "inet cni-kindnet", "inet kube-network-policies"),
    chains=("KIND-MASQ-AGENT",),
    interface_id=1001,
    types=("cni-kindnet", "kindnet"),
    executables=("cni-kindnet",),
    files=(File("/var/lib/cni-kindnet", DELETE),),
    processes=("kindnetd", "kube-network-pol"),
    by_hand=("routes to other nodes' pods, which carry no mark of it: `ip route show proto boot`, or a reboot",),
)

KOPEIO = Provider(
    "kopeio",
    "Kopeio (pods on kubenet's bridge)",
    links=(Named("vxlan1", ("vxlan",), "00:53:"),),
    bridges=("cbr0",),
    by_hand=(
        "routes and tunnels of its providers gre and ipsec (`ip link show type gre`, `ip xfrm state`): a reboot",
        "what kubenet left: `slash24 switch kubenet`",
    ),
    processes=("networking-agen",),
)

ROMANA = Provider(
    "romana",
    "Romana",
    links=(Named("romana-(lo|gw)"),),
    routes_to_pods=True,
    chains=("ROMANA[-_].*",),
    comments=("romana (forwarding|postrouting) rules",),
    types=("romana",),
    executables=("romana", "romana-ipam"),
    files=(File("/etc/romana", MOVE), File("/etc/rlog/romana.conf", MOVE), File("/run/romana", DELETE)),
    processes=("romana_agent",),
    by_hand=("its routes to pods and to other hosts, which carry no mark of it: `ip route show`, or a reboot",),
)


def _is_awss(rule: PolicyRule) -> bool:
    is_marked = bool(rule.mask)
    return (
        (rule.priority == 512 and rule.table == MAIN and bool(rule.dst) and not is_marked)
        or (rule.priority == 1024 and rule.table == MAIN and rule.mask == 0x80)
        or (rule.priority in (1535, 1536, 32765) and not is_marked and bool(rule.src or rule.dst))
        or (rule.priority == 10 and matches((f"eni{_HEX}{{11}}", r"vlan\.eth\.\d+"), rule.iif))
        or (rule.priority == 20 and rule.table == LOCAL)
    )


AWS = Provider(
    "aws",
    "the AWS VPC CNI",
    links=(Named(f"eni{_HEX}{{11}}", _ETH), Named(r"vlan\.eth\.\d+", ("vlan",))),
    pods=(f"eni{_HEX}{{11}}",),
    chains=("AWS-(SNAT|CONNMARK)-CHAIN-.*",),
    comments=("AWS, .*", "AWS (SNAT|CONNMARK) CHAIN.*", "Block Node Local Pod access via IPv[46]"),
    weak_rules=_is_awss,
    types=("aws-cni",),
    executables=("aws-cni", "egress-cni", "egress-v4-cni", r"aws-cni-support\.sh", "aws-eks-na-cli(-v6)?"),
    files=(
        File("/run/aws-node", DELETE),
        File("/run/cni/v4pd", DELETE),
        File("/run/cni/v6pd", DELETE),
        File("/sys/fs/bpf/globals/aws", DELETE),
    ),
    processes=("aws-k8s-agent", "aws-vpc-cni"),
    by_hand=("network interfaces (ENIs) that it attached to the instance: detach and delete them in EC2",),
)

LYFT = Provider(
    "lyft",
    "Lyft's cni-ipvlan-vpc-k8s",
    comments=("NodePort Mark", "kube-proxy SNAT"),
    weak_rules=lambda rule: (
        (rule.priority == 1024 and rule.iif.startswith("veth") and rule.table >= 256)
        or (rule.priority == 512 and rule.mark == 0x2000 and rule.table == MAIN)
    ),
    types=("cni-ipvlan-vpc-k8s-(ipam|ipvlan|unnumbered-ptp)",),
    executables=("cni-ipvlan-vpc-k8s-.*",),
    files=(File("/run/cni-ipvlan-vpc-k8s", DELETE),),
    by_hand=("network interfaces (ENIs) that it attached to the instance: detach and delete them in EC2",),
)

BRIDGE = Provider("bridge", "the CNI project's bridge plugin")

ALL = (KUBENET, FLANNEL, CALICO, CILIUM, WEAVE, KUBE_ROUTER, KINDNET, KOPEIO, ROMANA, AWS, LYFT, BRIDGE)
"""All but Canal, which is flannel's network with Calico's policies: what it leaves is what these two leave."""
