"""A cluster of Kubernetes on this machine: the control plane and nodes, on the links of an `Underlay`.

It begins without a network for pods: its nodes are not ready.
"""

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.conftest import ROOT
from tests.kubernetes.apiserver import HELD, ApiServer, kubernetes_bin
from tests.kubernetes.machine import KubernetesNode
from tests.netns.node import Node, wait_until
from tests.runtimes.machine import image, sleeping_image
from tests.system.underlay import CLUSTER, Underlay, addresses_on

FOLDER = ROOT / "build/kubernetes/cluster"
"""The files of the cluster, and what its programs print."""

KUBECTL = ROOT / "build/kubernetes/tools/kubectl"
AGNHOST = "localhost/agnhost:1"
SERVICES = ("10.96.0.0/16", "fd00:96::/112")
NODES = {"a": ("left", 1), "b": ("left", 2), "c": ("right", 3)}
"""The link of each node, and its number there."""

_CONTROL, _PROXY = 10, "system:kube-proxy"
_MANAGER, _SCHEDULER = "system:kube-controller-manager", "system:kube-scheduler"


class Cluster:
    """The cluster: `control` is the node of the control plane, `nodes` are the others by name."""

    def __init__(self) -> None:
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir(parents=True)
        self.underlay, self.control = Underlay(Path()), Node()
        self.nodes: dict[str, KubernetesNode] = {}
        self._programs: list[subprocess.Popen] = []
        self.api: ApiServer | None = None

    def start(self, images: Sequence[Path], proxy_mode: str) -> None:
        """Start everything; the nodes get these images and those of tests. Returns when the nodes are registered."""
        self.underlay.connect(self.control, "left", _CONTROL)
        for name, (link, number) in NODES.items():
            self.nodes[name] = KubernetesNode(name, FOLDER / name)
            self.underlay.connect(self.nodes[name], link, number)
        images = [*_images(), *images]
        with ThreadPoolExecutor() as pool:
            done = [pool.submit(node.start_containerd, images) for node in self.nodes.values()]
            self._start_control_plane()
            for one in done:
                one.result()
        for name in self.nodes:
            self.start_kubelet(name)
            self.start_proxy(name, proxy_mode)
        assert wait_until(lambda: len(self.pod_cidrs()) == len(NODES), timeout=60), self.get("nodes")

    def _start_control_plane(self) -> None:
        (address, _), folder = addresses_on("left", _CONTROL), FOLDER / "control"
        users = [(f"system:node:{name}", "system:nodes") for name in NODES]
        users += [(user, "") for user in (_MANAGER, _SCHEDULER, _PROXY)]
        services = f"--service-cluster-ip-range={','.join(SERVICES)}"
        self.api = ApiServer(folder, address=address, host=self.control, flags=[services], users=users)
        self._run(
            *("kube-controller-manager", _MANAGER, "--allocate-node-cidrs", f"--cluster-cidr={','.join(CLUSTER)}"),
            *("--node-cidr-mask-size-ipv4=24", "--node-cidr-mask-size-ipv6=64", services),
            *(f"--service-account-private-key-file={self.api.service_key}", f"--root-ca-file={self.api.ca}"),
            "--use-service-account-credentials=true",
        )
        self._run("kube-scheduler", _SCHEDULER)
        assert wait_until(lambda: self.try_kubectl("get", "serviceaccount", "default"), timeout=60)

    def _run(self, program: str, user: str, *flags: str) -> None:
        config = self.api.write_kubeconfig(user)
        ways = ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")
        argv = [kubernetes_bin() / program, *(f"--{way}={config}" for way in ways), "--leader-elect=false"]
        argv += [f"--cert-dir={FOLDER / program}", *flags]
        with open(FOLDER / f"{program}.log", "wb") as log:
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            self._programs.append(self.control.start([*HELD, *argv], **options))

    def addresses(self, name: str) -> tuple[str, str]:
        """The addresses of a node."""
        return addresses_on(*NODES[name])

    def start_kubelet(self, name: str) -> None:
        """Start a node's kubelet."""
        config = self.api.write_kubeconfig(f"system:node:{name}")
        self.nodes[name].start_kubelet(config, self.addresses(name))

    def start_proxy(self, name: str, mode: str) -> None:
        """Start a node's kube-proxy in one of its modes, or again in another."""
        self.nodes[name].start_proxy(self.api.write_kubeconfig(_PROXY), mode, CLUSTER)

    def kubectl(self, *words: object, stdin: str = "", check: bool = True) -> str:
        """What kubectl prints as the cluster's administrator."""
        env = {"KUBECONFIG": str(self.api.kubeconfig), "HOME": str(FOLDER)}
        return self.control.run([KUBECTL, *words], stdin=stdin, env=env, check=check).stdout

    def try_kubectl(self, *words: object) -> bool:
        """Whether kubectl prints anything, for what may not be there yet."""
        return bool(self.kubectl(*words, check=False))

    def get(self, *words: object) -> dict:
        """An object or a list of objects, as `kubectl get` selects them."""
        return json.loads(self.kubectl("get", "-o", "json", *words))

    def apply(self, *objects: Mapping) -> None:
        """Create these objects, or change them."""
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def pod_cidrs(self) -> dict[str, list[str]]:
        """The subnets of the nodes that have some."""
        nodes = {node["metadata"]["name"]: node["spec"].get("podCIDRs") for node in self.get("nodes")["items"]}
        return {name: subnets for name, subnets in nodes.items() if subnets}

    def condition(self, name: str, kind: str) -> dict:
        """A condition of a node; {} if it has none of that type."""
        conditions = self.get("node", name)["status"]["conditions"]
        return next((one for one in conditions if one["type"] == kind), {})

    def wait_until_ready(self) -> None:
        """Wait until all nodes are ready."""
        self.kubectl("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=90s")

    def on_all(self, change: Callable[[KubernetesNode], object]) -> None:
        """Call a function with each node, at the same time."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(change, self.nodes.values()))

    def close(self) -> None:
        """End everything."""
        self.on_all(KubernetesNode.close)
        for program in self._programs:
            program.kill()
            program.wait()
        if self.api:
            self.api.close()
        self.control.close()
        self.underlay.close()


def _images() -> list[Path]:
    """Archives of the images that tests use: the one that holds a pod's namespaces, and agnhost."""
    agnhost = (kubernetes_bin() / "agnhost").read_bytes()
    made = {"pause": sleeping_image(), "agnhost": image(AGNHOST, ["/agnhost", "pause"], {"agnhost": agnhost})}
    paths = [FOLDER / f"{name}.tar" for name in made]
    for path, content in zip(paths, made.values(), strict=True):
        path.write_bytes(content)
    return paths
