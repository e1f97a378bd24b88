"""Scratch pods: what a runtime does for a pod, done for a moment, through the installed executables."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from cli.cni import Caller, Pod
from cli.facts.networks import Network
from cli.facts.paths import LEASES
from ipam.lease_files import is_address
from linux.netlink.socket import Netlink
from linux.rtnl.links import list_links
from linux.scratch_netns import new_netns
from plugins.pod.host_bridge import delete_unused_bridge
from spec.config import Section
from spec.errors import CNIError
from spec.result import Result
from spec.versions import at_least

_CHECK_SINCE = "0.4.0"


@dataclass
class ScratchPod:
    """A pod of a network, with nothing in it but its network. `netns`: a descriptor. `document`: of its ADD's result.

    Its namespace has no name: should this process be killed, the kernel deletes it with the pod's interface.
    """

    caller: Caller
    pod: Pod
    netns: int
    document: Mapping[str, object] | None = None

    @classmethod
    def made(cls, caller: Caller, container: str) -> "ScratchPod":
        """A pod that is not attached yet; `close` it. Raises OSError."""
        netns = new_netns()
        return cls(caller, Pod(container, f"/proc/{os.getpid()}/fd/{netns}"), netns)

    @property
    def result(self) -> Result:
        """What its ADD returned. Raises CNIError."""
        document = Section(self.document or {})
        return Result.parse(document, document.string("cniVersion") or self.caller.version)

    @property
    def has_check(self) -> bool:
        """Whether runtimes call CHECK in its network."""
        return self.caller.network.has_check and at_least(self.caller.version, _CHECK_SINCE)

    def add(self) -> None:
        """Attach it. Raises CNIError."""
        self.document = self.caller.add(self.pod)

    def check(self) -> None:
        """Raises CNIError, with what a plugin finds."""
        if self.has_check:
            self.caller.check(self.pod, self.document or {})

    def delete(self) -> None:
        """Detach it, as far as it is attached. Raises CNIError."""
        self.caller.delete(self.pod, self.document)

    def close(self) -> None:
        """Give up its namespace."""
        os.close(self.netns)


@contextmanager
def scratch_pod(network: Network, version: str, bin_dirs: Sequence[str]) -> Iterator[ScratchPod]:
    """A pod, not attached yet. Afterwards it is detached, and its namespace gone.

    `version`: of CNI, as the runtime has chosen it; `bin_dirs`: where the plugins are looked for, in this order. The
    bridge and the folder of leases that its ADD made are gone, too. Raises CNIError; OSError if there can be no
    namespace.
    """
    with left_alone(network.name):
        pod = ScratchPod.made(Caller(network, version, tuple(bin_dirs)), f"slash24-trial-{os.urandom(4).hex()}")
        try:
            try:
                yield pod
            except BaseException:
                _delete_quietly(pod)
                raise
            pod.delete()
        finally:
            pod.close()


@contextmanager
def left_alone(network: str) -> Iterator[None]:
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
    except CNIError:
        return
