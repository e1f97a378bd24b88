"""A network of real flanneld (backend vxlan), and nodes that slash24-node makes a part of it."""

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

from tests.netns.cni import CNI, PATH
from tests.netns.daemon_tools import daemon_command, daemon_environment
from tests.netns.etcd_server import HELD, Etcd
from tests.netns.node import Pod, ask, wait_until
from tests.system.pages import follow
from tests.system.traffic import INTERVAL, Traffic
from tests.system.underlay import LINKS, ROUTER, Member, Underlay

PREFIX = "/coreos.com/network"
NETWORK = "10.244.0.0/16"
NET_CONF = {"Network": NETWORK, "Backend": {"Type": "vxlan"}}
PAGE, CONFIG = "moving-from-flannel.md", "/run/etc/slash24.toml"
CONFLIST = "/run/cni/net.d/10-slash24.conflist"

# What flannel's own plugin delegates to `bridge`; its subnet is that of the node's lease.
DELEGATED = {
    "cniVersion": "0.3.1",
    "name": "cbr0",
    "type": "bridge",
    "bridge": "cni0",
    "hairpinMode": True,
    "ipMasq": False,
    "isDefaultGateway": True,
    "isGateway": True,
    "mtu": 1450,
}


class Nodes:
    """Nodes with flanneld or slash24-node."""

    def __init__(self, reference: Path, home: Path) -> None:
        """`reference`: the folder with flanneld and the reference plugins; `home`: that with ours."""
        self.reference, self._home = reference, home
        self._processes: list[subprocess.Popen] = []

    def close(self) -> None:
        """End all daemons."""
        for process in self._processes:
            process.kill()
            process.wait()

    def subnet_of(self, member: Member) -> str:
        """The subnet of a node."""
        raise NotImplementedError

    def start_flanneld(self, member: Member, *options: str, **environ: str) -> "Program":
        """Start flanneld on a node; returns when it has written the node's subnet."""
        file = member.node.path("/run/flannel/subnet.env")
        argv = [self.reference / "flanneld", "--iface=eth0", "--ip-masq", *options]
        program = self._start(member, argv, {"PATH": PATH, **environ}, "flanneld")
        assert wait_until(file.exists, timeout=30), program.log
        return program

    def start_slash24(self, member: Member, registry: str, *, tunnel: str = "", more: str = "") -> "Program":
        """Start slash24-node with the configuration of the page, and this registry; returns when its network works.

        `tunnel`: further lines of [vxlan]; `more`: further tables.
        """
        follow(member, PAGE, "1. The configuration")
        config = member.node.path(CONFIG)
        text = config.read_text().replace("flannel+etcd://192.0.2.9:2379/coreos.com/network", registry)
        text = text.replace("[vxlan]\n", f"[vxlan]\n{tunnel}")
        config.write_text(f'node = "n{member.number}"\n{text}{more}')
        argv = [*daemon_command(self._home), "--config", CONFIG]
        program = self._start(member, argv, daemon_environment(self._home), "slash24-node")
        assert wait_until(member.node.path(CONFLIST).exists, timeout=30), program.log
        return program

    def flannel_pod(self, member: Member, name: str) -> tuple[Pod, str]:
        """A pod as flannel's own plugin makes it, with its address."""
        ipam = {
            "type": "host-local",
            "ranges": [[{"subnet": self.subnet_of(member)}]],
            "routes": [{"dst": NETWORK}],
        }
        pod = member.node.pod(name)
        result = CNI(member.node, self.reference).add({**DELEGATED, "ipam": ipam}, pod)
        return pod, result["ips"][0]["address"].partition("/")[0]

    def slash24_pod(self, member: Member, name: str) -> tuple[Pod, str]:
        """A pod by the conflist of slash24-node, with its address."""
        pod = member.node.pod(name)
        return pod, member.cni.add(conf_of(member), pod)["ips"][0]["address"].partition("/")[0]

    def _start(self, member: Member, argv: list, env: dict[str, str], name: str) -> "Program":
        path = member.node.path(f"/run/{name}.log")
        with path.open("a") as log:
            process = member.node.start(
                [*HELD, *argv], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
            )
        self._processes.append(process)
        return Program(process, path)


class EtcdNodes(Nodes):
    """Nodes whose records are in an etcd on the router between them."""

    def __init__(self, underlay: Underlay, folder: Path, reference: Path, home: Path, **keys: object) -> None:
        """`keys`: of flannel's configuration, in place of the usual ones."""
        super().__init__(reference, home)
        self._conf = NET_CONF | keys
        self.etcd = Etcd(folder, at=(underlay.fabric, f"{LINKS['left'][0]}{ROUTER}"))
        self.etcd.ctl("put", f"{PREFIX}/config", json.dumps(self._conf))

    def close(self) -> None:
        """End all daemons and etcd."""
        super().close()
        self.etcd.close()

    def flanneld(self, member: Member) -> "Program":
        """Start flanneld on a node."""
        return self.start_flanneld(member, f"--etcd-endpoints=http://{self.etcd.hosts}")

    def slash24(self, member: Member) -> "Program":
        """Start slash24-node on a node."""
        tunnel = "directRouting = true\n" if "DirectRouting" in self._conf["Backend"] else ""
        return self.start_slash24(member, f"flannel+etcd://{self.etcd.hosts}{PREFIX}", tunnel=tunnel)

    def leases(self) -> dict[str, dict]:
        """flannel's records by subnet."""
        found = self.etcd.keys(f"{PREFIX}/subnets/")
        return {key.rpartition("/")[2].replace("-", "/"): json.loads(value) for key, value in found.items()}

    def subnet_of(self, member: Member) -> str:
        """The subnet that a node has leased."""
        (subnet,) = (each for each, lease in self.leases().items() if lease["PublicIP"] == member.addresses[0])
        return subnet


def conf_of(member: Member) -> dict:
    """The main plugin's configuration as a runtime gets it from the conflist of slash24-node."""
    conflist = json.loads(member.node.path(CONFLIST).read_text())
    return {"cniVersion": conflist["cniVersion"], "name": conflist["name"], **conflist["plugins"][0]}


class Program:
    """A daemon on a node, and its log."""

    def __init__(self, process: subprocess.Popen, path: Path) -> None:
        self._process, self._path = process, path

    @property
    def log(self) -> str:
        """The log so far."""
        return self._path.read_text()

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it, as its service manager does; what it has made stays."""
        os.kill(self._process.pid, number)
        self._process.wait(15)


def assert_all_reach(pods: Sequence[tuple[Pod, str]]) -> None:
    """Assert that every pod reaches every other by TCP, UDP and ICMP, with its own address."""
    for (client, own), (server, address) in permutations(pods, 2):
        assert client.reaches(address, timeout=20), f"no echo from {own} to {address}"
        for kind in ("tcp", "udp"):
            assert ask(client, server, address, 8000, kind) == own


def assert_little_lost(what: str, traffic: Traffic) -> None:
    """Assert that no connection is broken, and no flow has lost what it sends in a second."""
    report = traffic.report()
    print(f"{what}: {report}")
    assert not report.broken
    assert report.lost < 1 / INTERVAL


def identity(member: Member) -> tuple[int, str]:
    """The index and the MAC of the tunnel's device, by which one that was made anew is told."""
    device = member.node.links()["flannel.1"]
    return device["ifindex"], device["address"]
