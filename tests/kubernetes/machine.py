"""A node of Kubernetes for tests: Debian's containerd, a kubelet and kube-proxy, in namespaces of their own.

Its root is an overlay: the machine's tree, and memory for writes. It has process, network, mount, UTS, IPC and control
group namespaces, and all of it disappears with the process that holds it.
"""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import ROOT
from tests.kubernetes.apiserver import kubernetes_bin
from tests.kubernetes.control_groups import ControlGroup
from tests.netns.node import Host, wait_until
from tests.runtimes.machine import IMAGE, TREE

PATH = f"{TREE}/usr/bin:{TREE}/usr/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
CONFLISTS, PLUGINS = "/etc/cni/net.d", "/opt/cni/bin"
_FLAGS = ("--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup")

_JOIN = 'for group in $1; do echo 0 >$group/cgroup.procs; done; shift; exec "$@"'
"""Moves itself into each control group, before the namespace of control groups begins there."""

# The kubelet sets these for the whole machine if they have other values.
_PRESENTED = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}
_EMPTY = ("run", "tmp", "etc/cni", "opt/cni", "var/lib/cni", "var/lib/containerd", "var/lib/kubelet", "var/log")

# The first process must be a shell: it reaps processes whose parents have ended.
_HOLD = """
name=$1 top=$2 repository=$3
mount -t tmpfs node "$top"
cd "$top"
mkdir upper work root
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work node root
cd root
for folder in {empty}; do
    mkdir -p $folder
    mount -t tmpfs node $folder
done
mkdir -p ".$repository" run/netns run/lock run/presented opt/cni/bin etc/cni/net.d var/log/pods .former
mount --rbind "$repository" ".$repository"
mount -t proc proc proc
mount --rbind /dev dev
mount -t sysfs sysfs sys
{mounts}
{presented}
cat >run/joined <<'END'
{joining}
exec "$@"
END
hostname "$name"
pivot_root . .former
umount -l /.former
mount --make-rshared /
ip link set lo up
echo ready
cat <&3 >/dev/null &
wait $!
"""

_CONTAINERD = f"""
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{IMAGE}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{PLUGINS}"
    conf_dir = "{CONFLISTS}"
"""

_KUBELET = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
    "authorization": {"mode": "AlwaysAllow"},
    "cgroupDriver": "cgroupfs",
    "failCgroupV1": False,
    "failSwapOn": False,
    "enforceNodeAllocatable": [],
    "oomScoreAdj": 0,
    "localStorageCapacityIsolation": False,
    "evictionHard": dict.fromkeys(("memory.available", "nodefs.available", "imagefs.available"), "0%"),
    "imageGCHighThresholdPercent": 100,
    "nodeStatusUpdateFrequency": "2s",
    "volumePluginDir": "/var/lib/kubelet/plugins",
    "resolvConf": "",
    "clusterDNS": ["10.96.0.10"],
}


