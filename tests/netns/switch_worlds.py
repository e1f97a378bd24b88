"""What each provider leaves on a node, made as it makes it; and what others have there, which no provider left.

A world is a shell script and what it leaves: (kind, name) as cli/switch finds it.
"""

from dataclasses import dataclass

from cli.switch.leftover import CONFIGURATION, FILE, LEASES, LINK, ROUTING, RULES, SET

PREPARE = """
set -e
cp -a /etc /run/etc
mount --bind /run/etc /etc
mount -t tmpfs opt /opt
mkdir -p /etc/cni/net.d /opt/cni/bin /var/lib/cni/networks
rm -f /etc/cni/net.d/*
mount -t bpf bpf /sys/fs/bpf
ip link add wan0 type veth peer name wan1
ip addr add 192.0.2.1/24 dev wan0
ip link set wan0 up
ip link set wan1 up
"""


@dataclass(frozen=True)
class World:
    """What a provider did, and what is left of it."""

    script: str
    left: frozenset[tuple[str, str]]


def conflist(name: str, *plugins: str) -> str:
    """A configuration list on one line of a shell script, in quotes."""
    return f"""'{{"cniVersion":"0.3.1","name":"{name}","plugins":[{",".join(plugins)}]}}'"""


def plugin(kind: str, settings: str = "") -> str:
    """A plugin in such a list."""
    return f'{{"type":"{kind}"{settings}}}'


_HOST_LOCAL = ',"ipam":{"type":"host-local"}'

