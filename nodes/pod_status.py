"""Tells the Kubernetes API about the network of each pod on this node, in the annotation that Multus writes too.

The format is that of the Network Plumbing Working Group, "Kubernetes Network Custom Resource Definition De-facto
Standard" 1.3, section 4.1. It is written after the pod has its addresses, and never delays a CNI call. What others have
written is left alone.
"""

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import quote

import msgspec

from ipam.host_local import DATA_DIR
from ipam.lease_files import read_owner
from linux.netlink.socket import Netlink
from linux.ownership import host_veth_name, owner_tag
from linux.rtnl.links import find_link, find_peer
from nodes.registries.kubernetes.access import MERGE, Access, Refused, Session, connect
from nodes.registries.kubernetes.following import Follower
from nodes.registries.kubernetes.registry import read_options
from nodes.registry import RegistryError
from spec.addresses import canonical_ip
from spec.attachment import Attachment
from spec.config import Section

ANNOTATION = "k8s.v1.cni.cncf.io/network-status"
_PODS = "/api/v1/pods"
_GONE = (404, 409, 422)  # there is no such pod, or another one of its name
_LONGEST = 4096  # bytes of an annotation of ours


@dataclass(frozen=True)
class Interface:
    """A pod's interface in a network: its name, and its MAC, "" if unknown."""

    network: str
    name: str
    mac: str


class _Meta(msgspec.Struct):
    """Of a Pod."""

    name: str
    namespace: str
    uid: str
    resourceVersion: str = ""
    annotations: dict[str, str] | None = None


class _Spec(msgspec.Struct):
    """Of a Pod."""

    hostNetwork: bool = False


class _Address(msgspec.Struct):
    """An entry of a Pod's podIPs."""

    ip: str = ""


class _Status(msgspec.Struct):
    """Of a Pod."""

    phase: str = ""
    podIPs: list[_Address] | None = None


class _Pod(msgspec.Struct):
    """A Pod of the API, as far as it is read."""

    metadata: _Meta
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)

    @property
    def ips(self) -> tuple[str, ...]:
        """Its addresses in a network of its own. Raises ValueError."""
        if self.spec.hostNetwork or self.status.phase in ("Succeeded", "Failed"):
            return ()
        return tuple(canonical_ip(each.ip) for each in self.status.podIPs or ())


_decode = msgspec.json.Decoder(_Pod).decode


def open_pod_status(
    node: str, options: Section, network: str, plugin: Mapping[str, object], log: Callable[[str], None]
) -> "PodStatus | None":
    """What reports the pods of this node, None unless the table [kubernetes], `options`, asks for it.

    `network`: the name of the pods' network; `plugin`: the main plugin's configuration, with its `ipam`. `log` receives
    sentences about failures. Raises CNIError 7.
    """
    chosen = read_options(options)
    if not chosen.pod_status:
        return None
    folder = os.path.join(Section(plugin).section("ipam").string("dataDir") or DATA_DIR, network)
    return PodStatus(chosen.access, node, lambda ips: find_interface(network, folder, ips), log)


def find_interface(network: str, folder: str, ips: Collection[str]) -> Interface | None:
    """The interface that has leased all of these addresses in the network's `folder` of leases; None: another's."""
    try:
        owners = {read_owner(os.path.join(folder, ip)) for ip in ips}
    except OSError:
        return None
    container, _, name = owners.pop().partition(b"\r\n")
    if owners or not container or not name:
        return None
    attachment = Attachment(network, os.fsdecode(container), os.fsdecode(name))
    return Interface(network, attachment.ifname, _mac(attachment))


def _mac(attachment: Attachment) -> str:
    """The MAC of a pod's interface, "" if it cannot be known."""
    with suppress(OSError), Netlink() as host:
        veth = find_link(host, host_veth_name(attachment))
        peer = find_peer(host, veth) if veth and veth.alias == owner_tag(attachment) else None
        return peer.mac if peer else ""
    return ""


def status_text(interface: Interface, ips: Iterable[str]) -> str:
    """The annotation of a pod with one network."""
    entry = {"name": interface.network, "interface": interface.name, "ips": list(ips)}
    entry |= {"mac": interface.mac} if interface.mac else {}
    return msgspec.json.encode([{**entry, "default": True, "dns": {}}]).decode()