class KubernetesNode(Host):
    """The node: `name`; `logs`: the folder, below the repository, of its files and of what its programs print."""

    def __init__(self, name: str, logs: Path) -> None:
        self.name, self.logs = name, logs
        logs.mkdir(parents=True)
        self._top = tempfile.mkdtemp(prefix="slash24-")
        self._programs: dict[str, subprocess.Popen] = {}
        self._groups = ControlGroup(os.path.basename(self._top))
        presented = [f"echo {value} >run/presented/{key.replace('/', '.')}\n" for key, value in _PRESENTED.items()]
        presented += [f"mount --bind run/presented/{key.replace('/', '.')} proc/sys/{key}\n" for key in _PRESENTED]
        hold = _HOLD.format(
            empty=" ".join(_EMPTY),
            mounts=self._groups.mounts(),
            joining=self._groups.joining(),
            presented="".join(presented),
        )
        argv = ["sh", "-ec", _JOIN, "sh", " ".join(map(str, self._groups.groups.values()))]
        argv += ["unshare", *_FLAGS, "--fork", "--kill-child", "--propagation", "private", "--", "sh", "-ec"]
        argv += [f"exec 3<&0\n{hold}", "sh", name, self._top, str(ROOT)]
        with open(logs / "node.log", "w") as log:
            self._holder = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._holder.stdout.readline() == "ready\n", (logs / "node.log").read_text()
        self.pid = _child(self._holder.pid)
        super().__init__(self.pid, f"/proc/{self.pid}/ns/net")
        environ = [f"PATH={PATH}", f"LD_LIBRARY_PATH={TREE}/usr/lib/x86_64-linux-gnu", "HOME=/root"]
        self._enter = ["nsenter", f"--target={self.pid}", *_FLAGS, "--", "env", "-i", *environ]

    def path(self, absolute: str) -> Path:
        """The path of a file of the node in the test's file system."""
        return Path(f"/proc/{self.pid}/root{absolute}")

    def start_containerd(self, images: Sequence[Path]) -> None:
        """Start containerd, and import images from archives below the repository."""
        (self.logs / "containerd.toml").write_text(_CONTAINERD)
        self._program("containerd", ["containerd", "--config", self.logs / "containerd.toml"])
        assert wait_until(lambda: self.run(["ctr", "version"], check=False).returncode == 0, timeout=60)
        self.import_images(images)

    def import_images(self, images: Sequence[Path]) -> None:
        """Import images from archives below the repository."""
        for image in images:
            self.run(["ctr", "-n", "k8s.io", "images", "import", image])

    def start_kubelet(self, kubeconfig: Path, addresses: Sequence[str]) -> None:
        """Start the kubelet, which registers the node with these addresses."""
        (self.logs / "kubelet.json").write_text(json.dumps(_KUBELET))
        argv = [kubernetes_bin() / "kubelet", "--config", self.logs / "kubelet.json", "--kubeconfig", kubeconfig]
        self._program("kubelet", [*argv, "--hostname-override", self.name, "--node-ip", ",".join(addresses), "--v=2"])

    def start_proxy(self, kubeconfig: Path, mode: str, cluster: Sequence[str]) -> None:
        """Start kube-proxy in one of its modes, or again in another; `cluster`: the networks of all pods."""
        self.stop("kube-proxy")
        settings = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": mode,
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "hostnameOverride": self.name,
            "clusterCIDR": ",".join(cluster),
            # The table of connections is the machine's.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
        config = self.logs / "kube-proxy.json"
        config.write_text(json.dumps(settings))
        self._program("kube-proxy", [kubernetes_bin() / "kube-proxy", "--config", config, "--v=2"])

    def _program(self, name: str, argv: Sequence[object]) -> None:
        with open(self.logs / f"{name}.log", "ab") as log:
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            self._programs[name] = self.start(["sh", "/run/joined", *argv], **options)

    def stop(self, name: str) -> None:
        """End containerd, the kubelet or kube-proxy, if it runs."""
        program = self._programs.pop(name, None)
        if program and program.poll() is None:
            os.kill(_child(program.pid), signal.SIGTERM)  # of nsenter, which ends with it
            program.wait(timeout=30)

    def pod(self, container: str) -> Host:
        """The network namespace of a pod, by the ID of one of its containers ("containerd://...")."""
        tasks = self.run(["ctr", "-n", "k8s.io", "tasks", "ls"]).stdout.split("\n")
        (pid,) = [line.split()[1] for line in tasks if line.startswith(container.partition("//")[2])]
        return Host(self.pid, f"/proc/{self.pid}/root/proc/{pid}/ns/net")

    def close(self) -> None:
        """End the holding process, and with it every process of the node."""
        self._holder.stdin.close()
        self._holder.wait(timeout=30)
        self._holder.stdout.close()
        for program in self._programs.values():
            program.wait(timeout=30)
        self._groups.close()
        os.rmdir(self._top)


def _child(pid: int) -> int:
    """The only child of a process."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
