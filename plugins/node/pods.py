"""A pod of a node: the bridge plugin's work, with the node's subnet and its own ideas of MTU and hairpins."""

import json
from collections.abc import Mapping
from dataclasses import replace

from plugins.node.conf import DEFAULT_BRIDGE, HAIRPIN_VETH, PROMISCUOUS_BRIDGE, NodeConf, ipam_of
from plugins.pod.conf import PodConf
from spec.config import NetConf, Section, decode
from spec.request import Request


def pod_conf(request: Request, node: NodeConf, mtu: int) -> PodConf:
    """The bridge and the port of a pod; `mtu` in bytes."""
    return PodConf(
        bridge=node.bridge,
        ipam_type=request.conf.ipam_type,
        is_gateway=True,
        is_default_gateway=True,
        keep_addresses=True,
        mtu=mtu,
        hairpin=node.hairpin_mode == HAIRPIN_VETH,
        promiscuous=node.hairpin_mode == PROMISCUOUS_BRIDGE,
        dns=request.conf.dns,
    )


def with_ipam(request: Request, subnets: tuple[str, ...]) -> Request:
    """The request as IPAM is to see it: its `ipam` completed with the node's subnets."""
    return _with(request, ipam_of(request.conf.section, subnets))


def with_ipam_type(request: Request) -> Request:
    """The same for verbs that only clean up, and may not know the subnets any more."""
    given = request.conf.section.raw("ipam")
    return _with(request, {"type": "host-local", **given} if isinstance(given, Mapping) else {"type": "host-local"})


def bridge_name(request: Request) -> str:
    """The bridge's name for verbs that only clean up: the default where it can not be read."""
    name = request.conf.section.raw("bridge")
    return name if isinstance(name, str) and name else DEFAULT_BRIDGE


def _with(request: Request, ipam: Mapping[str, object]) -> Request:
    raw = {key: value for key, value in decode(request.stdin).items() if key.lower() != "ipam"}
    raw["ipam"] = ipam
    conf = NetConf.parse(Section(raw), strict=request.conf.strict)
    return replace(request, conf=conf, stdin=json.dumps(raw).encode())