WORLDS = {
    "kubenet": World(
        f"""
        ip link add cbr0 type bridge 2>/dev/null || true
        iptables -t nat -A POSTROUTING -m comment --comment "kubenet: SNAT for outbound traffic from cluster" \\
            -m addrtype ! --dst-type LOCAL ! -d 10.0.0.0/8 -j MASQUERADE
        iptables -t nat -N KUBE-HOSTPORTS
        iptables -t nat -N KUBE-HP-ABCDEFGHIJKLMNOP
        iptables -t nat -A KUBE-HP-ABCDEFGHIJKLMNOP -p tcp -j DNAT --to-destination 10.244.1.5:80
        iptables -t nat -A KUBE-HOSTPORTS -p tcp --dport 80 -j KUBE-HP-ABCDEFGHIJKLMNOP
        for chain in PREROUTING OUTPUT; do
            iptables -t nat -A $chain -m comment --comment "kube hostport portals" -m addrtype --dst-type LOCAL \\
                -j KUBE-HOSTPORTS
        done
        iptables -t nat -A POSTROUTING -m comment --comment "SNAT for localhost access to hostports" -o cbr0 \\
            -s 127.0.0.0/8 -j MASQUERADE
        ebtables -t filter -N KUBE-DEDUP -P RETURN
        ebtables -t filter -A OUTPUT -j KUBE-DEDUP
        ebtables -t filter -A KUBE-DEDUP -p IPv4 -s 0a:58:0a:f4:01:01 -o veth+ --ip-src 10.244.1.0/24 -j DROP
        echo {conflist("kubenet", plugin("bridge", ',"bridge":"cbr0"' + _HOST_LOCAL))} \\
            >/etc/cni/net.d/10-containerd-net.conflist
        """,
        frozenset(
            {
                (RULES, "ip nat"),
                (RULES, "bridge filter"),
                (CONFIGURATION, "/etc/cni/net.d/10-containerd-net.conflist"),
            }
        ),
    ),
    "flannel": World(
        f"""
        ip link add flannel.1 type vxlan id 1 local 192.0.2.1 dev wan0 dstport 8472 nolearning
        ip link add flannel-v6.1 type vxlan id 1 local 2001:db8::1 dev wan0 dstport 8473 nolearning
        for program in iptables ip6tables; do
            $program -t nat -N FLANNEL-POSTRTG
            $program -t nat -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -j RETURN
            $program -t nat -A FLANNEL-POSTRTG -j MASQUERADE --random-fully
            $program -t nat -A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
            $program -N FLANNEL-FWD
            $program -A FLANNEL-FWD -j ACCEPT
            $program -A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
        done
        nft add table ip flannel-ipv4
        nft add chain ip flannel-ipv4 postrtg '{{ type nat hook postrouting priority srcnat; }}'
        nft add table ip6 flannel-ipv6
        mkdir -p /run/flannel /var/lib/cni/networks/cbr0
        echo FLANNEL_SUBNET=10.244.3.1/24 >/run/flannel/subnet.env
        touch /opt/cni/bin/flannel
        echo {conflist("cbr0", plugin("flannel", ',"delegate":{}'), plugin("portmap"))} \\
            >/etc/cni/net.d/10-flannel.conflist
        """,
        frozenset(
            {
                (LINK, "flannel.1"),
                (LINK, "flannel-v6.1"),
                (RULES, "ip nat"),
                (RULES, "ip6 nat"),
                (RULES, "ip filter"),
                (RULES, "ip6 filter"),
                (RULES, "ip flannel-ipv4"),
                (RULES, "ip6 flannel-ipv6"),
                (FILE, "/run/flannel"),
                (FILE, "/opt/cni/bin/flannel"),
                (LEASES, "/var/lib/cni/networks/cbr0"),
                (CONFIGURATION, "/etc/cni/net.d/10-flannel.conflist"),
            }
        ),
    ),
    "calico": World(
        f"""
        ip link add vxlan.calico type vxlan id 4096 dstport 4789 local 192.0.2.1 dev wan0
        ip link add cali0123456789a type veth peer name cali0123456789b
        ip route add blackhole 10.245.1.64/26 proto 80
        ip route add 10.245.9.64/26 via 192.0.2.9 dev wan0 proto bird
        ipset create cali40all-ipam-pools hash:net
        ipset create cali60s:abcdefghijkl hash:net family inet6
        for table in raw mangle nat filter; do
            iptables -t $table -N cali-OUTPUT
            iptables -t $table -A OUTPUT -m comment --comment "cali:6gwbT8clXdHdC1b1" -j cali-OUTPUT
        done
        iptables -N cali-to-wl-dispatch
        iptables -A cali-OUTPUT -m set --match-set cali40all-ipam-pools src -g cali-to-wl-dispatch
        iptables -A FORWARD -m comment --comment "cali:S93hcgKJrXEqnTfs" -m mark --mark 0x10000/0x10000 -j ACCEPT
        nft add table ip calico
        mkdir -p /var/lib/calico /etc/calico /run/calico /etc/cni/net.d
        mkdir -p /sys/fs/bpf/calico /var/lib/cni/networks/k8s-pod-network
        touch /etc/cni/net.d/calico-kubeconfig /opt/cni/bin/calico /opt/cni/bin/calico-ipam
        echo {conflist("k8s-pod-network", plugin("calico", _HOST_LOCAL), plugin("portmap"))} \\
            >/etc/cni/net.d/10-calico.conflist
        """,
        frozenset(
            {
                (LINK, "vxlan.calico"),
                (LINK, "cali0123456789b"),
                (ROUTING, "blackhole 10.245.1.64/26 proto 80"),
                (ROUTING, "10.245.9.64/26 via 192.0.2.9 dev wan0 proto 12"),
                (SET, "cali40all-ipam-pools"),
                (SET, "cali60s:abcdefghijkl"),
                (RULES, "ip raw"),
                (RULES, "ip mangle"),
                (RULES, "ip nat"),
                (RULES, "ip filter"),
                (RULES, "ip calico"),
                (FILE, "/etc/cni/net.d/calico-kubeconfig"),
                (FILE, "/etc/calico"),
                (FILE, "/var/lib/calico"),
                (FILE, "/run/calico"),
                (FILE, "/sys/fs/bpf/calico"),
                (FILE, "/opt/cni/bin/calico"),
                (FILE, "/opt/cni/bin/calico-ipam"),
                (LEASES, "/var/lib/cni/networks/k8s-pod-network"),
                (CONFIGURATION, "/etc/cni/net.d/10-calico.conflist"),
            }
        ),
    ),
    "cilium": World(
        f"""
        ip link add cilium_host type veth peer name cilium_net
        ip link add cilium_vxlan type vxlan external dstport 8474
        ip link add lxc0123456789ab type veth peer name lxc_health
        ip rule add pref 9 fwmark 0x200/0xf00 lookup 2004
        ip rule add pref 10 fwmark 0xa00/0xf00 lookup 2005
        ip route add local 0.0.0.0/0 dev lo table 2004
        ip rule add pref 100 lookup local
        ip rule del pref 0
        for table in raw mangle nat filter; do
            iptables -t $table -N CILIUM_OUTPUT
            iptables -t $table -A OUTPUT -m comment --comment "cilium-feeder: CILIUM_OUTPUT" -j CILIUM_OUTPUT
        done
        ipset create cilium_node_set_v4 hash:ip
        iptables -t nat -A CILIUM_OUTPUT -m set --match-set cilium_node_set_v4 dst -j ACCEPT
        mkdir -p /run/cilium/cgroupv2 /var/lib/cilium /sys/fs/bpf/cilium /sys/fs/bpf/tc/globals/cilium_ipcache
        mount -t tmpfs cgroup2 /run/cilium/cgroupv2
        touch /opt/cni/bin/cilium-cni
        echo {conflist("cilium", plugin("cilium-cni"))} >/etc/cni/net.d/05-cilium.conflist
        """,
        frozenset(
            {
                (LINK, "cilium_net"),
                (LINK, "cilium_vxlan"),
                (LINK, "lxc_health"),
                (ROUTING, "pref 9 from all fwmark 0x200/0xf00 lookup 2004"),
                (ROUTING, "pref 10 from all fwmark 0xa00/0xf00 lookup 2005"),
                (ROUTING, "pref 100 from all lookup local"),
                (ROUTING, "table 2004"),
                (SET, "cilium_node_set_v4"),
                (RULES, "ip raw"),
                (RULES, "ip mangle"),
                (RULES, "ip nat"),
                (RULES, "ip filter"),
                (FILE, "/run/cilium/cgroupv2"),
                (FILE, "/run/cilium"),
                (FILE, "/var/lib/cilium"),
                (FILE, "/sys/fs/bpf/cilium"),
                (FILE, "/sys/fs/bpf/tc/globals/cilium_ipcache"),
                (FILE, "/opt/cni/bin/cilium-cni"),
                (CONFIGURATION, "/etc/cni/net.d/05-cilium.conflist"),
            }
        ),
    ),
    "weave": World(
        f"""
        ip link add weave type bridge
        ip link add vethwe-bridge type veth peer name vethwe-datapath
        ip link set vethwe-bridge master weave
        ip link add vxlan-6784 type vxlan external dstport 6784
        ipset create weave-local-pods hash:ip
        ipset create weaver-no-masq-local hash:net
        ip xfrm policy add src 192.0.2.1/32 dst 192.0.2.9/32 proto udp dir out mark 0x20000 mask 0x20000 \\
            tmpl src 192.0.2.1 dst 192.0.2.9 proto esp spi 0x123 mode transport
        iptables -t nat -N WEAVE
        iptables -t nat -A POSTROUTING -j WEAVE
        iptables -t nat -A WEAVE -m set --match-set weaver-no-masq-local dst -j RETURN
        iptables -N WEAVE-NPC
        iptables -N WEAVE-NPC-EGRESS
        iptables -A INPUT -i weave -j WEAVE-NPC-EGRESS
        iptables -A FORWARD -o weave -m comment --comment "NOTE: this must go before '-j KUBE-FORWARD'" -j WEAVE-NPC
        iptables -A FORWARD -o weave -j DROP
        iptables -A FORWARD -i weave ! -o weave -j ACCEPT
        mkdir -p /var/lib/weave
        touch /opt/cni/bin/weave-net /opt/cni/bin/weave-plugin-2.8.1
        echo {conflist("weave", plugin("weave-net"))} >/etc/cni/net.d/10-weave.conflist
        """,
        frozenset(
            {
                (LINK, "weave"),
                (LINK, "vethwe-datapath"),
                (LINK, "vxlan-6784"),
                (ROUTING, "policy 192.0.2.1/32 192.0.2.9/32"),
                (SET, "weave-local-pods"),
                (SET, "weaver-no-masq-local"),
                (RULES, "ip nat"),
                (RULES, "ip filter"),
                (FILE, "/var/lib/weave"),
                (FILE, "/opt/cni/bin/weave-net"),
                (FILE, "/opt/cni/bin/weave-plugin-2.8.1"),
                (CONFIGURATION, "/etc/cni/net.d/10-weave.conflist"),
            }
        ),
    ),
    "kube-router": World(
        f"""
        ip link add kube-bridge type bridge
        ip rule add pref 32764 from 10.246.1.0/24 lookup 77
        ip route add 10.246.9.0/24 via 192.0.2.9 dev wan0 table 77
        ip route add 10.246.2.0/24 via 192.0.2.2 dev wan0 proto 17
        ipset create kube-router-pod-subnets hash:net
        ipset create KUBE-SRC-ABCDEFGHIJKLMNOP hash:ip
        ipset create inet6:KUBE-DST-ABCDEFGHIJ hash:ip family inet6
        iptables -t nat -A POSTROUTING -m set --match-set kube-router-pod-subnets src -j MASQUERADE
        iptables -N KUBE-ROUTER-FORWARD
        iptables -N KUBE-POD-FW-ABCDEFGHIJKLMNOP
        iptables -N KUBE-NWPLCY-ABCDEFGHIJKLMNOP
        iptables -A FORWARD -m comment --comment "kube-router netpol - TEMCG2JMHZYE7H7T" -j KUBE-ROUTER-FORWARD
        iptables -A FORWARD -o kube-bridge -m comment --comment "allow inbound traffic to pods" -j ACCEPT
        iptables -A KUBE-ROUTER-FORWARD -j KUBE-POD-FW-ABCDEFGHIJKLMNOP
        iptables -A KUBE-POD-FW-ABCDEFGHIJKLMNOP -j KUBE-NWPLCY-ABCDEFGHIJKLMNOP
        iptables -A KUBE-NWPLCY-ABCDEFGHIJKLMNOP -m set --match-set KUBE-SRC-ABCDEFGHIJKLMNOP src -j RETURN
        nft add table ip kube-router-filter-ipv4
        mkdir -p /var/lib/kube-router /var/lib/cni/networks/mynet
        echo {conflist("mynet", plugin("bridge", ',"bridge":"kube-bridge"' + _HOST_LOCAL))} \\
            >/etc/cni/net.d/10-kuberouter.conflist
        """,
        frozenset(
            {
                (LINK, "kube-bridge"),
                (ROUTING, "pref 32764 from 10.246.1.0/24 lookup 77"),
                (ROUTING, "table 77"),
                (ROUTING, "10.246.2.0/24 via 192.0.2.2 dev wan0 proto 17"),
                (SET, "kube-router-pod-subnets"),
                (SET, "KUBE-SRC-ABCDEFGHIJKLMNOP"),
                (SET, "inet6:KUBE-DST-ABCDEFGHIJ"),
                (RULES, "ip nat"),
                (RULES, "ip filter"),
                (RULES, "ip kube-router-filter-ipv4"),
                (FILE, "/var/lib/kube-router"),
                (LEASES, "/var/lib/cni/networks/mynet"),
                (CONFIGURATION, "/etc/cni/net.d/10-kuberouter.conflist"),
            }
        ),
    ),
    "kindnet": World(
        f"""
        ip link add knet0a1b2c3d type veth peer name knet4e5f6a7b
        ip xfrm policy add src 10.244.1.0/24 dst 10.244.2.0/24 dir out if_id 1001 \\
            tmpl src 192.0.2.1 dst 192.0.2.9 proto esp mode tunnel
        nft add table inet kindnet-ipmasq
        nft add table inet cni-kindnet
        nft add table inet kube-network-policies
        iptables -t nat -N KIND-MASQ-AGENT
        iptables -t nat -A POSTROUTING -m addrtype ! --dst-type LOCAL -m comment \\
            --comment "kind-masq-agent: ensure nat POSTROUTING directs all non-LOCAL destination traffic" \\
            -j KIND-MASQ-AGENT
        mkdir -p /var/lib/cni-kindnet
        touch /opt/cni/bin/cni-kindnet
        echo {conflist("kindnet", plugin("cni-kindnet"))} >/etc/cni/net.d/10-kindnet.conflist
        """,
        frozenset(
            {
                (LINK, "knet4e5f6a7b"),
                (ROUTING, "policy 10.244.1.0/24 10.244.2.0/24"),
                (RULES, "inet kindnet-ipmasq"),
                (RULES, "inet cni-kindnet"),
                (RULES, "inet kube-network-policies"),
                (RULES, "ip nat"),
                (FILE, "/var/lib/cni-kindnet"),
                (FILE, "/opt/cni/bin/cni-kindnet"),
                (CONFIGURATION, "/etc/cni/net.d/10-kindnet.conflist"),
            }
        ),
    ),
    "kopeio": World(
        "ip link add vxlan1 address 00:53:0a:f4:01:00 type vxlan id 1 dstport 4790",
        frozenset({(LINK, "vxlan1")}),
    ),
    "romana": World(
        """
        iptables -N ROMANA_FORWARD
        iptables -A FORWARD -m comment --comment "romana forwarding rules" -i wan0 -o wan0 -j ROMANA_FORWARD
        iptables -A FORWARD -m comment --comment "romana forwarding rules" -o wan0 -j ACCEPT
        iptables -t nat -N ROMANA-MASQ
        iptables -t nat -A POSTROUTING -m comment --comment "romana postrouting rules" -j ROMANA-MASQ
        mkdir -p /etc/romana /run/romana
        touch /opt/cni/bin/romana
        echo '{"cniVersion":"0.3.1","name":"romana-k8s-network","type":"romana"}' >/etc/cni/net.d/10-romana.conf
        """,
        frozenset(
            {
                (RULES, "ip filter"),
                (RULES, "ip nat"),
                (FILE, "/etc/romana"),
                (FILE, "/run/romana"),
                (FILE, "/opt/cni/bin/romana"),
                (CONFIGURATION, "/etc/cni/net.d/10-romana.conf"),
            }
        ),
    ),
    "aws": World(
        f"""
        ip link add eni0123456789a type veth peer name eni0123456789b
        ip rule add pref 512 to 10.247.1.5 lookup main
        ip rule add pref 1024 fwmark 0x80/0x80 lookup main
        ip rule add pref 1536 from 10.247.1.5 lookup 2
        ip route add default via 192.0.2.7 dev wan0 table 2
        iptables -t nat -N AWS-SNAT-CHAIN-0
        iptables -t nat -A POSTROUTING -m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-0
        iptables -t mangle -A PREROUTING -i eni+ -m comment --comment "AWS, primary ENI" -j CONNMARK --restore-mark \\
            --nfmask 0x80 --ctmask 0x80
        mkdir -p /run/aws-node /sys/fs/bpf/globals/aws
        touch /opt/cni/bin/aws-cni /opt/cni/bin/egress-cni
        echo {conflist("aws-cni", plugin("aws-cni"), plugin("egress-cni"))} >/etc/cni/net.d/10-aws.conflist
        """,
        frozenset(
            {
                (LINK, "eni0123456789b"),
                (ROUTING, "pref 512 from all to 10.247.1.5/32 lookup main"),
                (ROUTING, "pref 1024 from all fwmark 0x80/0x80 lookup main"),
                (ROUTING, "pref 1536 from 10.247.1.5/32 lookup 2"),
                (ROUTING, "table 2"),
                (RULES, "ip nat"),
                (RULES, "ip mangle"),
                (FILE, "/run/aws-node"),
                (FILE, "/sys/fs/bpf/globals/aws"),
                (FILE, "/opt/cni/bin/aws-cni"),
                (FILE, "/opt/cni/bin/egress-cni"),
                (CONFIGURATION, "/etc/cni/net.d/10-aws.conflist"),
            }
        ),
    ),
    "lyft": World(
        f"""
        ip rule add pref 1024 iif veth0a1b2c3d lookup 300
        ip rule add pref 512 fwmark 0x2000 lookup main
        ip route add 10.248.0.0/16 via 192.0.2.8 dev wan0 table 300
        iptables -t mangle -A PREROUTING -i veth+ -j CONNMARK --restore-mark -m comment --comment "NodePort Mark"
        mkdir -p /run/cni-ipvlan-vpc-k8s
        touch /opt/cni/bin/cni-ipvlan-vpc-k8s-ipam /opt/cni/bin/cni-ipvlan-vpc-k8s-tool
        echo {conflist("lyft", plugin("cni-ipvlan-vpc-k8s-ipam"), plugin("cni-ipvlan-vpc-k8s-ipvlan"))} \\
            >/etc/cni/net.d/10-cni-ipvlan-vpc-k8s.conflist
        """,
        frozenset(
            {
                (ROUTING, "pref 1024 from all iif veth0a1b2c3d lookup 300"),
                (ROUTING, "pref 512 from all fwmark 0x2000/0xffffffff lookup main"),
                (ROUTING, "table 300"),
                (RULES, "ip mangle"),
                (FILE, "/run/cni-ipvlan-vpc-k8s"),
                (FILE, "/opt/cni/bin/cni-ipvlan-vpc-k8s-ipam"),
                (FILE, "/opt/cni/bin/cni-ipvlan-vpc-k8s-tool"),
                (CONFIGURATION, "/etc/cni/net.d/10-cni-ipvlan-vpc-k8s.conflist"),
            }
        ),
    ),
}

