"""`vxlan`: as `kubenet`, but the other nodes' subnets are reached through a tunnel, so that they may be anywhere.

VXLAN is RFC 7348. Entries and frames are those of flannel's vxlan, so nodes of both can share a network.
`docs/vxlan.md` has every key.
"""

from contextlib import suppress

from linux.errors import step
from linux.netlink.socket import Netlink
from linux.rtnl import forwarding, vxlan
from linux.rtnl.links import find_link, find_link_by_index
from plugins.failures import Undo
from plugins.node import current_peers, host_state, paths, peers_seen, pods, reachability, tunnel
from plugins.node.conf import NodeConf, parse, read_peers, telling_status
from plugins.node.records import Records
from plugins.node.selection import Peers
from plugins.node.tunnel import TunnelConf
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
        with step("look at the node"):
            if not reachability.is_set_up(host, node):
                reachability.check_subnets(host, node, conf.device)
        vtep = tunnel.plan(host, node, conf)
        pods.undo_bridge(host, node.bridge, undo)
        result = add_pod(pod, pods.pod_conf(pod, node, node.mtu or vtep.mtu))
        undo.callback(delete, request)
        _ensure_node(host, pod, node, conf, result)
        undo.pop_all()
    return result


def delete(request: Request) -> None:
    """DEL: the pod; the tunnel stays, also after the last one."""
    pods.delete(request, _known)


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
    pods.sweep(request, _known)
    if request.valid_attachments or request.conf.section.raw("removeDevice") is not True:
        return
    conf, cluster = tunnel.parse(request), ()
    with suppress(CNIError):
        cluster = parse(request).cluster
    with host_state.locked(request.conf.name), Netlink() as host, step(f'take down "{conf.device}"'):
        if cluster:
            forwarding.sync(host, (), within=cluster)
        vxlan.delete_vtep(host, conf.device)  # and with it all routes through it
        host_state.delete_rules(request.conf.name)


def status(request: Request) -> None:
    """STATUS: ready if the node has a subnet, an uplink and a ready IPAM."""

    def begin() -> None:
        node, conf = parse(request), tunnel.parse(request)
        records = read_peers(request)
        with Netlink() as host, step("look at the node"):
            reachability.check_ready(host, node, conf.device)
            vtep = tunnel.plan(host, node, conf)
            if rival := vxlan.find_rival(host, vtep):
                raise CNIError(Code.PLUGIN_NOT_AVAILABLE, f'no device "{vtep.name}": {rival.strerror}')
            peers = _peers(host, records, node, conf, vtep)
            said = [*peers.about_this, *_not_forwarding(host, node, conf, peers), *peers.left_out]
        current_peers.tell(request, said, at_most=len(said))
        pod = pods.with_ipam(request, node.subnets)
        delegate(pod, "STATUS", pod.conf.ipam_type)

    telling_status(begin)


def _ensure_node(host: Netlink, pod: Request, node: NodeConf, conf: TunnelConf, result: Result) -> None:
    network = pod.conf.name
    with host_state.locked(network):
        records, vtep = read_peers(pod), tunnel.plan(host, node, conf)
        peers_seen.note(network, peers=records.from_default_file)
        peers = _ensure_device(host, network, records, node, conf, vtep)
        pods.settle_gateways(host, pod, node, result)
        reachability.ensure_forwarding(node, [node.bridge, vtep.name])
        problems = host_state.ensure_paths(host, peers.paths, device=_index(host, vtep.name), within=node.cluster)
        host_state.ensure_rules(host, network, node, peers, vtep.name)
        host_state.ensure_untracked(network, vtep if _is_untracked(conf) else None)
        with step("look at the node"):
            reachability.check_reach(host, node, result)
            problems += _not_forwarding(host, node, conf, peers)
    current_peers.tell(pod, [*peers.about_this, *problems, *peers.left_out])


def _is_untracked(conf: TunnelConf) -> bool:
    if conf.notrack is not None:
        return conf.notrack
    from rules import host_firewall

    with step("look at the node's firewall"):
        return not host_firewall.may_ask_for_states()


def _ensure_device(
    host: Netlink, network: str, records: Records, node: NodeConf, conf: TunnelConf, vtep: vxlan.Vtep
) -> Peers:
    """The device, and before it is up its filter. (Without the device, the filter would be in the way of others.)"""
    from rules import vtep_filter

    peers = None

    def guard() -> None:
        nonlocal peers
        with step("look at the node"):
            peers = _peers(host, records, node, conf, vtep)
        with step("filter frames of unknown VTEPs"):
            vtep_filter.ensure(network, _filter(host, node, peers, vtep))

    with step(f'set up "{vtep.name}"'):
        try:
            vxlan.ensure_vtep(host, vtep, tunnel.addresses_of(node), guard)
        except OSError:
            found = find_link(host, vtep.name)
            if not found or not found.up:
                vtep_filter.delete(network)
            raise
    return peers


def _differences(host: Netlink, request: Request, node: NodeConf, conf: TunnelConf) -> list[str]:
    from rules import notrack, vtep_filter

    reachability.check_subnets(host, node, conf.device)
    records, vtep = read_peers(request), tunnel.plan(host, node, conf)
    peers = _peers(host, records, node, conf, vtep)
    wrong = reachability.cut_off(host, node, request.conf.require_prev_result())
    wrong += vxlan.differences(host, vtep, tunnel.addresses_of(node))
    device = _index(host, vtep.name)
    if device:
        wrong += host_state.missing_paths(host, peers.paths, device)
    wrong += vtep_filter.missing(request.conf.name, _filter(host, node, peers, vtep))
    tracked = notrack.missing(request.conf.name, vtep)
    if conf.notrack:
        wrong += tracked
    elif not tracked and not _is_untracked(conf):
        wrong.append("the tunnel's datagrams are not tracked, and the node's firewall may ask for their state")
    wrong += host_state.missing_rules(host, request.conf.name, node, peers, vtep.name)
    return [*wrong, *peers.about_this, *_not_forwarding(host, node, conf, peers)]


def _filter(host: Netlink, node: NodeConf, peers: Peers, vtep: vxlan.Vtep) -> "Tunnel":  # noqa: F821
    from rules.vtep_filter import Tunnel

    known = paths.vteps(peers.nodes, over_ipv6=is_ipv6(vtep.local))
    parent = find_link_by_index(host, vtep.parent)
    return Tunnel(vtep.vni, vtep.port, known, parent.name if parent else "", vtep.name, node.bridge)


def _not_forwarding(host: Netlink, node: NodeConf, conf: TunnelConf, peers: Peers) -> list[str]:
    direct = [path.link for path in peers.paths if not path.mac]
    return reachability.not_forwarding(host, node, [node.bridge, conf.device], direct)


def _peers(host: Netlink, records: Records, node: NodeConf, conf: TunnelConf, vtep: vxlan.Vtep) -> Peers:
    has_ipv6 = reachability.has_ipv6(vtep.name)
    end = paths.Tunnel(_index(host, vtep.name), vtep.local, vtep.mac, conf.direct_routing, has_ipv6)
    return current_peers.peers_of(host, records, node, end)


def _known(host: Netlink, request: Request, node: NodeConf) -> tuple[Peers, str]:
    conf = tunnel.parse(request)
    return _peers(host, read_peers(request), node, conf, tunnel.plan(host, node, conf)), conf.device


def _index(host: Netlink, name: str) -> int:
    with suppress(OSError):
        found = find_link(host, name)
        return found.index if found else 0
    return 0


PLUGIN = Plugin(type="vxlan", add=add, delete=delete, check=check, gc=gc, status=status)
