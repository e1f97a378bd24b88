"""An agent in a container: a separate mount namespace, with the host's root mounted on a folder.

The files that a call may need are missing in the container, or differ from the host's at the same path.
"""

import json
import os
from pathlib import Path

import pytest

from tests.conformance.support import leases, network
from tests.netns import firewalld_tools
from tests.netns.agent_tools import (  # noqa: F401 (a fixture)
    CONF,
    SOCKET,
    Agent,
    Start,
    ViaAgent,
    agents_started,
    foreign,
    installed,
    nothing_is_left,
)
from tests.netns.cni import CNIFailure, with_prev
from tests.netns.node import Node, wait_until
from tests.netns.tuned_pod import conf as tuning
from tests.netns.tuned_pod import pod_with_link

pytestmark = pytest.mark.cold(reason="brings agents of its own")

HOST = "/run/host"
FOLDERS = ("/etc/cni", "/var/lib/cni", "/run/netns", "/run/others", "/run/slash24", "/run/cni", "/run/dbus")


def contained(node: Node, bin_dir: Path, start: Start, *options: str) -> Agent:
    """Start an agent in a container with the host's root at HOST, its own FOLDERS and an executable not on the host."""
    folders = " ".join(FOLDERS)
    program = f"""set -e
mkdir -p {HOST}
mount --rbind / {HOST}
mount -t tmpfs etc /etc
mkdir -p {folders}
for folder in {folders}; do mount -t tmpfs none $folder; done
mkdir /etc/cni/tuning
echo '^net' >/etc/cni/tuning/allowlist.conf
mount -t tmpfs none {HOST}{bin_dir}
exec "$@"
"""
    node.run(["sh", "-c", f"mount -t tmpfs etc /etc && mkdir -p {folders}"])
    installed(node, bin_dir)
    prefix = ["unshare", "--mount", "sh", "-c", program, "sh"]
    return start("--host-root", HOST, "--home", "/run/launchers", *options, prefix=prefix)


@pytest.fixture(name="warm")
def calls_by_agent(node: Node, bin_dir: Path) -> ViaAgent:
    """Calls through the agent, with the host's executables."""
    return ViaAgent(node, bin_dir, more=("/run/others", "/run/launchers"))


def test_netns_and_third_party_plugins_are_those_of_the_host(
    node: Node, bin_dir: Path, warm: ViaAgent, start: Start
) -> None:
    """ADD, CHECK and DEL, with a third-party IPAM plugin, which is executed on the host, and with host-local."""
    lease = '{"cniVersion": "1.1.0", "ips": [{"address": "10.1.2.9/24"}]}'
    pod = node.pod("pod1")
    contained(node, bin_dir, start)
    foreign(node.path("/run/others"), "foreign", f"cat >/dev/null; ls $CNI_NETNS /proc/self >/run/seen; echo '{lease}'")
    conf = network({"type": "foreign"})
    result = warm.add(conf, pod)
    assert pod.addresses("eth0") == {"10.1.2.9/24"}
    assert result["interfaces"][2]["sandbox"] == pod.path
    assert pod.path in node.path("/run/seen").read_text()
    warm.check(conf, pod, result)
    warm.delete(conf, pod, result)
    assert set(pod.links()) == {"lo"}
    result = warm.add(CONF, pod)
    assert len(leases(node)) == 2
    warm.delete(CONF, pod, result)
    assert nothing_is_left(node)
    assert warm.ways == {"agent": 5}


def test_the_sysctl_allowlist_is_that_of_the_host(node: Node, bin_dir: Path, warm: ViaAgent, start: Start) -> None:
    """ADD and STATUS refuse a sysctl that the host's allowlist forbids, though the container's allowlist permits it."""
    pod = pod_with_link(node)
    contained(node, bin_dir, start)
    forbidden = tuning(sysctl={"net.ipv4.conf.IFNAME.arp_filter": "1"})
    warm.add(forbidden, pod)  # the host has no allowlist, so everything is allowed
    node.path("/etc/cni/tuning").mkdir()
    node.path("/etc/cni/tuning/allowlist.conf").write_text("^net\\.core\\.\n")
    for refused in (lambda: warm.add(forbidden, pod), lambda: warm.status(forbidden)):
        with pytest.raises(CNIFailure, match="is not allowed"):
            refused()
    assert warm.ways == {"agent": 3}


def test_firewalld_is_that_of_the_host(node: Node, bin_dir: Path, warm: ViaAgent, start: Start) -> None:
    """The container has no system bus, and no Python modules for D-Bus that could be imported later."""
    pod = node.pod("pod1")
    contained(node, bin_dir, start)
    node.path("/etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")  # the bus looks up root's name
    result = warm.add(CONF, pod)
    conf = {"cniVersion": "1.1.0", "name": "net", "type": "firewall"}
    with firewalld_tools.bus(node), firewalld_tools.fake(node):
        warm.add(with_prev(conf, result), pod)
        warm.check(conf, pod, result)
        warm.delete(conf, pod, result)
    addresses = sorted(ip["address"].partition("/")[0] for ip in result["ips"])
    for method in ("addSource", "removeSource"):
        calls = [line for line in firewalld_tools.told(node) if line.startswith(method)]
        assert sorted(calls) == [f"{method} trusted {each}/{128 if ':' in each else 32}" for each in addresses]
    assert warm.ways == {"agent": 4}


