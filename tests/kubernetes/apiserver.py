"""A real API server of Kubernetes with an etcd behind it and nothing else: no controller, no kubelet.

`ApiServer` starts both, as processes of this machine on free ports of its loopback or on a `Host`, with certificates
of its own. Nodes and other objects are whatever a test creates through `request`.
"""

import base64
import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kubernetes import certificates
from tests.netns.node import Host, wait_until

ROOT = Path(__file__).resolve().parent.parent.parent
SERVICES = "10.96.0.0/16"
HELD = ("setpriv", "--pdeathsig", "KILL", "--")
"""Before a command: it ends with the process that starts it, even if that is killed."""

STRATEGIC, MERGE = "application/strategic-merge-patch+json", "application/merge-patch+json"


def kubernetes_bin() -> Path:
    """The folder of Kubernetes' programs: $SLASH24_KUBERNETES_BIN, else build/kubernetes/bin."""
    return _existing(Path(os.environ.get("SLASH24_KUBERNETES_BIN") or ROOT / "build/kubernetes/bin"))


def etcd_bin() -> Path:
    """The folder of etcd and etcdctl."""
    return _existing(ROOT / "build/etcd/usr/bin")


def _existing(path: Path) -> Path:
    if not path.is_dir():
        pytest.fail(f"{path} is not there; ./test.sh kubernetes makes it", pytrace=False)
    return path


@dataclass(frozen=True)
class Refused(Exception):
    """The API server answered with an error: its HTTP status, and the message."""

    status: int
    message: str


