"""Pods, Namespaces and Nodes of the API as values.

A Pod has some 6 KB, of which little is read; msgspec skips what is not declared here. What many pods have in common
(labels, ports, names of nodes) is one object for all.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import chain
from sys import intern

import msgspec

from policy.fields import PORT_NAME, is_port_name, wrong
from policy.objects import SCTP, TCP, UDP, ClusterNode, ContainerPort, Namespace, Pod
from spec.addresses import canonical_ip

NAME_LABEL = "kubernetes.io/metadata.name"
_ENDED = ("Succeeded", "Failed")
_PROTOCOLS = (TCP, UDP, SCTP)
_SHARED = 2048  # sets of labels, and lists of ports, that are kept to be shared


class _Annotations(msgspec.Struct, gc=False):
    """Of a Pod: the mirror annotation has the UID by which the kubelet knows a static pod."""

    mirror: str | None = msgspec.field(name="kubernetes.io/config.mirror", default=None)


class Meta(msgspec.Struct, gc=False):
    """The metadata of any object."""

    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    resourceVersion: str | None = None
    labels: dict[str, str] | None = None
    annotations: _Annotations | None = None


class _Port(msgspec.Struct, gc=False):
    """Of a container."""

    name: str | None = None
    protocol: str | None = None
    containerPort: int | None = None


class _Container(msgspec.Struct, gc=False):
    """Of a Pod."""

    restartPolicy: str | None = None
    ports: list[_Port] | None = None


class _PodSpec(msgspec.Struct, gc=False):
    """Of a Pod."""

    nodeName: str | None = None
    hostNetwork: bool | None = None
    containers: list[_Container] | None = None
    initContainers: list[_Container] | None = None


class _Ip(msgspec.Struct, gc=False):
    """An entry of `podIPs`."""

    ip: str | None = None


class _PodStatus(msgspec.Struct, gc=False):
    """Of a Pod."""

    phase: str | None = None
    podIP: str | None = None
    podIPs: list[_Ip] | None = None


class PodObject(msgspec.Struct, gc=False):
    """A Pod of the API, as far as it is read."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: _PodSpec | None = None
    status: _PodStatus | None = None


class NamespaceObject(msgspec.Struct, gc=False):
    """A Namespace of the API, as far as it is read."""

    metadata: Meta = msgspec.field(default_factory=Meta)


class _Address(msgspec.Struct, gc=False):
    """Of a Node."""

    type: str | None = None
    address: str | None = None


class _NodeStatus(msgspec.Struct, gc=False):
    """Of a Node."""

    addresses: list[_Address] | None = None


class NodeObject(msgspec.Struct, gc=False):
    """A Node of the API, as far as it is read."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    status: _NodeStatus | None = None


class PolicyObject(msgspec.Struct, gc=False):
    """A policy of the API: what is in it, is read field by field."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: object = None


def pod_of(found: PodObject, namespace: str, name: str) -> Pod | None:
    """The pod; None if it has ended. Raises ValueError."""
    meta, spec, status = found.metadata, found.spec or _PodSpec(), found.status or _PodStatus()
    if status.phase in _ENDED:
        return None
    ips = [each.ip for each in status.podIPs or () if each.ip] or ([status.podIP] if status.podIP else [])
    mirror = meta.annotations.mirror if meta.annotations else None
    return Pod(
        intern(namespace),
        name,
        _shared_labels(tuple(meta.labels.items())) if meta.labels else _NO_LABELS,
        tuple([_ip(each, "status.podIPs") for each in ips]),
        _ports_of(spec),
        intern(spec.nodeName) if spec.nodeName else "",
        bool(spec.hostNetwork),
        tuple(dict.fromkeys(each for each in (meta.uid, mirror) if each)),
    )


def namespace_of(found: NamespaceObject, name: str) -> Namespace:
    """The namespace, with the label that has its name."""
    return Namespace(intern(name), _shared_labels((*(found.metadata.labels or {}).items(), (NAME_LABEL, name))))


def node_of(found: NodeObject, name: str) -> ClusterNode:
    """The node. Raises ValueError."""
    addresses = found.status.addresses or () if found.status else ()
    ips = [each.address for each in addresses if each.type in ("InternalIP", "ExternalIP") and each.address]
    labels = _shared_labels(tuple((found.metadata.labels or {}).items()))
    return ClusterNode(intern(name), labels, tuple(dict.fromkeys(_ip(each, "status.addresses") for each in ips)))


_NO_LABELS: Mapping[str, str] = {}


@lru_cache(_SHARED)
def _shared_labels(items: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    return {intern(key): intern(value) for key, value in items}


def _ports_of(spec: _PodSpec) -> tuple[ContainerPort, ...]:
    """The ports that have names, of containers that run as long as the pod does."""
    sidecars = [each for each in spec.initContainers or () if each.restartPolicy == "Always"]
    named = [
        (port.name, port.protocol or TCP, port.containerPort)
        for container in chain(spec.containers or (), sidecars)
        for port in container.ports or ()
        if port.name
    ]
    return _shared_ports(tuple(named)) if named else ()


@lru_cache(_SHARED)
def _shared_ports(named: Iterable[tuple[str, str, int | None]]) -> tuple[ContainerPort, ...]:
    """Raises ValueError."""
    where = "spec.containers[].ports[]"
    for name, protocol, number in named:
        if not is_port_name(name):
            raise wrong(f"{where}.name", PORT_NAME, name)
        if protocol not in _PROTOCOLS:
            raise wrong(f"{where}.protocol", '"TCP", "UDP" or "SCTP"', protocol)
        if number is None or not 1 <= number <= 65535:
            raise wrong(f"{where}.containerPort", "an integer of 1 to 65535", number)
    return tuple(dict.fromkeys(ContainerPort(*each) for each in named))


def _ip(text: str, path: str) -> str:
    try:
        return canonical_ip(text)
    except ValueError:
        raise wrong(path, "IP addresses", text) from None


_EXPECTED = re.compile(r"Expected `([^`]*)`, got `[^`]*`(?: - at (`key` in )?`\$?([^`]*)`)?")
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_TYPES = {"str": "a string", "int": "an integer", "bool": "true or false", "object": "an object", "array": "a list"}


def explain(error: Exception, value: object) -> ValueError:
    """What msgspec found wrong in a value, in our words."""
    match = _EXPECTED.match(str(error))
    if not match:
        return ValueError(str(error))
    expected, path = match[1].removesuffix(" | null"), match[3] or ""
    if match[2]:
        return ValueError(f'"{path.lstrip(".")}": expected strings as keys, in quotes if they look like something else')
    for name, index in _STEP.findall(path):
        try:
            value = _inner(value, name, index)
        except (LookupError, TypeError):
            return ValueError(str(error))
    return wrong(path.lstrip(".") or "the document", _TYPES.get(expected, expected), value)


def _inner(value: object, name: str, index: str) -> object:
    """The part of a value in a step of a path; of "[...]" the one that is no string. Raises LookupError, TypeError."""
    if name:
        return value[name]
    if index != "...":
        return value[int(index)]
    return next((each for each in value.values() if not isinstance(each, str)), None)
