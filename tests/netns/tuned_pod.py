"""A pod for the tests of `tuning`: a link to tune, the settings to apply, and what has changed."""

from tests.netns.cni import with_prev
from tests.netns.node import Node, Pod

FOLDER = "/run/cni/tuning"
MTU6 = "/proc/sys/net/ipv6/conf/eth0/mtu"
MAC = "02:00:5e:10:00:01"
EVERYTHING = {
    "mac": MAC,
    "mtu": 1400,
    "promisc": True,
    "allmulti": True,
    "txQLen": 17,
    "sysctl": {
        "net.ipv4.conf.IFNAME.arp_filter": "1",
        "net.ipv6.conf.IFNAME.hop_limit": "33",
        "net.core.somaxconn": "77",
        "net.ipv4.ip_local_reserved_ports": "8080,9000-9010",
        "net.ipv4.tcp_rmem": "4096 80000 6000000",
    },
}


def pod_with_link(node: Node) -> Pod:
    """A pod with a link eth0."""
    made = node.pod("pod")
    made.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far"])
    made.run(["ip", "link", "set", "eth0", "up"])
    return made


def conf(**keys: object) -> dict:
    """A configuration with these keys and the previous plugin's result."""
    return with_prev({"cniVersion": "1.1.0", "name": "net", "type": "tuning", **keys}, before())


def before() -> dict:
    """The previous plugin's result."""
    return {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:07", "sandbox": "/run/netns/pod"}],
    }


def state(pod: Pod) -> dict:
    """Everything readable under /proc/sys/net, and the tunable attributes of the link."""
    link = pod.ip("link", "show", "eth0")[0]
    kept = {key: link[key] for key in ("address", "mtu", "txqlen", "flags")}
    # Left out: a counter, and values that the kernel chooses at random.
    settings = pod.run(["sh", "-c", "grep -rs '' /proc/sys/net | grep -v -e nf_conntrack_count -e /neigh/.*_ms"]).stdout
    return kept | dict(line.partition(":")[::2] for line in settings.splitlines())


def changed(pod: Pod, was: dict) -> dict:
    """What differs from `was`; the IPv6 MTU follows that of the link."""
    now = state(pod)
    assert int(now.get(MTU6, now["mtu"])) == now["mtu"]
    return {
        key: (was.get(key), now.get(key))
        for key in was.keys() | now.keys()
        if was.get(key) != now.get(key) and key != MTU6
    }


def backups(node: Node) -> list[str]:
    """The backup files that a DEL would restore from."""
    return sorted(file.name for file in node.path(FOLDER).glob("*"))