class ApiServer:
    """etcd and kube-apiserver in `folder`, on `address`; `host`: where they run, None for this process' namespace.

    `flags`, `etcd_flags`: further ones of each. `names`: further names of the server's certificate. `users`: (name,
    group) of users, whose tokens `token_of` returns. Ready when constructed; `close` ends both.
    """

    def __init__(
        self,
        folder: Path,
        *,
        address: str = "127.0.0.1",
        host: Host | None = None,
        port: int = 0,
        flags: Sequence[str] = (),
        etcd_flags: Sequence[str] = (),
        names: Sequence[str] = (),
        users: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.folder, self.address, self.host = folder, address, host
        self.port = port or (6443 if host else free_port(address))
        self.url = f"https://[{address}]:{self.port}" if ":" in address else f"https://{address}:{self.port}"
        self._flags, self._etcd_flags = list(flags), list(etcd_flags)
        self._processes: dict[str, subprocess.Popen] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self.authority = certificates.Authority(folder / "ca")
        self.ca = self.authority.certificate
        self.service_key = certificates.make_key(folder / "sa.key")
        self.certify(address, *names)
        self._tokens = {name: secrets.token_hex(16) for name, _ in users} | {"admin": secrets.token_hex(16)}
        rows = [*users, ("admin", "system:masters")]
        (folder / "tokens.csv").write_text(
            "".join(f'{self._tokens[name]},{name},{name},"{group}"\n' for name, group in rows)
        )
        self.token = self._tokens["admin"]
        self.kubeconfig = self.write_kubeconfig("admin")
        try:
            self.start_etcd()
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "ApiServer":
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def certify(self, *names: str) -> None:
        """Issue a certificate for the server, for these names and addresses and those of the service."""
        service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", SERVICES.replace("0.0/16", "0.1")]
        self.authority.issue(self.folder / "server", "kube-apiserver", names=[*names, *service])

    def token_of(self, user: str) -> str:
        """The token of one of `users`, or of "admin"."""
        return self._tokens[user]

    def write_kubeconfig(self, user: str, **keys: object) -> Path:
        """A kubeconfig of a user; `keys` are those of its entry in "users", in place of the token."""
        path = self.folder / f"{user}.kubeconfig"
        cluster = {"server": self.url, "certificate-authority": str(self.ca)}
        value = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": user, "user": keys or {"token": self._tokens[user]}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": user}}],
            "current-context": "c",
        }
        path.write_text(json.dumps(value))
        return path

    def start_etcd(self) -> None:
        """Start etcd, on what an earlier one has stored."""
        client, peer = ("2379", "2380") if self.host else (str(free_port()), str(free_port()))
        self.etcd_url = f"http://127.0.0.1:{client}"
        argv = [etcd_bin() / "etcd", "--data-dir", self.folder / "etcd", "--unsafe-no-fsync", "--logger", "zap"]
        for role, port in (("client", client), ("peer", peer)):
            argv += [f"--listen-{role}-urls", f"http://127.0.0.1:{port}"]
        argv += ["--advertise-client-urls", self.etcd_url, *self._etcd_flags]
        self._processes["etcd"] = self._start("etcd", argv)

    def start(self) -> None:
        """Start the API server, and wait until it is ready."""
        server, service = self.folder / "server", "https://kubernetes.default.svc.cluster.local"
        argv = [kubernetes_bin() / "kube-apiserver", "--etcd-servers", self.etcd_url, "--profiling=false"]
        argv += ["--bind-address", self.address, "--secure-port", str(self.port)]
        if self.address in ("127.0.0.1", "::1"):  # which no pod could reach as the service's endpoint
            argv += ["--advertise-address", "192.0.2.10", "--endpoint-reconciler-type", "none"]
        else:
            argv += ["--advertise-address", self.address]
        argv += ["--tls-cert-file", f"{server}.crt", "--tls-private-key-file", f"{server}.key"]
        argv += ["--client-ca-file", self.ca, "--token-auth-file", self.folder / "tokens.csv"]
        argv += ["--service-cluster-ip-range", SERVICES, "--service-account-issuer", service]
        argv += ["--service-account-key-file", self.service_key, "--service-account-signing-key-file", self.service_key]
        argv += ["--authorization-mode", "Node,RBAC", "--allow-privileged=true"]
        argv += ["--kubelet-preferred-address-types=InternalIP", *self._flags]
        self._processes["apiserver"] = self._start("apiserver", argv)
        if not wait_until(self._is_ready, timeout=120):
            log = (self.folder / "apiserver.log").read_text()[-3000:]
            pytest.fail(f"the API server did not become ready: {log}", pytrace=False)

    def stop(self, name: str = "apiserver", how: int = signal.SIGTERM) -> None:
        """End the API server or "etcd", and wait for its end: only then its port is free."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGCONT)
        process.send_signal(how)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def signal(self, number: int, name: str = "apiserver") -> None:
        """Send a signal, such as SIGSTOP."""
        self._processes[name].send_signal(number)

    def close(self) -> None:
        """End both; the API server first."""
        for name in ("apiserver", "etcd"):
            if name in self._processes:
                self.stop(name, signal.SIGKILL)

    def request(
        self, method: str, path: str, body: object = None, *, token: str = "", kind: str = "application/json"
    ) -> dict:
        """The JSON that the API answers, as "admin" unless there is a token. Raises Refused, OSError."""
        headers = {"Authorization": f"Bearer {token or self.token}", "Content-Type": kind, "Accept": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self.url + path, data, headers, method=method)
        context = ssl.create_default_context(cafile=str(self.ca))
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        try:
            with self._inside(), opener.open(asked, timeout=30) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise Refused(error.code, error.read().decode(errors="replace")) from error
        return json.loads(text) if text[:1] == b"{" else {"text": text.decode()}

    def service_token(self, account: str, *, namespace: str = "kube-system", seconds: int = 3600) -> str:
        """A token of a service account, as the kubelet would request it for a pod."""
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
        asked["spec"] = {"expirationSeconds": seconds}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        return self.request("POST", path, asked)["status"]["token"]

    def etcdctl(self, *words: str) -> dict:
        """The JSON that etcdctl prints."""
        argv = [str(etcd_bin() / "etcdctl"), "--endpoints", self.etcd_url, "-w", "json", *words]
        env = {**os.environ, "ETCDCTL_API": "3"}
        done = (
            self.host.run(argv, env=env)
            if self.host
            else subprocess.run(argv, env=env, capture_output=True, text=True, check=True)
        )
        return json.loads(done.stdout) if done.stdout.startswith(("{", "[")) else {}

    def rss(self, name: str = "apiserver") -> int:
        """The resident memory of a process, in KiB."""
        status = Path(f"/proc/{self._processes[name].pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])

    def _inside(self) -> AbstractContextManager[None]:
        return self.host.inside() if self.host else nullcontext()

    def _is_ready(self) -> bool:
        try:
            return self.request("GET", "/readyz")["text"] == "ok"
        except (OSError, Refused):
            if self._processes["apiserver"].poll() is not None:
                pytest.fail((self.folder / "apiserver.log").read_text()[-3000:], pytrace=False)
            return False

    def _start(self, name: str, argv: Sequence[object]) -> subprocess.Popen:
        with open(self.folder / f"{name}.log", "ab") as log:
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "start_new_session": True}
            if self.host:
                return self.host.start([*HELD, *argv], **options)
            return subprocess.Popen([*HELD, *map(str, argv)], **options)


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port that nothing listens on now."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


def encoded(path: Path) -> str:
    """A file in base64, as kubeconfigs have certificates."""
    return base64.b64encode(path.read_bytes()).decode()
