"""A network of real flanneld (backend vxlan, with etcd), and nodes that slash24-node makes a part of it."""

import json
import os
import signal
import subprocess
from pathlib import Path

from tests.netns.cni import CNI, PATH
from tests.netns.daemon_tools import daemon_command, daemon_environment
from tests.netns.etcd_server import Etcd
from tests.netns.node import Pod, wait_until
from tests.system.pages import follow
from tests.system.underlay import LINKS, ROUTER, Member, Underlay

PREFIX = "/coreos.com/network"
NETWORK = "10.244.0.0/16"
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


class Cluster:
    """The nodes, and an etcd on the router between them."""

    def __init__(self, underlay: Underlay, folder: Path, reference: Path, bin_dir: Path, **backend: object) -> None:
        """`reference`: the folder with flanneld and the reference plugins; `backend`: further keys of flannel's."""
        self.underlay, self.reference, self.home = underlay, reference, bin_dir
        address = f"{LINKS['left'][0]}{ROUTER}"
        self.etcd = Etcd(folder, at=(underlay.fabric, address))
        conf = {"Network": NETWORK, "Backend": {"Type": "vxlan", **backend}}
        self.etcd.ctl("put", f"{PREFIX}/config", json.dumps(conf))
        self._processes: list[subprocess.Popen] = []

    def close(self) -> None:
        """End all daemons and etcd."""
        for process in self._processes:
            process.kill()
            process.wait()
        self.etcd.close()

    def flanneld(self, member: Member) -> "Program":
        """Start flanneld on a node; returns when it has written the node's subnet."""
        file = member.node.path("/run/flannel/subnet.env")
        argv = [self.reference / "flanneld", f"--etcd-endpoints=http://{self.etcd.hosts}", "--iface=eth0", "--ip-masq"]
        program = self._start(member, argv, {"PATH": PATH}, "flanneld")
        assert wait_until(file.exists), program.log
        return program

    def slash24(self, member: Member) -> "Program":
        """Start slash24-node with the configuration of the page; returns when its network works."""
        follow(member, PAGE, "1. The configuration")
        config = member.node.path(CONFIG)
        text = config.read_text().replace("192.0.2.9:2379", self.etcd.hosts)
        config.write_text(f'node = "n{member.number}"\n{text}')
        argv = [*daemon_command(self.home), "--config", CONFIG]
        program = self._start(member, argv, daemon_environment(self.home), "slash24-node")
        assert wait_until(member.node.path(CONFLIST).exists, timeout=30), program.log
        return program

    def leases(self) -> dict[str, dict]:
        """flannel's records by subnet."""
        found = self.etcd.keys(f"{PREFIX}/subnets/")
        return {key.rpartition("/")[2].replace("-", "/"): json.loads(value) for key, value in found.items()}

    def subnet_of(self, member: Member) -> str:
        """The subnet that a node has leased."""
        (subnet,) = (each for each, lease in self.leases().items() if lease["PublicIP"] == member.addresses[0])
        return subnet

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
            process = member.node.start(argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")
        self._processes.append(process)
        return Program(process, path)


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
