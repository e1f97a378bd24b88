"""A pod of a node: connected as by the bridge plugin, with the node's subnet, MTU and hairpin mode."""

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
from plugins.node import reachability
from plugins.node.conf import HAIRPIN_VETH, PROMISCUOUS_BRIDGE, NodeConf, ipam_of, parse
from plugins.node.maintained import is_maintained
from plugins.pod.conf import PodConf
from spec.config import NetConf, read_config
from spec.errors import CNIError
from spec.request import Request
from spec.result import Result


def bridge_conf(node: NodeConf, mtu: int) -> PodConf:
    """What all pods have in common; `mtu` in bytes."""
    return PodConf(
        bridge=node.bridge,
        ipam_type="",
        is_gateway=True,
        is_default_gateway=True,
        keep_addresses=True,
        mtu=mtu,
        hairpin=node.hairpin_mode == HAIRPIN_VETH,
        promiscuous=node.hairpin_mode == PROMISCUOUS_BRIDGE,
        check_sources=node.check_sources,
        policy_wait=node.policy_wait,
    )


def pod_conf(request: Request, node: NodeConf, mtu: int) -> PodConf:
    """The configuration of the bridge and of a pod's port; `mtu` in bytes."""
    mac, dns = requested_mac(request), request.conf.dns
    return replace(bridge_conf(node, mtu), ipam_type=request.conf.ipam_type, mac=mac, dns=dns)


def with_ipam(request: Request, subnets: tuple[str, ...]) -> Request:
    """The request for IPAM: its `ipam` completed with the node's subnets."""
    return _with(request, ipam_of(request.conf.section, subnets))


PeersOf = Callable[[Netlink, Request, NodeConf], tuple["Peers", str]]  # noqa: F821
"""Returns the peers, as for an ADD, and the name of the tunnel device, or ""."""


def delete(request: Request, peers_of: PeersOf) -> None:
    """Disconnect the pod. Ignores errors in the configuration."""
    from plugins.pod.delete import delete_pod

    pod = _for_cleanup(request)
    delete_pod(pod, ipam_type=pod.conf.ipam_type)
    _drop_gateways(request, pod, peers_of)


def sweep(request: Request, peers_of: PeersOf) -> None:
    """Remove what belongs to stale attachments."""
    from plugins.pod.delete import sweep_pods

    pod = _for_cleanup(request)
    sweep_pods(pod, ipam_type=pod.conf.ipam_type)
    _drop_gateways(request, pod, peers_of)


def undo_bridge(host: Netlink, bridge: str, undo: Undo) -> None:
    """Before an ADD: if it fails, delete the bridge that it created, unless another pod has joined it."""
    from plugins.pod.host_bridge import delete_unused_bridge

    with step(f'look up "{bridge}"'):
        if find_link(host, bridge) is None:
            undo.callback(delete_unused_bridge, host, bridge)


def undo_pod(request: Request, node: NodeConf, delete: Callable[[Request], object], result: Result, undo: Undo) -> None:
    """After the pod was connected: if the rest of the ADD fails, disconnect it, and end the connections that it had."""
    if node.policy_wait is not None:
        from plugins.pod import policies

        undo.callback(policies.forget, [ip.address for ip in result.ips])
    undo.callback(delete, request)


def await_policies(request: Request, node: NodeConf, result: Result) -> None:
    """Wait until the pod's network policies are in force, if there are any. Never raises. Holds no lock."""
    if node.policy_wait is not None:
        from plugins.pod.policies import await_decision

        await_decision(request, node.policy_wait, result)


def update_gateways(host: Netlink, pod: Request, node: NodeConf, result: Result) -> None:
    """With the node's lock held: keep the gateways of the new pod, and drop earlier ones that are no longer used.

    Raises CNIError. What cannot be dropped now is dropped by the next call.
    """
    from plugins.node import gateways

    gateways.ensure_gateways(host, node.bridge, _gateways_of(result))
    with suppress(OSError, CNIError):
        in_use = partial(_in_use, host, pod, node.bridge)
        gateways.drop_old_gateways(host, pod.conf.name, node.bridge, node.gateways, in_use)


