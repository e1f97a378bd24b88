"""A pod of a node: the bridge plugin's work, with the node's subnet and its own ideas of MTU and hairpins."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from linux.netlink import Netlink
from plugins.node.conf import HAIRPIN_VETH, PROMISCUOUS_BRIDGE, NodeConf, ipam_of, parse
from plugins.pod.conf import PodConf
from spec.config import NetConf, Section, decode
from spec.errors import CNIError
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


def delete(request: Request) -> None:
    """Take the pod from the node. What an ADD would refuse of the configuration does not matter here."""
    from plugins.pod.delete import delete_pod

    pod = _to_clean(request)
    delete_pod(pod, ipam_type=pod.conf.ipam_type, ip_masq=False, check_mac=False)
    _drop_if_known(request, pod)


def sweep(request: Request) -> None:
    """Take from the node what belongs to attachments that are not valid any more."""
    from plugins.pod.sweep import sweep_pods

    pod = _to_clean(request)
    sweep_pods(pod, ipam_type=pod.conf.ipam_type, ip_masq=False, check_mac=False)
    _drop_if_known(request, pod)


def drop_old_gateways(pod: Request, bridge: str, kept: Sequence[str]) -> None:
    """Take the gateways of earlier subnets from the bridge once nobody uses them. What fails, the next call does."""
    from plugins.node import state

    with suppress(OSError, CNIError), Netlink() as host:
        state.drop_old_gateways(host, bridge, kept, lambda: _in_use(host, pod, bridge))


def _drop_if_known(request: Request, pod: Request) -> None:
    """The gateways of today can be known only if the node's subnet is."""
    with suppress(CNIError):
        node = parse(request)
        drop_old_gateways(pod, node.bridge, node.gateways)


def _in_use(host: Netlink, pod: Request, bridge: str) -> Sequence[str]:
    if pod.conf.ipam_type == "host-local":
        from ipam.host_local import leased

        return leased(pod)
    from plugins.node.state import addresses_behind

    return addresses_behind(host, bridge)


def _to_clean(request: Request) -> Request:
    """As `with_ipam`, for verbs that only clean up, and may not know the subnets any more."""
    given = request.conf.section.raw("ipam")
    return _with(request, {"type": "host-local", **given} if isinstance(given, Mapping) else {"type": "host-local"})


def _with(request: Request, ipam: Mapping[str, object]) -> Request:
    raw = {key: value for key, value in decode(request.stdin).items() if key.lower() != "ipam"}
    raw["ipam"] = ipam
    conf = NetConf.parse(Section(raw), strict=request.conf.strict)
    return replace(request, conf=conf, stdin=json.dumps(raw).encode())
