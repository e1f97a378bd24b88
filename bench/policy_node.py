"""A node with pods whose policies are enforced, for measurements: by slash24, by kube-router, or by nobody."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from bench import lab
from tests.netns.agent_tools import page_at
from tests.netns.cni import CNI, PATH
from tests.netns.node import Node, Pod

BIN = lab.ROOT / "build" / "bench"
KUBE_ROUTER, KUBE_ROUTER_VERSION = BIN / "kube-router", "v2.1.0"
CONFIG, CONFLIST, PAGES = "/run/slash24.toml", "/run/net.d/10-slash24.conflist", "/run/slash24/node-http.sock"
DOCUMENTS, RECORDS = "/run/policies", "/run/records"
PORT = "5555"
READY_SECONDS = 120


def kube_router() -> Path:
    """The peer, compiled if it is not there."""
    if not KUBE_ROUTER.exists():
        BIN.mkdir(parents=True, exist_ok=True)
        module = f"github.com/cloudnativelabs/kube-router/v2/cmd/kube-router@{KUBE_ROUTER_VERSION}"
        subprocess.run(["go", "install", module], check=True, env={**os.environ, "GOBIN": str(BIN)})
    return KUBE_ROUTER


def document(
    kind: str, name: str, namespace: str = "", *, labels: Mapping[str, str] | None = None, **more: object
) -> dict:
    """A document of the API."""
    version = "networking.k8s.io/v1" if kind == "NetworkPolicy" else "v1"
    meta = {"name": name} | ({"namespace": namespace} if namespace else {}) | ({"labels": labels} if labels else {})
    return {"apiVersion": version, "kind": kind, "metadata": meta, **more}


def wait_until(done: Callable[[], object], what: str, seconds: float = READY_SECONDS, pause: float = 0.02) -> float:
    """Wait; returns the time when it was done (monotonic seconds). Exits if it does not come true."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            sys.exit(f"bench: not within {seconds:g} s: {what}")
        time.sleep(pause)
    return time.monotonic()


class PolicyNode:
    """A node with an agent, unless it is to have none, and, between `start` and `stop`, a daemon."""

    def __init__(self, folder: Path, *, has_agent: bool = True) -> None:
        """`folder`: of our executables."""
        self.node, self._folder = Node(), folder
        self.node.outside()
        self.node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
        self.node.run(["mkdir", "-p", "/run/net.d", DOCUMENTS, RECORDS, "/run/slash24"])
        self._agent = self._run([folder / "slash24-agent"], "agent.log") if has_agent else None
        self._daemon: subprocess.Popen | None = None
        self.pods: dict[str, Pod] = {}
        self.addresses: dict[str, str] = {}

    def start(self, policy: Mapping[str, object] | None, registry: str = f"file://{RECORDS}", **table: object) -> None:
        """Start the daemon; `policy`: the table [policy], None: disabled. `table`: keys of [kubernetes]."""
        keys = {"mode": "kubenet", "cluster": ["10.244.0.0/16"], "registry": registry, "node": "n1"}
        keys |= {} if registry == "kubernetes" else {"allocate": [24]}
        lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
        lines += ["[kubenet]", 'hairpinMode = "none"', "[conflist]", f'path = "{CONFLIST}"']
        lines += ["[kubernetes]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())] if table else []
        lines += ["[policy]"]
        lines += [
            f"{key} = {json.dumps(value)}" for key, value in ({"enabled": False} if policy is None else policy).items()
        ]
        self.node.path(CONFIG).write_text("\n".join([*lines, ""]))
        self._daemon = self._run([self._folder / "slash24-node", "--config", CONFIG, "--listen", PAGES], "daemon.log")

    def wait_until_ready(self) -> None:
        """Until the daemon says so, and the conflist is written."""
        wait_until(lambda: self.node.path(CONFLIST).exists() and self.page("readyz"), f"ready: {self.log()[-2000:]}")

    def stop(self) -> None:
        """End the daemon; what is in the kernel stays."""
        if self._daemon:
            self._daemon.kill()
            self._daemon.wait()
            self._daemon = None

    def close(self) -> None:
        """End everything."""
        self.stop()
        if self._agent:
            self._agent.kill()
            self._agent.wait()
        self.node.close()

    @property
    def daemon_pid(self) -> int:
        """The process of the daemon."""
        return self._daemon.pid

    def log(self) -> str:
        """The daemon's log."""
        return self.node.path("/run/daemon.log").read_text()

    def page(self, name: str) -> dict | None:
        """A page of the daemon, None if it is not served, or not good."""
        with suppress(OSError, ValueError):
            status, text = page_at(self.node.path(PAGES), name)
            return json.loads(text) if status == 200 else None
        return None

    def attach(self, name: str, namespace: str = "default") -> str:
        """ADD a pod; its address."""
        conflist = json.loads(self.node.path(CONFLIST).read_text())
        conf = {"cniVersion": "1.0.0", "name": conflist["name"], **conflist["plugins"][0]}
        self.pods[name] = pod = self.node.pod(name)
        args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}"
        result = CNI(self.node, self._folder).add(conf, pod, args=args)
        self.addresses[name] = result["ips"][0]["address"].partition("/")[0]
        return self.addresses[name]

    def write(self, name: str, documents: Sequence[Mapping[str, object]]) -> None:
        """Put documents into a file of the folder; none: delete it."""
        path = self.node.path(f"{DOCUMENTS}/{name}.json")
        if not documents:
            path.unlink(missing_ok=True)
            return
        new = path.with_name(f".{name}.new")
        new.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(documents)}))
        new.rename(path)

    def wait_for_policies(self, names: Sequence[str]) -> None:
        """Until exactly the policies of these names are in force, and no pod is held."""
        wanted = sorted(names)

        def is_done() -> bool:
            page = self.page("policies") or {}
            present = sorted(policy["name"] for policy in page.get("policies", ()))
            return present == wanted and not page["waiting"] and not any(pod["held"] for pod in page["pods"])

        wait_until(is_done, "policies are in force")

    def _run(self, argv: Sequence[object], log: str) -> subprocess.Popen:
        with self.node.path(f"/run/{log}").open("wb") as file:
            return self.node.start([str(word) for word in argv], env={"PATH": PATH}, stderr=file, stdout=file, cwd="/")