def _gateways_of(result: Result) -> list[str]:
    return [f"{ip.gateway}/{ip.address.partition('/')[2]}" for ip in result.ips if ip.gateway]


def ensure_node(host: Netlink, pod: Request, node: NodeConf, tunnel: "TunnelConf | None", result: Result) -> None:  # noqa: F821
    """After the pod itself: its gateways, and all that the node needs. Raises CNIError, also if the pod is not routed.

    Problems that do not concern the pod are logged.
    """
    from plugins.node import host_rules, peers, state

    network = pod.conf.name
    with host_rules.locked(network):
        records = peers.read_records(pod)
        peers.remember_default_file(network, has_peers=records.from_default_file)
        set_gateways = partial(update_gateways, host, pod, node, result)
        found = state.ensure(host, network, node, tunnel, records, set_gateways)
        with step("read the node's network"):
            reachability.check_reachable(host, node, result)
            off = state.not_forwarding(host, node, tunnel, found.peers)
    peers.log(pod, [*found.peers.about_this, *found.blocked, *off, *found.peers.left_out])


def ensure_gateways(host: Netlink, pod: Request, node: NodeConf, result: Result) -> None:
    """As `ensure_node` where the daemon keeps all that the node needs: the gateways alone.

    The lock is only taken to change them: a gateway that is there stays while the pod has its lease.
    """
    from plugins.node import gateways, host_rules

    with step(f'look up "{node.bridge}"'):
        present = set(gateways.gateways_on(host, find_link(host, node.bridge)))
    if present != set(node.gateways) or not present.issuperset(_gateways_of(result)):
        with host_rules.locked(pod.conf.name):
            update_gateways(host, pod, node, result)
    reachability.ensure_forwarding(node, [node.bridge])  # this ADD may have created it
    with step("read the node's network"):
        reachability.check_reachable(host, node, result)


def _drop_gateways(request: Request, pod: Request, peers_of: PeersOf) -> None:
    """Drop gateways that are no longer used, and update the node's rules, unless the daemon does.

    Failures are left to the next call.

    Needs the node's subnets, which determine the current gateways.
    """
    from plugins.node import gateways, host_rules

    with suppress(OSError, CNIError), Netlink() as host:
        node = parse(request)
        if any(one not in node.gateways for one in gateways.gateways_on(host, find_link(host, node.bridge))):
            network, bridge = request.conf.name, node.bridge
            with host_rules.locked(network):
                in_use = partial(_in_use, host, pod, bridge)
                dropped = gateways.drop_old_gateways(host, network, bridge, node.gateways, in_use)
                if dropped and not is_maintained(request):
                    host_rules.ensure(host, network, node, *peers_of(host, request, node))


def _in_use(host: Netlink, pod: Request, bridge: str) -> Sequence[str]:
    if pod.conf.ipam_type == "host-local":
        from ipam.host_local import leased

        return leased(pod)
    from plugins.node.gateways import addresses_in_use

    return addresses_in_use(host, bridge)


def _for_cleanup(request: Request) -> Request:
    """As `with_ipam`, for DEL and GC, which may not know the subnets any more."""
    given = request.conf.section.raw("ipam")
    return _with(request, {"type": "host-local", **given} if isinstance(given, Mapping) else {"type": "host-local"})


def _with(request: Request, ipam: Mapping[str, object]) -> Request:
    raw = {key: value for key, value in read_config(request.stdin)[0].items() if key.lower() != "ipam"}
    stdin = json.dumps(raw | {"ipam": ipam}).encode()
    conf = NetConf.parse(read_config(stdin)[1], strict=request.conf.strict)
    return replace(request, conf=conf, stdin=stdin)
