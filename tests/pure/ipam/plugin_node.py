"""A node for tests of host-local in this process."""

import io
import json
from pathlib import Path

from ipam.host_local import PLUGIN
from spec.plugin import serve

V4 = {"subnet": "10.0.0.0/29"}
V6 = {"subnet": "fd00:1::/64"}


class Node:
    """A node with a dataDir; calls the plugin in this process."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.folder = data_dir / "net"

    def config(self, ipam: dict | None = None, **more: object) -> dict:
        ipam = {"type": "host-local", "dataDir": str(self.data_dir), **({"ranges": [[V4]]} if ipam is None else ipam)}
        return {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "ipam": ipam, **more}

    def call(self, verb: str, config: dict | bytes | None = None, container_id: str = "cid", **environ: str):
        """(exit status, the JSON document or None, stderr)"""
        data = config if isinstance(config, bytes) else json.dumps(config or self.config()).encode()
        environ = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container_id,
            "CNI_NETNS": "/run/netns/none",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/nowhere",
            **environ,
        }
        stdout, stderr = io.BytesIO(), io.StringIO()
        status = serve(PLUGIN, environ=environ, stdin=io.BytesIO(data), stdout=stdout, stderr=stderr)
        text = stdout.getvalue()
        return status, json.loads(text) if text else None, stderr.getvalue()

    def succeed(self, verb: str, config: dict | None = None, **more: str):
        """The result of a call that succeeds."""
        status, document, stderr = self.call(verb, config, **more)
        assert (status, stderr) == (0, ""), document
        return document

    def fail(self, verb: str, config: dict | None = None, **more: str):
        """Code, message and details of a call that fails."""
        status, document, _ = self.call(verb, config, **more)
        assert status == 1
        return document["code"], document["msg"], document.get("details", "")

    def addresses(self, config: dict | None = None, **more: str) -> list[str]:
        """The addresses of an ADD."""
        return [ip["address"] for ip in self.succeed("ADD", config, **more)["ips"]]
