"""Whether `vxlan` has its datagrams tracked: by default only if the host firewall may match on conntrack state."""

import pytest

from tests.netns.cluster_tools import network, refused
from tests.netns.cni import CNI
from tests.netns.node import Node, Pod
from tests.system import kube_proxy

UNTRACKED = "table inet slash24_untracked_net"
CONF = network("vxlan")

HARMLESS = {
    "nothing": "true",
    "Debian's nftables.conf": """nft -f - <<'END'
table inet filter {
    chain input { type filter hook input priority filter; }
    chain forward { type filter hook forward priority filter; policy drop; }
    chain output { type filter hook output priority filter; }
}
END""",
    "Docker": "iptables -P FORWARD DROP; iptables -N DOCKER-USER; iptables -A FORWARD -j DOCKER-USER",
    "rules that accept": "iptables -A INPUT -p tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT",
    "translations": "iptables -t nat -A POSTROUTING -o wan0 -j MASQUERADE; "
    "iptables -t mangle -A PREROUTING -m conntrack --ctstate INVALID -j DROP",
    "before connection tracking": "nft 'add table ip own; add chain ip own pre "
    "{ type filter hook prerouting priority raw; }; add rule ip own pre udp dport 9 drop'",
}
ASKING = {
    "nft": "nft 'add table inet own; add chain inet own in { type filter hook input priority 5; }; "
    "add rule inet own in udp dport 4789 ct state != new drop'",
    "a policy": "iptables -P INPUT DROP; iptables -A INPUT -p udp --dport 4789 -m conntrack --ctstate NEW -j ACCEPT",
    "a last rule": "iptables -A INPUT -m state --state NEW -p udp --dport 4789 -j ACCEPT; iptables -A INPUT -j REJECT",
    "what leaves": "iptables -A OUTPUT -p udp -m state --state NEW,ESTABLISHED -j ACCEPT; iptables -P OUTPUT DROP",
    "IPv6": "ip6tables -A INPUT -m conntrack --ctstate INVALID -j DROP",
    "chains of its own": "iptables -N ufw-before-input; iptables -A INPUT -j ufw-before-input",
    "after routing": "nft 'add table ip own; add chain ip own out "
    "{ type filter hook postrouting priority 0; policy drop; }'",
}


@pytest.fixture
def pod(node: Node) -> Pod:
    """A pod namespace on a node with a default route."""
    node.outside()
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    return node.pod("pod")


@pytest.mark.parametrize("rules", HARMLESS)
def test_datagrams_are_untracked_if_no_rule_needs_their_state(cni: CNI, node: Node, pod: Pod, rules: str) -> None:
    """Chains that they do not traverse, and rules that only accept, do not need the state; `false` enables tracking."""
    node.run(["bash", "-ec", HARMLESS[rules]])
    result = cni.add(CONF, pod)
    assert UNTRACKED in node.ruleset()
    cni.check(CONF, pod, result)
    cni.add({**CONF, "notrack": False}, node.pod("other"))
    assert UNTRACKED not in node.ruleset()


@pytest.mark.parametrize("mode", [kube_proxy.by_iptables, kube_proxy.by_nftables])
def test_kube_proxy_does_not_need_tracking(cni: CNI, node: Node, pod: Pod, mode: object) -> None:
    """Its chains in INPUT and OUTPUT concern services only."""
    pairs = (("10.96.0.10", "10.244.2.5"), ("fd00:96::10", "fd00:244:0:2::5"))
    mode(node, [kube_proxy.Service(address, 80, endpoint, 8080) for address, endpoint in pairs], ["10.244.0.0/16"])
    cni.add(CONF, pod)
    assert UNTRACKED in node.ruleset()


@pytest.mark.parametrize("rules", ASKING)
def test_datagrams_are_tracked_if_a_rule_may_need_their_state(cni: CNI, node: Node, pod: Pod, rules: str) -> None:
    """Rules of any form in chains that the datagrams traverse, in both families; `true` still disables tracking."""
    node.run(["bash", "-ec", ASKING[rules]])
    result = cni.add(CONF, pod)
    assert UNTRACKED not in node.ruleset()
    cni.check(CONF, pod, result)
    cni.add({**CONF, "notrack": True}, node.pod("other"))
    assert UNTRACKED in node.ruleset()


def test_a_firewall_installed_later(cni: CNI, node: Node, pod: Pod) -> None:
    """CHECK reports the problem, and the next ADD enables tracking."""
    result = cni.add(CONF, pod)
    assert UNTRACKED in node.ruleset()
    node.run(["bash", "-ec", ASKING["a policy"]])
    error = refused(cni, "CHECK", {**CONF, "prevResult": result}, pod)
    assert "the node's firewall may match on their state" in error.text
    cni.add(CONF, node.pod("other"))
    assert UNTRACKED not in node.ruleset()
    cni.check(CONF, pod, result)