OTHERS = f"""
iptables -t nat -N KUBE-SERVICES
iptables -t nat -N KUBE-MARK-MASQ
iptables -t nat -N KUBE-POSTROUTING
iptables -t nat -A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
iptables -t nat -A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
iptables -N KUBE-FORWARD
iptables -A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
ipset create KUBE-CLUSTER-IP hash:ip,port
nft add table ip kube-proxy
ip link add docker0 type bridge
iptables -N DOCKER
iptables -t nat -N DOCKER
iptables -A FORWARD -o docker0 -j DOCKER
iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
ip link add virbr0 type bridge
iptables -N LIBVIRT_FWO
iptables -A FORWARD -j LIBVIRT_FWO
ip link add lxcbr0 type bridge
ip link add vxlan100 type vxlan id 100 dstport 4799
ip link add flannel.24 type vxlan id 24 dstport 8475
ip link set flannel.24 alias "slash24 vtep"
ip link add cni-podman0 type bridge
ip rule add pref 30000 fwmark 0x1234 lookup 500
ip route add 10.99.0.0/16 via 192.0.2.99 dev wan0 table 500
ip route add 10.98.0.0/16 via 192.0.2.98 dev wan0
ip route add 10.97.0.0/16 via 192.0.2.97 dev wan0 proto 24
ip xfrm policy add src 10.95.0.0/16 dst 10.96.0.0/16 dir out tmpl src 192.0.2.1 dst 192.0.2.9 proto esp mode tunnel
nft add table inet slash24_egress_podnet
ip link add cbr0 type bridge
mkdir -p /run/slash24 /var/lib/cni/networks/podnet
touch /opt/cni/bin/bridge /opt/cni/bin/host-local /opt/cni/bin/portmap /etc/cni/net.d/README
echo {conflist("podnet", plugin("kubenet", ',"podCIDRs":["10.249.1.0/24"]'))} >/etc/cni/net.d/10-slash24.conflist
echo {conflist("podman", plugin("bridge", ',"bridge":"cni-podman0"' + _HOST_LOCAL))} \\
    >/etc/cni/net.d/87-podman-bridge.conflist
"""
"""kube-proxy, Docker, libvirt, LXC, podman, an administrator, and slash24 itself."""

ORDER = (*(name for name in WORLDS if name != "cilium"), "cilium")
"""Cilium last: it moves the rule that all others count on."""
