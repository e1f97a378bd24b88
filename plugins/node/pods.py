"""A pod of a node: the bridge plugin's work, with the node's subnet and its own ideas of MTU and hairpins."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from linux.errors import step
from linux.netlink.socket import Netlink
from linux.rtnl.links import find_link
from plugins.failures import Undo
from plugins.mac import requested_mac
from plugins.node.conf import HAIRPIN_VETH, PROMISCUOUS_BRIDGE, NodeConf, ipam_of, parse
from plugins.pod.conf import PodConf
from spec.config import NetConf, read_config
from spec.errors import CNIError
from spec.request import Request
from spec.result import Result


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
        check_sources=node.check_sources,
        mac=requested_mac(request),
        dns=request.conf.dns,
    )


def with_ipam(request: Request, subnets: tuple[str, ...]) -> Request:
    """The request as IPAM is to see it: its `ipam` completed with the node's subnets."""
    return _with(request, ipam_of(request.conf.section, subnets))


PeersOf = Callable[[Netlink, Request, NodeConf], tuple["Peers", str]]  # noqa: F821
"""The peers that are used, as an ADD has them, and the name of the device by which they are reached, or ""."""


def delete(request: Request, peers_of: PeersOf) -> None:
    """Take the pod from the node. What an ADD would refuse of the configuration does not matter here."""
    from plugins.pod.delete import delete_pod

    pod = _to_clean(request)
    delete_pod(pod, ipam_type=pod.conf.ipam_type)
    _drop_if_known(request, pod, peers_of)


def sweep(request: Request, peers_of: PeersOf) -> None:
    """Take from the node what belongs to attachments that are not valid any more."""
    from plugins.pod.delete import sweep_pods

    pod = _to_clean(request)
    sweep_pods(pod, ipam_type=pod.conf.ipam_type)
    _drop_if_known(request, pod, peers_of)


def undo_bridge(host: Netlink, bridge: str, undo: Undo) -> None:
    """Before an ADD: should it fail, a bridge that there was not before goes, unless another pod has joined it."""
    from plugins.pod.host_bridge import delete_unused_bridge

    with step(f'look for "{bridge}"'):
        if find_link(host, bridge) is None:
            undo.callback(delete_unused_bridge, host, bridge)


def settle_gateways(host: Netlink, pod: Request, node: NodeConf, result: Result) -> None:
    """With the node's lock held: the gateways of the pod just added stay, earlier ones go once nobody uses them.

    Raises CNIError. What can not be dropped now, the next call drops.
    """
    from plugins.node import host_state

    mine = [f"{ip.gateway}/{ip.address.partition('/')[2]}" for ip in result.ips if ip.gateway]
    host_state.ensure_gateways(host, node.bridge, mine)
    with suppress(OSError, CNIError):
        in_use = partial(_in_use, host, pod, node.bridge)
        host_state.drop_old_gateways(host, pod.conf.name, node.bridge, node.gateways, in_use)


def _drop_if_known(request: Request, pod: Request, peers_of: PeersOf) -> None:
    """Drop the gateways nobody uses any more, and what is said of their subnets in the rules of the node.

    Those of today can be known only if the node's subnet is. What fails, the next call does.
    """
    from plugins.node import host_state

    with suppress(OSError, CNIError), Netlink() as host:
        node = parse(request)
        if any(gateway not in node.gateways for gateway in host_state.gateways_on(host, find_link(host, node.bridge))):
            network, bridge = request.conf.name, node.bridge
            with host_state.locked(network):
                in_use = partial(_in_use, host, pod, bridge)
                if host_state.drop_old_gateways(host, network, bridge, node.gateways, in_use):
                    host_state.ensure_rules(host, network, node, *peers_of(host, request, node))


def _in_use(host: Netlink, pod: Request, bridge: str) -> Sequence[str]:
    if pod.conf.ipam_type == "host-local":
        from ipam.host_local import leased

        return leased(pod)
    from plugins.node.host_state import addresses_behind

    return addresses_behind(host, bridge)


def _to_clean(request: Request) -> Request:
    """As `with_ipam`, for verbs that only clean up, and may not know the subnets any more."""
    given = request.conf.section.raw("ipam")
    return _with(request, {"type": "host-local", **given} if isinstance(given, Mapping) else {"type": "host-local"})


def _with(request: Request, ipam: Mapping[str, object]) -> Request:
    raw = {key: value for key, value in read_config(request.stdin)[0].items() if key.lower() != "ipam"}
    stdin = json.dumps(raw | {"ipam": ipam}).encode()
    conf = NetConf.parse(read_config(stdin)[1], strict=request.conf.strict)
    return replace(request, conf=conf, stdin=stdin)
