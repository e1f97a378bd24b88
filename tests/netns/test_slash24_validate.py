"""`slash24 validate`: a sound node has no problem, and each mistake is named, and nothing else is."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.validate import firewalls
from cli.validate.pods import PodNetwork
from linux.netlink.socket import NETLINK_NETFILTER, Netlink
from linux.rtnl.vxlan import vtep_mac
from plugins.node.tunnel import TunnelConf
from tests.conftest import ROOT
from tests.netns.cli_tools import document, slash24
from tests.netns.cni import PATH
from tests.netns.node import Node, wait_until

pytestmark = pytest.mark.cold(reason="the command calls the executables itself")

NET_D = "/etc/cni/net.d"
VXLAN = {
    "type": "vxlan",
    "bridge": "vx0",
    "podCIDRs": ["10.31.1.0/24", "fd00:31:0:1::/64"],
    "clusterCIDRs": ["10.31.0.0/16", "fd00:31::/48"],
    "peers": [{"name": "b", "addresses": ["192.0.2.2"], "podCIDRs": ["10.31.2.0/24", "fd00:31:0:2::/64"]}],
}


MACHINES = ("clock", "log")
"""Checks that see the machine on which the test runs."""


PEER = f"""
ip link add vx address {vtep_mac(["10.31.2.0/24"])} type vxlan id 1 dstport 4789 local 192.0.2.2 dev eth0 nolearning
ip link set vx up
ip link set lo up
bridge fdb add {vtep_mac(["10.31.1.0/24"])} dev vx dst 192.0.2.1
for own in 10.31.2.1/32 fd00:31:0:2::1/128; do ip addr add $own dev lo nodad; done
for tunnel in 10.31.1.0/24 fd00:31:0:1::/64; do
    ip neigh add ${{tunnel%/*}} lladdr {vtep_mac(["10.31.1.0/24"])} dev vx
    ip route add $tunnel via ${{tunnel%/*}} dev vx onlink
done
"""
"""Makes of the host outside the other node, with the gateways of its pods."""


def write(node: Node, *plugins: dict, name: str = "10-pods", version: str = "1.0.0", **keys: object) -> None:
    """Write a network of these plugins."""
    conflist = {"cniVersion": version, "name": name, "plugins": plugins, **keys}
    node.path(f"{NET_D}/{name}.conflist").write_text(json.dumps(conflist))


@pytest.fixture
def sound(node: Node, bin_dir: Path) -> Iterator[Node]:
    """A node with an uplink, another node, a containerd of Debian 12, and a network of this suite for it."""
    node.outside().run(["sh", "-ec", PEER])
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    node.run(["ip", "-6", "route", "add", "default", "via", "2001:db8:1::2"])
    node.run(["sh", "-ec", "cp -a /etc /run/etc; mount --bind /run/etc /etc; mount -t tmpfs programs /usr/local/sbin"])
    node.run(["mkdir", "-p", NET_D, "/etc/containerd", "/run/containerd"])
    program = node.path("/usr/local/sbin/containerd")
    program.write_text("#!/bin/sh\necho containerd github.com/containerd/containerd 1.6.20 0123abc\n")
    program.chmod(0o755)
    config = f'[plugins."io.containerd.grpc.v1.cri".cni]\nbin_dir = "{bin_dir}"\nconf_dir = "{NET_D}"\n'
    node.path("/etc/containerd/config.toml").write_text(config)
    write(node, VXLAN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(node.path("/run/containerd/containerd.sock")))
        listener.listen()
        yield node


def found(node: Node, *words: str, outcome: str = "problem") -> dict[str, str]:
    """What was found with this outcome, by check: the sentences and how to mend it."""
    status, report = document(node, "validate", *words)
    assert status == (1 if report["problems"] else 0)
    texts: dict[str, str] = {}
    for one in report["findings"]:
        if one["outcome"] == outcome:
            texts[one["check"]] = f"{texts.get(one['check'], '')}{one['found']} [{one['mend']}]\n"
    return texts


def test_a_sound_node(sound: Node) -> None:
    """It has no problem, nor has the trial, of which nothing is left."""
    status, report = document(sound, "validate")
    wrong = [one for one in report["findings"] if one["outcome"] in ("problem", "warning")]
    assert (status, [one for one in wrong if one["check"] not in MACHINES]) == (0, [])
    tried = [one["found"] for one in report["findings"] if one["check"] == "trial"]
    assert "a pod reaches peer 192.0.2.2: 10.31.2.1, fd00:31:0:2::1" in tried
    assert not [name for name in sound.links() if name.startswith("veth")]
    assert "slash24-validate" not in sound.ruleset()
    assert not list(sound.path("/var/lib/cni/networks/10-pods").glob("*.*.*.*"))
    assert list(sound.path("/run/netns").iterdir()) == [sound.path("/run/netns/outside")]
    # No name is printed as markup, and for people there is a last line that counts.
    status, text = slash24(sound, "validate", "--no-trial")
    assert (status, text.splitlines()[-1].partition(",")[0]) == (0, "0 problems")


def named(node: Node, **expected: str) -> None:
    """Exactly these checks find problems or warn, in which these words are; "_" is for a space in a check's name."""
    texts: dict[str, str] = {}
    for one in document(node, "validate", "--no-trial")[1]["findings"]:
        if one["outcome"] in ("problem", "warning") and one["check"] not in MACHINES:
            texts[one["check"]] = f"{texts.get(one['check'], '')}{one['found']} [{one['mend']}]\n"
    assert set(texts) == {name.replace("_", " ") for name in expected}, texts
    for name, words in expected.items():
        for word in words.split("|"):
            assert word in texts[name.replace("_", " ")], (word, texts)


def test_mistakes_in_files(sound: Node, bin_dir: Path) -> None:
    """Of runtimes, networks and executables."""
    config, folder = sound.path("/etc/containerd/config.toml"), sound.path(NET_D)
    good = config.read_text()

    # Something older in the way, a stale file of another provider, one that is broken, and another version of CNI.
    (folder / "00-broken.conflist").write_text("{")
    flannel = {"cniVersion": "1.0.0", "name": "cbr0", "plugins": [{"type": "flannel"}]}
    (folder / "90-flannel.conflist").write_text(json.dumps(flannel))
    write(sound, VXLAN, version="1.1.0")
    named(
        sound,
        network="00-broken.conflist|no plugin flannel|mv ",
        version='1.1.0|"cniVersion": "1.0.0"',
        leftovers="flannel",
    )
    for name in ("00-broken", "90-flannel"):
        (folder / f"{name}.conflist").unlink()
    write(sound, VXLAN)

    # A folder of executables of another suite, and one that nobody may execute; a range that another network has.
    other = sound.path("/run/other")
    other.mkdir()
    for name in ("vxlan", "host-local", "portmap"):
        (other / name).write_text('#!/bin/sh\necho \'{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}\'\n')
        (other / name).chmod(0o644 if name == "portmap" else 0o755)
    config.write_text(good.replace(str(bin_dir), "/run/other"))
    write(sound, VXLAN, {"type": "portmap"})
    second = {"type": "bridge", "isGateway": True, "ipam": {"type": "host-local", "subnet": "10.31.1.128/25"}}
    write(sound, second, name="20-second")
    named(
        sound,
        network="no plugin bridge",
        executables="/run/other/vxlan, which is not of slash24|/run/other/host-local|chmod 755 /run/other/portmap",
        ranges='10.31.1.128/25 of the network "20-second"',
        leftovers="20-second",
    )

    # The CRI is off, so that the folder of no runtime counts; and nothing is there.
    config.write_text('disabled_plugins = ["cri"]\n')
    sound.run(["sh", "-c", f"rm {NET_D}/*"])
    named(sound, runtime='take "cri" out of disabled_plugins', network="slash24 install")


def test_mistakes_in_the_kernel(sound: Node) -> None:
    """Of sysctls, rules, links, sockets and routes, on a node that has pods."""
    assert found(sound) == {}  # with a trial, after which bridge and tunnel are there
    run = sound.run

    def sysctl(*values: str) -> None:
        for value in values:
            key, _, number = value.partition("=")
            run(["sh", "-ec", f"echo {number} >/proc/sys/net/{key}"])

    # Forwarding of a link, and of links to come; an uplink that forgets its router; a FORWARD that drops.
    sysctl("ipv4/conf/wan0/forwarding=0", "ipv4/conf/default/forwarding=0", "ipv6/conf/wan0/disable_ipv6=1")
    run(["iptables", "-P", "FORWARD", "DROP"])
    run(["ip6tables", "-A", "FORWARD", "-j", "REJECT"])
    named(
        sound,
        forwarding='"wan0" does not forward IPv4|from now on|"wan0" has no IPv6',
        firewall='"ip filter FORWARD" refuses what pods send and get (IPv4)|"ip6 filter FORWARD"|"type": "firewall"',
    )
    run(["iptables", "-P", "FORWARD", "ACCEPT"])
    run(["ip6tables", "-F"])
    sysctl("ipv4/conf/wan0/forwarding=1", "ipv4/conf/default/forwarding=1", "ipv6/conf/wan0/disable_ipv6=0")
    run(["ip", "addr", "add", "2001:db8:1::1/64", "dev", "wan0", "nodad"])

    # kube-proxy without br_netfilter's help; rules of iptables-legacy; a link and a route with a part of the pods'.
    sysctl("bridge/bridge-nf-call-iptables=0")
    run(["sh", "-ec", "iptables -t nat -N KUBE-SERVICES; iptables-legacy -P FORWARD DROP"])
    run(["sh", "-ec", "ip link add docker0 type bridge; ip link set docker0 up; ip addr add 10.31.64.1/20 dev docker0"])
    run(["ip", "route", "add", "blackhole", "10.31.1.0/25"])
    run(["ip", "-6", "route", "add", "default", "via", "2001:db8:1::2", "proto", "ra"])
    sysctl("ipv6/conf/wan0/accept_ra=1")
    named(
        sound,
        bridged_packets="chain KUBE-SERVICES|bridge-nf-call-iptables=1",
        firewall='"iptables-legacy FORWARD"|iptables-legacy -A FORWARD -i vx0 -j ACCEPT',
        ranges='10.31.64.1/20 of link "docker0" (Docker)|blackhole 10.31.1.0/25',
        advertisements="accept_ra=2",
        status="blackhole 10.31.1.0/25",
    )
    run(["sh", "-ec", "iptables -t nat -X KUBE-SERVICES; iptables-legacy -P FORWARD ACCEPT; ip link del docker0"])
    run(["ip", "route", "del", "blackhole", "10.31.1.0/25"])
    sysctl("bridge/bridge-nf-call-iptables=1", "ipv6/conf/wan0/accept_ra=2")

    # A way to the peer that is too narrow, or by another link; the route to its pods; records that contradict.
    run(["ip", "route", "add", "192.0.2.2", "dev", "wan0", "mtu", "lock", "1400"])
    run(["ip", "route", "del", "10.31.2.0/24"])
    twin = {"name": "c", "addresses": ["192.0.2.3"], "podCIDRs": ["10.31.2.0/24"]}
    write(sound, {**VXLAN, "peers": [*VXLAN["peers"], twin, {"name": "new", "addresses": ["192.0.2.4"]}]})
    named(sound, path_MTU='only 1400 fit|"mtu": 1350', peers='peer "c"|peer "new" has no|10.31.2.0/24')
    run(["ip", "route", "del", "192.0.2.2"])


def test_mistakes_about_the_tunnel(sound: Node) -> None:
    """Its VNI, its port and its way."""
    run = sound.run
    with sound.socket("0.0.0.0", "udp") as taken:
        taken.bind(("0.0.0.0", 4789))
        run(["sh", "-ec", "ip link add lan1 type veth peer name lan2; ip link set lan1 up; ip link set lan2 up"])
        run(["ip", "route", "add", "192.0.2.2", "dev", "lan1"])
        run(["sh", "-ec", "echo 1 >/proc/sys/net/ipv4/conf/wan0/rp_filter; iptables -P INPUT DROP"])
        run(["iptables", "-A", "INPUT", "-p", "icmp", "-j", "ACCEPT"])
        named(
            sound,
            tunnel="UDP port 4789 is taken by ",
            reverse_path='come in by "wan0", but replies leave by "lan1"|rp_filter=2',
            firewall='"ip filter INPUT"|udp dport 4789',
            path_MTU="192.0.2.2: it does not answer",
        )
    run(
        [
            "sh",
            "-ec",
            "ip route del 192.0.2.2; echo 0 >/proc/sys/net/ipv4/conf/wan0/rp_filter; iptables -P INPUT ACCEPT",
        ]
    )
    run(["ip", "link", "add", "flannel.1", "type", "vxlan", "id", "1", "dstport", "4789", "dev", "wan0"])
    run(["ip", "netns", "exec", "outside", "ip", "link", "set", "eth0", "mtu", "1400"])  # drops what is larger
    named(
        sound,
        tunnel='taken by "flannel.1"|ip link delete',
        status="flannel.1",
        leftovers="flannel.1",
        path_MTU='192.0.2.2 answers echo requests, but not those of 1500 bytes|"mtu" than 1450',
    )


RULES = """
table inet firewalld {
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state established,related accept
        jump policies
        ct state invalid drop
        reject with icmpx admin-prohibited
    }
    chain policies { iifname "virbr0" accept; }
}
table inet harmless {
    chain forward {
        type filter hook forward priority filter; policy accept;
        ct state invalid drop
        iifname "wan7" goto cut
        ip saddr 203.0.113.0/24 drop
    }
    chain cut { counter drop; }
}
table inet opened {
    chain forward { type filter hook forward priority filter; policy drop; jump everything; }
    chain everything { counter accept; }
}
table ip bridged {
    chain forward { type filter hook forward priority filter; policy drop; iifname "vx0" accept; }
}
table ip6 from_pods {
    chain forward { type filter hook forward priority filter; policy drop; ip6 saddr fd00:31::/48 accept; }
}
table inet input {
    chain open { type filter hook input priority filter; policy drop; udp dport 4789 accept; }
    chain shut { type filter hook input priority filter + 1; policy drop; udp dport 53 accept; }
}
"""


def test_firewalls(node: Node) -> None:
    """What refuses by default, and what is accepted then: by bridge, by network, by port; for all of both versions."""
    node.run(["nft", "-f", "-"], stdin=RULES)
    node.run(
        ["sh", "-ec", "iptables -P FORWARD DROP; iptables -N ufw-before-forward; iptables -A FORWARD -i vx0 -j ACCEPT"]
    )
    node.run(["sh", "-ec", "ip6tables -A FORWARD -m comment --comment all -j REJECT; ip6tables -N DOCKER-USER"])
    tunnel = TunnelConf("slash24.1", 1, 4789, "", "", "", False, False, True, None)
    own, cluster = tuple(VXLAN["podCIDRs"]), tuple(VXLAN["clusterCIDRs"])
    pods = PodNetwork("net", "vxlan", "vx0", own, cluster, is_routed=True, tunnel=tunnel)
    with node.inside(), Netlink(NETLINK_NETFILTER) as netlink:
        gates = {gate.place: gate for gate in firewalls.read_gates(netlink, pods)}
    assert {place: (gate.accepts, gate.from_cluster, gate.by) for place, gate in gates.items()} == {
        "inet firewalld filter_FORWARD": ((), (), "firewalld"),
        "ip bridged forward": ((4,), (), ""),
        "ip6 from_pods forward": ((6,), (6,), ""),
        "inet input open": ((4, 6), (), ""),
        "inet input shut": ((), (), ""),
        "ip filter FORWARD": ((4,), (), "ufw"),
        "ip6 filter FORWARD": ((), (), "Docker"),
    }


STUCK = f"""#!{sys.executable}
import json, os, sys
verb, conf = os.environ["CNI_COMMAND"], sys.stdin.read()
if verb == "DEL":
    sys.exit(print(json.dumps(dict(cniVersion="1.0.0", code=999, msg="stuck"))) or 1)
versions = dict(cniVersion="1.0.0", supportedVersions=["1.0.0"])
print(json.dumps(versions if verb == "VERSION" else json.loads(conf).get("prevResult")) if verb != "CHECK" else "")
"""


def with_plugin(node: Node, bin_dir: Path, name: str, program: str) -> None:
    """Install a plugin of another suite, in a folder of its own in which the runtime also looks."""
    folder = node.path("/run/others")
    folder.mkdir()
    (folder / name).write_text(program)
    (folder / name).chmod(0o755)
    config = node.path("/etc/containerd/config.toml")
    config.write_text(config.read_text().replace("bin_dir = ", f'bin_dirs = ["{bin_dir}", "/run/others"]\nbin_dir = '))


def test_what_only_a_trial_finds(sound: Node, bin_dir: Path) -> None:
    """Frames that are dropped between pods, a network outside that does not know them, and a DEL that fails."""
    with_plugin(sound, bin_dir, "stuck", STUCK)
    ipam = {"type": "host-local", "subnet": "10.33.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]}
    write(sound, {"type": "bridge", "bridge": "br7", "isGateway": True, "ipam": ipam}, {"type": "stuck"})
    sound.run(["ip", "netns", "exec", "outside", "ip", "route", "del", "default"])
    sound.run(
        ["nft", "add table bridge x; add chain bridge x f { type filter hook forward priority filter; policy drop; }"]
    )
    assert found(sound, "--no-trial") == {}
    (said,) = found(sound).values()
    assert "a pod does not reach the other pod: 10.33.0.3 does not answer" in said
    assert "192.0.2.2, the node's default gateway, answers this node, but no pod" in said
    assert '"ipMasq": true' in said
    assert said.count("DEL of /run/others/stuck: stuck [slash24 gc") == 2
    assert "DEL has left" not in said  # the other plugins were called all the same


SLOW = """#!/bin/sh
case "$CNI_COMMAND" in
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}' ;;
ADD) touch /run/adds; sleep 60 ;;
esac
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_trial_that_is_interrupted(sound: Node, bin_dir: Path, number: signal.Signals) -> None:
    """Leaves nothing, not even in the middle of an ADD."""
    with_plugin(sound, bin_dir, "slow", SLOW)
    write(sound, VXLAN, {"type": "slow"})
    env = {"PATH": PATH, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [sys.executable, "-m", "cli", "validate"]
    command = sound.start(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert wait_until(sound.path("/run/adds").exists)
    assert [name for name in sound.links() if name.startswith("veth")]
    command.send_signal(number)
    output, _ = command.communicate(timeout=30)
    assert command.returncode == 128 + number, output
    assert b"Traceback" not in output
    assert not [name for name in sound.links() if name.startswith("veth")]
    assert not list(sound.path("/var/lib/cni/networks/10-pods").glob("*.*.*.*"))
