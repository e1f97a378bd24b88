"""containerd and podman on a node, each called as its users call it."""

import json
from collections.abc import Sequence
from pathlib import Path

from tests.netns.node import Host, wait_until
from tests.runtimes.machine import IMAGE, Machine

NET_D = "/etc/cni/net.d"

# In addition to the packages' configuration: the node has neither a registry nor controllers for its control groups.
_CONTAINERD = f"""[plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "{IMAGE}"
    disable_apparmor = true
    restrict_oom_score_adj = true
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "/tmp/runc"
"""
_UNLIMITED_RUNC = """#!/usr/bin/python3
import json, os, sys
if "create" in sys.argv:
    path = sys.argv[sys.argv.index("--bundle") + 1] + "/config.json"
    config = json.load(open(path))
    config["linux"].pop("resources", None)
    json.dump(config, open(path, "w"))
os.execv("/usr/sbin/runc", ["runc", *sys.argv[1:]])
"""
_PODMAN = """
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
pids_limit = 0
log_driver = "k8s-file"
"""
CRICTL = "--runtime-endpoint=unix:///run/containerd/containerd.sock"


class Containerd:
    """containerd, called with crictl over the CRI as a kubelet does."""

    def __init__(self, machine: Machine, crictl: Path) -> None:
        self._machine, self._crictl = machine, [str(crictl), CRICTL]
        machine.path("/tmp/runc").write_text(_UNLIMITED_RUNC)
        machine.path("/tmp/runc").chmod(0o755)
        file = machine.path("/etc/containerd/config.toml")
        file.write_text(file.read_text().replace('[plugins."io.containerd.grpc.v1.cri"]', _CONTAINERD, 1))
        machine.run(["sh", "-c", "containerd >/tmp/containerd.log 2>&1 </dev/null &"])
        assert wait_until(lambda: machine.run(["ctr", "version"], check=False).returncode == 0)
        machine.run(["ctr", "-n", "k8s.io", "images", "import", machine.image()])

    def use(self, network: str) -> None:
        """Wait until containerd uses this network for pods."""
        assert wait_until(lambda: self._networks()[:1] == [network]), self._run("info")

    def start(self, network: str, name: str, ports: Sequence[tuple[int, int]] = ()) -> Host:
        """Start a pod; `ports` are pairs of host port and pod port."""
        mappings = [{"protocol": 0, "host_port": host, "container_port": port} for host, port in ports]
        metadata = {"name": name, "namespace": "default", "uid": name, "attempt": 1}
        pod = {
            "metadata": metadata,
            "log_directory": "/tmp",
            "linux": {"cgroup_parent": "/pods"},
            "port_mappings": mappings,
        }
        self._machine.path(f"/tmp/{name}.json").write_text(json.dumps(pod))
        number = self._run("runp", f"/tmp/{name}.json").strip()
        spec = json.loads(self._run("inspectp", number))["info"]["runtimeSpec"]
        (netns,) = [each["path"] for each in spec["linux"]["namespaces"] if each["type"] == "network"]
        return self._machine.netns(netns)

    def remove(self, *names: str) -> None:
        """Stop and delete these pods."""
        for name in names:
            for verb in ("stopp", "rmp"):
                self._run(verb, *self._run("pods", "--quiet", "--name", f"^{name}$").split())

    def _networks(self) -> list[str]:
        networks = json.loads(self._run("info"))["cniconfig"]["Networks"]
        return [each["Config"]["Name"] for each in networks if each["Config"]["Name"] != "cni-loopback"]

    def _run(self, *words: str) -> str:
        return self._machine.run([*self._crictl, *words]).stdout


class Podman:
    """podman; the network of a pod is an argument."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        machine.path("/etc/containers/containers.conf").write_text(_PODMAN)
        machine.run(["podman", "load", "--input", machine.image()])

    def use(self, network: str) -> None:
        """Nothing to do: podman reads the networks on every call."""

    def start(self, network: str, name: str, ports: Sequence[tuple[int, int]] = ()) -> Host:
        """Start a container; `ports` are pairs of host port and container port."""
        published = [f"--publish={host}:{port}" for host, port in ports]
        self._machine.run(["podman", "run", "--detach", "--network", network, "--name", name, *published, IMAGE])
        found = self._machine.run(["podman", "inspect", "--format", "{{.NetworkSettings.SandboxKey}}", name])
        return self._machine.netns(found.stdout.strip())

    def remove(self, *names: str) -> None:
        """Kill and delete these containers."""
        self._machine.run(["podman", "rm", "--force", "--time", "0", *names])
