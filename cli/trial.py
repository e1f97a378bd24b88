"""Scratch pods: what a runtime does for a pod, done for a moment, through the installed executables."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from cli.exits import Failure
from cli.facts.networks import Network
from cli.facts.paths import LEASES
from ipam.lease_files import is_address
from linux.netlink.socket import Netlink
from linux.rtnl.links import list_links
from linux.scratch_netns import scratch_netns
from plugins.pod.host_bridge import delete_unused_bridge
from spec import versions

IFNAME = "eth0"
_SECONDS = 60
_SHOWN = 2000  # characters of what a plugin says

Document = Mapping[str, object]


@dataclass
class ScratchPod:
    """A pod of a network, with nothing in it but its network. `result`: of its ADD.

    `version`: of CNI, as the runtime has chosen it; `bin_dirs`: where the plugins are looked for, in this order.
    """

    network: Network
    version: str
    bin_dirs: Sequence[str]
    container: str
    netns: str
    result: Document = field(default_factory=dict)

    @property
    def addresses(self) -> list[str]:
        """The addresses that the plugins gave it, in CIDR notation."""
        entries = self.result.get("ips")
        return [str(entry.get("address")) for entry in entries if isinstance(entry, dict)] if entries else []

    def add(self) -> None:
        """Attach it. Raises Failure, with what the plugin says."""
        for plugin in self.network.plugins:
            self.result = json.loads(self._call("ADD", plugin) or b"{}")

    def check(self) -> None:
        """Raises Failure, with what a plugin finds."""
        if versions.at_least(self.version, "0.4.0") and self.network.has_check:
            for plugin in self.network.plugins:
                self._call("CHECK", plugin)

    def delete(self) -> None:
        """Detach it, as far as it is attached. Raises Failure."""
        for plugin in reversed(self.network.plugins):
            self._call("DEL", plugin)

    def _call(self, verb: str, plugin: Document) -> bytes:
        """What a plugin prints. Raises Failure."""
        kind = str(plugin.get("type"))
        paths = [os.path.join(folder, kind) for folder in self.bin_dirs]
        path = next(filter(os.path.isfile, paths), None)
        if path is None:
            raise Failure(f"{verb}: no plugin {kind} is in {', '.join(self.bin_dirs)}")
        before = {"prevResult": self.result} if self.result else {}
        request = {**plugin, "cniVersion": self.version, "name": self.network.name, **before}
        environment = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": self.container,
            "CNI_NETNS": self.netns,
            "CNI_IFNAME": IFNAME,
            "CNI_PATH": ":".join(self.bin_dirs),
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        }
        try:
            done = subprocess.run(
                [path], input=json.dumps(request).encode(), capture_output=True, env=environment, timeout=_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise Failure(f"{verb} of {path} did not end within {_SECONDS} s") from None
        except OSError as error:
            raise Failure(f"{verb}: cannot execute {path}: {error.strerror}") from error
        if done.returncode:
            raise Failure(f"{verb} of {path}: {_message(done.stdout) or _text(done.stderr) or done.returncode}")
        return done.stdout


@contextmanager
def scratch_pod(network: Network, version: str, bin_dirs: Sequence[str]) -> Iterator[ScratchPod]:
    """A pod in a network namespace of its own, not attached yet. Afterwards it is detached, and the namespace gone.

    So are the bridge and the folder of leases that its ADD made. Raises Failure; OSError if there can be no namespace.
    """
    container = f"slash24-trial-{os.getpid()}-{os.urandom(4).hex()}"
    with _left_alone(network.name), scratch_netns(container) as netns:
        pod = ScratchPod(network, version, bin_dirs, container, netns)
        try:
            yield pod
        except BaseException:
            _delete_quietly(pod)
            raise
        pod.delete()


@contextmanager
def _left_alone(network: str) -> Iterator[None]:
    """Afterwards, bridges without ports and a folder without leases are gone, if they are new. Raises OSError."""
    folder = os.path.join(LEASES, network)
    had_leases = os.path.isdir(folder)
    with Netlink() as host:
        before = {link.index for link in list_links(host)}
    try:
        yield
    finally:
        with Netlink() as host:
            for link in list_links(host):
                if link.index not in before and link.kind == "bridge":
                    delete_unused_bridge(host, link.name)
        if not had_leases and os.path.isdir(folder) and not any(map(is_address, os.listdir(folder))):
            shutil.rmtree(folder)


def _delete_quietly(pod: ScratchPod) -> None:
    """Detach a pod whose trial has failed: that is the failure to tell."""
    try:
        pod.delete()
    except Failure:
        return


def _message(answer: bytes) -> str:
    """The message of an error result, "" if it is none."""
    try:
        result = json.loads(answer)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(result, dict):
        return ""
    return ": ".join(str(result[key])[:_SHOWN] for key in ("msg", "details") if result.get(key))


def _text(said: bytes) -> str:
    return said.decode(errors="replace").strip()[:_SHOWN]