def test_files_that_a_configuration_names_are_those_of_the_host(
    node: Node, bin_dir: Path, warm: ViaAgent, start: Start
) -> None:
    """resolvConf and dataDir of host-local; subnetFile and peersFile of kubenet at their default paths."""
    pods = [node.pod(f"pod{index}") for index in range(2)]
    contained(node, bin_dir, start)
    node.path("/etc/resolv.pods").write_text("nameserver 192.0.2.53\n")
    ipam = {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24"}]]}
    ipam |= {"resolvConf": "/etc/resolv.pods", "dataDir": "/var/lib/elsewhere"}
    assert warm.add(network(ipam), pods[0])["dns"]["nameservers"] == ["192.0.2.53"]
    assert len(leases(node, "/var/lib/elsewhere/net")) == 1
    node.path("/run/slash24/node.json").write_text(json.dumps({"podCIDRs": ["10.244.1.0/24"]}))
    peers = [{"name": "b", "podCIDRs": ["10.244.2.0/24"], "addresses": ["192.0.2.2"]}]
    node.path("/run/slash24/peers.json").write_text(json.dumps({"peers": peers}))
    node.outside()
    kubenet = {"cniVersion": "1.1.0", "name": "kube", "type": "kubenet"}
    assert warm.add(kubenet, pods[1])["ips"][0]["address"].startswith("10.244.1.")
    assert node.routes()["10.244.2.0/24"]["gateway"] == "192.0.2.2"
    assert set(leases(node, "/var/lib/cni/networks/kube")) >= {"10.244.1.2"}
    assert set(warm.ways) == {"agent"}


def test_every_plugin_is_loaded_completely(node: Node, bin_dir: Path, warm: ViaAgent, start: Start) -> None:
    """No verb of any plugin, and no error message, needs to load a module from the container on first use."""
    pods = [node.pod(f"pod{index}") for index in range(3)]
    node.outside()
    agent = contained(node, bin_dir, start)
    base = {"cniVersion": "1.1.0", "name": "net"}
    static = {"type": "static", "addresses": [{"address": "10.1.2.9/24"}]}
    result = warm.add(network(static, ipMasq=True, macspoofchk=True), pods[0])
    ports = [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 53, "containerPort": 53, "protocol": "udp"},
    ]
    chain = [
        {"type": "portmap", "runtimeConfig": {"portMappings": ports}},
        {"type": "bandwidth", "ingressRate": 8000000, "ingressBurst": 8000000, "egressRate": 1000, "egressBurst": 8000},
        {"type": "firewall", "ingressPolicy": "same-bridge"},
        {"type": "tuning", "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}, "mtu": 1400, "allmulti": True},
    ]
    nodes = {"podCIDRs": ["10.244.1.0/24"], "clusterCIDRs": ["10.244.0.0/16"], "parent": "wan0"}
    nodes["peers"] = [{"name": "b", "podCIDRs": ["10.244.2.0/24"], "addresses": ["192.0.2.2"]}]
    confs = [(pods[0], {**base, **each, "prevResult": result}) for each in chain]
    confs += [(pods[1], {**base, "type": "loopback"}), (pods[2], {**base, "name": "vx", "type": "vxlan", **nodes})]
    for pod, conf in confs:
        added = warm.add(conf, pod)
        warm.call("CHECK", {**conf, "prevResult": added}, pod)
        warm.status(conf)
        with pytest.raises(CNIFailure, match="incompatible CNI versions"):
            warm.add({**conf, "cniVersion": "9.9.9"}, pod)
    for pod, conf in reversed(confs):
        warm.delete(conf, pod)
        warm.gc(conf)
    assert "call failed in the agent" not in agent.log
    assert "Error" not in agent.log
    assert set(warm.ways) == {"agent"}


def test_no_path_leads_into_the_container(node: Node, bin_dir: Path, start: Start) -> None:
    """Root and working directory of every thread are the host's, so plugins can open only the host's files."""
    agent = contained(node, bin_dir, start)
    host = os.stat(node.path("/"))
    tasks = [f"/proc/{agent.process.pid}", *map(str, Path(f"/proc/{agent.process.pid}/task").iterdir())]
    for task in tasks:
        assert os.path.samestat(os.stat(f"{task}/root"), host)
        assert os.path.samestat(os.stat(f"{task}/cwd"), host)
    assert os.path.samestat(os.stat(f"/proc/{agent.process.pid}/root/etc"), os.stat(node.path("/etc")))


def test_socket_and_pages_are_on_the_host(node: Node, bin_dir: Path, warm: ViaAgent, start: Start) -> None:
    """The socket is where launchers connect; all pages are served without a file of the container."""
    agent = contained(node, bin_dir, start, "--listen", "/run/slash24/http.sock")
    assert node.path(SOCKET).is_socket()
    warm.delete(CONF, node.pod("pod1"))
    assert [agent.page(name)[0] for name in ("healthz", "readyz", "metrics", "none")] == [200, 200, 200, 404]
    assert wait_until(lambda: 'slash24_calls_total{outcome="0"' in agent.page("metrics")[1])


def test_json_in_any_unicode_encoding_is_read(node: Node, bin_dir: Path, warm: ViaAgent, start: Start) -> None:
    """Python would load a codec on first use, from files that the agent can no longer read."""
    agent = contained(node, bin_dir, start)
    launcher = Path("/run/launchers/bridge")
    for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"):
        argv = ["sh", "-c", f'printf %s "$1" | iconv -t {encoding.removesuffix("-sig")} | {launcher}', "sh", "[]"]
        done = node.run(argv, env=warm.environ("STATUS"), check=False)
        assert json.loads(done.stdout)["code"] in (6, 7), done
    assert "call failed in the agent" not in agent.log


def test_a_host_root_without_the_host_s_proc_is_refused(node: Node, bin_dir: Path, start: Start) -> None:
    """Without the host's /proc no network namespace could be entered: the agent exits at once with a message."""
    node.path("/run/empty").mkdir()
    agent = start("--host-root", "/run/empty")
    assert agent.process.wait(10) == 1
    assert "its /proc does not show this process" in agent.log