class PodStatus:
    """Follows the pods of this node and annotates them; `run` is for a thread of its own."""

    def __init__(
        self,
        access: Access,
        node: str,
        find: Callable[[Collection[str]], Interface | None],
        log: Callable[[str], None],
    ) -> None:
        self._find, self._log, self._connect = find, log, lambda: connect(access)
        self._follower = Follower(self._connect, _PODS, self, {"fieldSelector": f"spec.nodeName={node}"})
        self._waiting: dict[str, _Pod] = {}  # by UID: whose annotation could not be written yet
        self._told = ""

    def run(self) -> None:
        """Until `close`."""
        self._follower.run()

    def close(self) -> None:
        """End `run`."""
        self._follower.close()

    def replace(self, objects: Iterable[msgspec.Raw]) -> None:
        """As `Receiver`."""
        pods = [pod for each in objects if (pod := _read(each))]
        self._waiting = {pod.metadata.uid: pod for pod in pods}
        self._write()

    def change(self, kind: str, item: msgspec.Raw) -> object:
        """As `Receiver`."""
        pod = _read(item)
        if pod is None:
            return _version(item)
        self._waiting.pop(pod.metadata.uid, None)
        if kind != "DELETED":
            self._waiting[pod.metadata.uid] = pod
        self._write()
        return pod.metadata.resourceVersion

    def lost(self, why: str) -> None:
        """As `Receiver`."""
        self._tell(why)

    def alive(self) -> None:
        """As `Receiver`."""
        self._write()

    def _write(self) -> None:
        """Annotate the pods that need it; those that fail wait for the next call."""
        wanted = {uid: text for uid, pod in self._waiting.items() if (text := self._wanted(pod))}
        self._waiting = {uid: pod for uid, pod in self._waiting.items() if uid in wanted}
        if not wanted:
            return
        try:
            with self._connect() as session:
                for uid, text in wanted.items():
                    _annotate(session, self._waiting[uid].metadata, text)
                    del self._waiting[uid]
        except RegistryError as error:
            self._tell(str(error))
        else:
            self._told = ""

    def _wanted(self, pod: _Pod) -> str:
        """The annotation that a pod is to get, "" if it needs none."""
        interface = self._find(pod.ips) if pod.ips else None
        if interface is None:
            return ""
        text, present = status_text(interface, pod.ips), (pod.metadata.annotations or {}).get(ANNOTATION, "")
        return "" if present == text or (present and not _is_ours(present, interface)) else text

    def _tell(self, why: str) -> None:
        if why != self._told:
            self._told = why
            self._log(why)


def _annotate(session: Session, meta: _Meta, text: str) -> None:
    """Raises RegistryError."""
    path = f"/api/v1/namespaces/{quote(meta.namespace, safe='')}/pods/{quote(meta.name, safe='')}"
    try:
        session.send("PATCH", path, {"metadata": {"uid": meta.uid, "annotations": {ANNOTATION: text}}}, kind=MERGE)
    except Refused as error:
        if error.code not in _GONE:
            raise


def _is_ours(text: str, interface: Interface) -> bool:
    """Whether an annotation describes this network alone: Multus describes others too."""
    try:
        entries = msgspec.json.decode(text.encode()[:_LONGEST])
    except (ValueError, RecursionError):
        return False
    names = [entry.get("name") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return names == [interface.network]


class _BareMeta(msgspec.Struct):
    """Of any object."""

    resourceVersion: object = None


class _Bare(msgspec.Struct):
    """A Pod of which nothing else matters."""

    metadata: _BareMeta


def _version(text: msgspec.Raw) -> object:
    try:
        return msgspec.json.decode(text, type=_Bare).metadata.resourceVersion
    except (ValueError, RecursionError):
        return None


def _read(text: msgspec.Raw) -> _Pod | None:
    """A Pod with addresses; None if it has none, or is not as the API describes Pods."""
    try:
        pod = _decode(text)
        return pod if pod.ips else None
    except (ValueError, RecursionError):
        return None
