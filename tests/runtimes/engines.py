"""containerd and podman on a node, each called as its users call it."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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
_AGENT = "/opt/cni/bin/slash24-agent"
_CRICTL = "runtime-endpoint: unix:///run/containerd/containerd.sock\ntimeout: 60\n"


class Containerd:
    """containerd, called with crictl over the CRI as a kubelet does."""

    def __init__(self, machine: Machine, crictl: Path) -> None:
        self._machine, self._crictl = machine, str(crictl)
        machine.path("/tmp/runc").write_text(_UNLIMITED_RUNC)
        machine.path("/tmp/runc").chmod(0o755)
        file = machine.path("/etc/containerd/config.toml")
        file.write_text(file.read_text().replace('[plugins."io.containerd.grpc.v1.cri"]', _CONTAINERD, 1))
        machine.path("/etc/crictl.yaml").write_text(_CRICTL)
        self.launch()
        machine.run(["ctr", "-n", "k8s.io", "images", "import", machine.image()])

    def launch(self) -> None:
        """Start containerd, and wait until it answers."""
        self._process = self._machine.start(["sh", "-c", "exec containerd >>/tmp/containerd.log 2>&1 </dev/null"])
        assert wait_until(lambda: self._machine.run(self.command("version"), check=False).returncode == 0)

    def end(self, signal: str = "TERM") -> None:
        """Stop containerd by a signal; its pods keep running."""
        self._machine.run(["pkill", f"-{signal}", "-x", "containerd"])
        self._process.wait(timeout=20)

    def command(self, *words: str) -> list[str]:
        """The command of crictl with these arguments."""
        return [self._crictl, *words]

    def use(self, network: str) -> None:
        """Wait until containerd uses this network for pods."""
        assert wait_until(lambda: self.network()["name"] == network), self._run("info")

    def network(self) -> dict:
        """The network that containerd uses for pods, as it has read it."""
        networks = [each["Config"]["Source"] for each in json.loads(self._run("info"))["cniconfig"]["Networks"]]
        return next(each for each in map(json.loads, networks) if each["name"] != "cni-loopback")

    def start(
        self,
        network: str,
        name: str,
        ports: Sequence[tuple[int, int]] = (),
        annotations: Mapping[str, str] | None = None,
    ) -> Host:
        """Start a pod; `ports` are pairs of host port and pod port."""
        spec = self._inspected(self._run("runp", self.describe(name, ports, annotations)).strip())["info"][
            "runtimeSpec"
        ]
        (netns,) = [each["path"] for each in spec["linux"]["namespaces"] if each["type"] == "network"]
        return self._machine.netns(netns)

    def describe(
        self, name: str, ports: Sequence[tuple[int, int]] = (), annotations: Mapping[str, str] | None = None
    ) -> str:
        """Write the configuration of a pod; returns its path on the node."""
        mappings = [{"protocol": 0, "host_port": host, "container_port": port} for host, port in ports]
        metadata = {"name": name, "namespace": "default", "uid": name, "attempt": 1}
        pod = {
            "metadata": metadata,
            "annotations": dict(annotations or {}),
            "log_directory": "/tmp",
            "linux": {"cgroup_parent": "/pods"},
            "port_mappings": mappings,
        }
        self._machine.path(f"/tmp/{name}.json").write_text(json.dumps(pod))
        return f"/tmp/{name}.json"

    def start_together(self, network: str, names: Sequence[str]) -> list[Host]:
        """Start these pods at once."""
        return _together(lambda name: self.start(network, name), names)

    def known(self) -> list[str]:
        """The names of all pods."""
        return [each["metadata"]["name"] for each in json.loads(self._run("pods", "--output", "json"))["items"]]

    def addresses(self, name: str) -> list[str]:
        """The addresses of a pod, as containerd reports them."""
        network = self._inspected(*self._numbers(name))["status"]["network"]
        return [network["ip"], *(each["ip"] for each in network.get("additionalIps", ()))]

    def stop(self, name: str) -> None:
        """Stop a pod, which frees its network."""
        self._run("stopp", *self._numbers(name))

    def remove(self, *names: str) -> None:
        """Stop and delete these pods."""
        for name in names:
            numbers = self._numbers(name)
            for verb in ("stopp", "rmp"):
                self._run(verb, *numbers)

    def remove_together(self, names: Sequence[str]) -> None:
        """Stop and delete these pods at once."""
        _together(self.remove, names)

    def _numbers(self, name: str) -> list[str]:
        return self._run("pods", "--quiet", "--name", f"^{name}$").split()

    def _inspected(self, number: str) -> dict:
        return json.loads(self._run("inspectp", number))

    def _run(self, *words: str) -> str:
        return self._machine.run(self.command(*words)).stdout


def _together(work: Callable, names: Sequence[str]) -> list:
    with ThreadPoolExecutor(len(names)) as pool:
        return list(pool.map(work, names))


class Agent:
    """The agent, installed and started as README describes."""

    def __init__(self, machine: Machine, program: str = _AGENT) -> None:
        self._machine, self._program, self._log = machine, program, machine.path("/tmp/agent.log")
        self.launch()

    def launch(self) -> None:
        """Start it, and wait until it is ready."""
        self._log.unlink(missing_ok=True)
        self._process = self._machine.start(["sh", "-c", f"exec {self._program} >/tmp/agent.log 2>&1 </dev/null"])
        assert wait_until(lambda: self._log.exists() and "event=ready" in self._log.read_text())

    def end(self, signal: str = "TERM") -> None:
        """Stop it by a signal."""
        self._machine.run(["pkill", f"-{signal}", "slash24-agent"])
        self._process.wait(timeout=20)

    def served(self) -> set[tuple[str, str, str]]:
        """Verb, plugin and outcome of the calls since it was started."""
        return set(re.findall(r"\bverb=(\w+) plugin=(\w+) .*outcome=(\d+)", self._log.read_text()))


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
        self.run("run", "--detach", "--network", network, "--name", name, *published, IMAGE)
        return self.netns(name)

    def netns(self, name: str) -> Host:
        """The network namespace of a container."""
        return self._machine.netns(self.run("inspect", "--format", "{{.NetworkSettings.SandboxKey}}", name).strip())

    def remove(self, *names: str) -> None:
        """Kill and delete these containers."""
        self.run("rm", "--force", "--time", "0", *names)

    def run(self, *words: str) -> str:
        """The output of podman with these arguments."""
        return self._machine.run(["podman", *words]).stdout
