"""What runs on the cluster: servers of agnhost, the Services before them, and what asks them."""

import json
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from tests.kubernetes.cluster import AGNHOST, Cluster
from tests.kubernetes.machine import KubernetesNode
from tests.netns.node import Host

HTTP, UDP, HOST_PORT = 8080, 8081, 18080


@dataclass(frozen=True)
class Pod:
    """A pod with its node, its addresses (IPv4 first) and its network namespace; `uid` as in the API."""

    name: str
    uid: str
    node: KubernetesNode
    addresses: tuple[str, ...]
    host: Host

    def address(self, version: int) -> str:
        """The address of IP version 4 or 6."""
        return next(address for address in self.addresses if (":" in address) == (version == 6))


def servers(name: str, *, replicas: int = 3, node: str = "", host_port: int = 0) -> dict:
    """A Deployment of servers on HTTP and UDP, on different nodes or on one; `host_port` leads to HTTP."""
    labels = {"app": name}
    spread = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}
    ports = [{"containerPort": HTTP, **({"hostPort": host_port} if host_port else {})}]
    container = {
        "name": "server",
        "image": AGNHOST,
        "command": ["/agnhost", "netexec", f"--http-port={HTTP}", f"--udp-port={UDP}"],
        "ports": ports,
        "readinessProbe": {"httpGet": {"path": "/hostname", "port": HTTP}, "periodSeconds": 1},
    }
    pod = {
        "terminationGracePeriodSeconds": 1,
        "topologySpreadConstraints": [spread | {"labelSelector": {"matchLabels": labels}}],
        "containers": [container],
        "nodeSelector": {"kubernetes.io/hostname": node} if node else {},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "strategy": {"type": "Recreate"},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def service(name: str, target: str, **keys: object) -> dict:
    """A dual-stack Service before the servers of that name, on ports 80 (HTTP) and 81 (UDP); `keys` of its spec."""
    ports = [
        {"name": "http", "port": 80, "targetPort": HTTP},
        {"name": "udp", "port": 81, "targetPort": UDP, "protocol": "UDP"},
    ]
    spec = {"selector": {"app": target}, "ipFamilyPolicy": "RequireDualStack", "ports": ports, **keys}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def run(cluster: Cluster, *objects: dict) -> list[Pod]:
    """Create a Deployment and further objects; returns its pods when all of them are ready."""
    cluster.apply(*objects)
    name = objects[0]["metadata"]["name"]
    cluster.kubectl("rollout", "status", f"deployment/{name}", "--timeout=90s")
    return pods(cluster, name)


def pods(cluster: Cluster, name: str) -> list[Pod]:
    """The running pods of a Deployment, by the name of their node."""
    items = cluster.get("pods", "-l", f"app={name}")["items"]
    found = [_pod(cluster, item) for item in items if "deletionTimestamp" not in item["metadata"]]
    return sorted(found, key=lambda pod: (pod.node.name, pod.name))


def _pod(cluster: Cluster, item: dict) -> Pod:
    node, status = cluster.nodes[item["spec"]["nodeName"]], item["status"]
    addresses = tuple(sorted((ip["ip"] for ip in status["podIPs"]), key=lambda address: ":" in address))
    host = node.pod(status["containerStatuses"][0]["containerID"])
    return Pod(item["metadata"]["name"], item["metadata"]["uid"], node, addresses, host)


def remove(cluster: Cluster, *kinds_and_names: str) -> None:
    """Delete objects ("deployment/web") and wait until they and their pods are gone."""
    cluster.kubectl("delete", "--cascade=foreground", "--timeout=60s", *kinds_and_names)


def over_http(client: Host, address: str, port: int = HTTP, path: str = "/clientip") -> str:
    """The body of the answer to a GET: /clientip is the client's address as the server sees it. Raises OSError."""
    with client.socket(address, "tcp") as connection:
        connection.connect((address, port))
        return _get(connection, path).partition(b"\r\n\r\n")[2].decode()


def over_udp(client: Host, address: str, port: int = UDP, word: str = "clientip") -> str:
    """The answer to a datagram, repeated until neighbours are resolved. Raises OSError."""
    with client.socket(address, "udp") as caller:
        caller.settimeout(0.5)
        caller.connect((address, port))
        for _ in range(6):
            caller.send(word.encode())
            with suppress(TimeoutError):
                return caller.recv(1024).decode().strip()
        raise TimeoutError(f"no answer from {address} port {port}")


def assert_all_reach_each_other(pods: Sequence[Pod]) -> None:
    """Assert that ICMP, TCP and UDP of both IP versions pass, and that each pod sees the other's own address."""
    for client in pods:
        for server in pods:
            for version in (4, 6):
                own, address = client.address(version), server.address(version)
                assert client.host.reaches(address, timeout=10), f"no echo from {own} to {address}"
                assert without_port(over_http(client.host, address)) == own
                assert without_port(over_udp(client.host, address)) == own


def over_https(client: Host, address: str, port: int, authority: str, path: str, token: str) -> dict:
    """What an API server answers to a pod. Raises OSError, ssl.SSLError."""
    context = ssl.create_default_context(cafile=authority)
    with client.socket(address, "tcp") as plain:
        plain.connect((address, port))
        with context.wrap_socket(plain, server_hostname=address) as connection:
            head, _, body = _get(connection, path, f"Authorization: Bearer {token}\r\n").partition(b"\r\n\r\n")
    assert b" 200 " in head.partition(b"\r\n")[0], (head, body)
    return json.loads(body)


def _get(connection: socket.socket, path: str, headers: str = "") -> bytes:
    connection.sendall(f"GET {path} HTTP/1.0\r\n{headers}\r\n".encode())
    answer = b""
    while received := connection.recv(65536):
        answer += received
    return answer


def without_port(text: str) -> str:
    """The address of "192.0.2.1:80" and "[2001:db8::1]:80"."""
    return text.rpartition(":")[0].strip("[]")
