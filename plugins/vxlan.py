"""`vxlan`: as `kubenet`, but the other nodes' subnets are reached through a tunnel, so that they may be anywhere.

VXLAN is RFC 7348. Entries and frames are those of flannel's vxlan, so nodes of both can share a network.
`docs/vxlan.md` has every key.
"""

from collections.abc import Sequence
from contextlib import suppress

from linux import overlay, vxlan
from linux.errors import step
from linux.netlink import Netlink
from plugins.node import pods, state, tunnel, ways
from plugins.node.conf import NodeConf, parse, read_peers, telling_status
from plugins.node.records import Node
from plugins.node.tunnel import TunnelConf
from plugins.undo import Undo
from spec.addresses import is_ipv6
from spec.delegate import delegate
from spec.errors import CNIError, Code
from spec.plugin import Plugin
from spec.request import Request
from spec.result import Result


def add(request: Request) -> Result:
    """ADD: the pod, and the node as it should be. Raises CNIError, with the pod taken away again."""
    from plugins.pod.add import add_pod

    node, conf = parse(request), tunnel.parse(request)
    pod = pods.with_ipam(request, node.subnets)
    with Netlink() as host, Undo() as undo:
        vtep = tunnel.plan(host, node, conf)
        pods.undo_bridge(host, node.bridge, undo)
        result = add_pod(pod, pods.pod_conf(pod, node, node.mtu or vtep.mtu))
        undo.push(lambda: delete(request))
        _ensure_node(host, pod, node, conf, result)
        undo.keep()
    return result


def delete(request: Request) -> None:
    """DEL: the pod; the tunnel stays, also after the last one."""
    pods.delete(request)


def check(request: Request) -> None:
    """CHECK: the pod, and the node."""
    from plugins.pod.check import check_pod

    node, conf = parse(request), tunnel.parse(request)
    pod = pods.with_ipam(request, node.subnets)
    check_pod(pod, pods.pod_conf(pod, node, node.mtu))
    with Netlink() as host, step("look at the node"):
        wrong = _differences(host, request, node, conf)
    if wrong:
        raise CNIError(Code.INTERNAL, wrong[0], "; ".join(wrong[1:]))


def gc(request: Request) -> None:
    """GC: as `kubenet`; and with no attachment left and `removeDevice`, the tunnel."""
    pods.sweep(request)
    if request.valid_attachments or request.conf.section.raw("removeDevice") is not True:
        return
    conf, cluster = tunnel.parse(request), ()
    with suppress(CNIError):
        cluster = parse(request).cluster
    with state.locked(request.conf.name), Netlink() as host, step(f'take down "{conf.device}"'):
        if cluster:
            overlay.sync(host, (), within=cluster)
        vxlan.delete_vtep(host, conf.device)  # and with it all routes through it
        state.delete_rules(request.conf.name)


def status(request: Request) -> None:
    """STATUS: ready if the node has a subnet, a way out and a ready IPAM."""

    def begin() -> None:
        node, conf = parse(request), tunnel.parse(request)
        read_peers(request, node)
        with Netlink() as host:
            tunnel.plan(host, node, conf)
        pod = pods.with_ipam(request, node.subnets)
        delegate(pod, "STATUS", pod.conf.ipam_type)

    telling_status(begin)


def _ensure_node(host: Netlink, pod: Request, node: NodeConf, conf: TunnelConf, result: Result) -> None:
    from linux import vtep_filter

    network = pod.conf.name
    with state.locked(network):
        peers = read_peers(pod, node)
        vtep = tunnel.plan(host, node, conf)
        with step(f'set up "{vtep.name}"'):
            device, _ = vxlan.ensure_vtep(host, vtep, tunnel.addresses_of(node))
        wanted = _ways(host, node, peers, vtep, device.index, direct=conf.direct_routing)
        with step("filter frames of unknown VTEPs"):
            vtep_filter.ensure(network, vtep.vni, vtep.port, ways.vteps(peers, over_ipv6=is_ipv6(vtep.local)))
        pods.settle_gateways(host, pod, node, result)
        state.ensure_ways(host, wanted, device=device.index, within=node.cluster)
        state.ensure_rules(host, network, node, peers)


def _differences(host: Netlink, request: Request, node: NodeConf, conf: TunnelConf) -> list[str]:
    from linux import vtep_filter

    peers = read_peers(request, node)
    vtep = tunnel.plan(host, node, conf)
    wrong = vxlan.differences(host, vtep, tunnel.addresses_of(node))
    device = _index(host, vtep.name)
    if device:
        wanted = _ways(host, node, peers, vtep, device, direct=conf.direct_routing)
        wrong += state.ways_missing(host, wanted, device)
    known = ways.vteps(peers, over_ipv6=is_ipv6(vtep.local))
    wrong += vtep_filter.missing(request.conf.name, vtep.vni, vtep.port, known)
    return wrong + state.missing_rules(host, request.conf.name, node, peers)


def _ways(
    host: Netlink, node: NodeConf, peers: Sequence[Node], vtep: vxlan.Vtep, device: int, *, direct: bool
) -> list[overlay.Way]:
    addresses, bridge = state.apart_from_bridge(host, node.bridge)
    links = ways.Links([one for one in addresses if one.link != device], apart_from=bridge)
    return ways.tunnel_ways(peers, links, ways.Tunnel(device, is_ipv6(vtep.local)), direct=direct)


def _index(host: Netlink, name: str) -> int:
    from linux.links import find_link

    with suppress(OSError):
        found = find_link(host, name)
        return found.index if found else 0
    return 0


PLUGIN = Plugin(type="vxlan", add=add, delete=delete, check=check, gc=gc, status=status)
