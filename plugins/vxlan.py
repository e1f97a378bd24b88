"""`vxlan`: as `kubenet`, but the other nodes' subnets are reached through a tunnel, so nodes need not share a link.

VXLAN is RFC 7348. Its entries and frames are compatible with flannel's vxlan, so that both can share a network.
`docs/vxlan.md` lists every key.
"""

from contextlib import suppress

from linux.errors import step
from linux.netlink.socket import Netlink
from linux.rtnl import forwarding, vxlan
from linux.rtnl.links import find_link, find_link_by_index
from plugins.failures import Undo
from plugins.node import host_rules, paths, peers, pods, reachability, tunnel
from plugins.node.conf import NodeConf, parse, unavailable_if_retryable
from plugins.node.records import Records
from plugins.node.selection import Peers
from plugins.node.tunnel import TunnelConf
from spec.addresses import is_ipv6
from spec.delegate import delegate
from spec.errors import CNIError, Code, raise_problems
from spec.plugin import Plugin
from spec.request import Request
from spec.result import Result


def add(request: Request) -> Result:
    """ADD: connects the pod and configures the node. Raises CNIError after disconnecting the pod again."""
    from plugins.pod.add import add_pod

    node, conf = parse(request), tunnel.parse(request)
    pod = pods.with_ipam(request, node.subnets)
    with Netlink() as host, Undo() as undo:
        with step("read the node's network"):
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
    pods.delete(request, _peers_and_device)


def check(request: Request) -> None:
    """CHECK: the pod and the node."""
    from plugins.pod.check import check_pod

    node, conf = parse(request), tunnel.parse(request)
    pod = pods.with_ipam(request, node.subnets)
    check_pod(pod, pods.pod_conf(pod, node, node.mtu))
    with Netlink() as host, step("read the node's network"):
        problems = _differences(host, request, node, conf)
    raise_problems(problems)


def gc(request: Request) -> None:
    """GC: as in `kubenet`; and the tunnel, if no attachment is left and `removeDevice` is set."""
    pods.sweep(request, _peers_and_device)
    if request.valid_attachments or request.conf.section.raw("removeDevice") is not True:
        return
    conf, cluster = tunnel.parse(request), ()
    with suppress(CNIError):
        cluster = parse(request).cluster
    with host_rules.locked(request.conf.name), Netlink() as host, step(f'delete "{conf.device}"'):
        if cluster:
            forwarding.sync(host, (), within=cluster)
        vxlan.delete_vtep(host, conf.device)  # with all routes through it
        host_rules.delete(request.conf.name)


def status(request: Request) -> None:
    """STATUS: the node has a subnet and a parent link for the tunnel, and IPAM is ready."""
    with unavailable_if_retryable():
        node, conf = parse(request), tunnel.parse(request)
        records = peers.read_records(request)
        with Netlink() as host, step("read the node's network"):
            reachability.check_ready(host, node, conf.device)
            vtep = tunnel.plan(host, node, conf)
            if rival := vxlan.find_rival(host, vtep):
                raise CNIError(Code.PLUGIN_NOT_AVAILABLE, f'cannot create "{vtep.name}": {rival.strerror}')
            others = _select_peers(host, records, node, conf, vtep)
            problems = [*others.about_this, *_not_forwarding(host, node, conf, others), *others.left_out]
        peers.log(request, problems, at_most=len(problems))
        pod = pods.with_ipam(request, node.subnets)
        delegate(pod, "STATUS", pod.conf.ipam_type)


def _ensure_node(host: Netlink, pod: Request, node: NodeConf, conf: TunnelConf, result: Result) -> None:
    network = pod.conf.name
    with host_rules.locked(network):
        records, vtep = peers.read_records(pod), tunnel.plan(host, node, conf)
        peers.remember_default_file(network, has_peers=records.from_default_file)
        others = _ensure_device(host, network, records, node, conf, vtep)
        pods.update_gateways(host, pod, node, result)
        reachability.ensure_forwarding(node, [node.bridge, vtep.name])
        problems = peers.ensure_paths(host, others.paths, device=_index(host, vtep.name), within=node.cluster)
        host_rules.ensure(host, network, node, others, vtep.name)
        host_rules.ensure_untracked(network, vtep if _is_untracked(conf) else None)
        with step("read the node's network"):
            reachability.check_reachable(host, node, result)
            problems += _not_forwarding(host, node, conf, others)
    peers.log(pod, [*others.about_this, *problems, *others.left_out])


def _is_untracked(conf: TunnelConf) -> bool:
    if conf.notrack is not None:
        return conf.notrack
    from rules import host_firewall

    with step("read the node's firewall"):
        return not host_firewall.may_filter_by_state()


def _ensure_device(
    host: Netlink, network: str, records: Records, node: NodeConf, conf: TunnelConf, vtep: vxlan.Vtep
) -> Peers:
    """Create the device, and its filter before it is up. Without the device, the filter would affect others."""
    from rules import vtep_filter

    others = None

    def filter_frames() -> None:
        nonlocal others
        with step("read the node's network"):
            others = _select_peers(host, records, node, conf, vtep)
        with step("filter frames of unknown VTEPs"):
            vtep_filter.ensure(network, _filter(host, node, others, vtep))

    with step(f'set up "{vtep.name}"'):
        try:
            vxlan.ensure_vtep(host, vtep, tunnel.addresses_of(node), filter_frames)
        except OSError:
            found = find_link(host, vtep.name)
            if not found or not found.up:
                vtep_filter.delete(network)
            raise
    return others


def _differences(host: Netlink, request: Request, node: NodeConf, conf: TunnelConf) -> list[str]:
    from rules import notrack, vtep_filter

    reachability.check_subnets(host, node, conf.device)
    records, vtep = peers.read_records(request), tunnel.plan(host, node, conf)
    others = _select_peers(host, records, node, conf, vtep)
    problems = reachability.unreachable(host, node, request.conf.require_prev_result())
    problems += vxlan.differences(host, vtep, tunnel.addresses_of(node))
    device = _index(host, vtep.name)
    if device:
        problems += peers.missing_paths(host, others.paths, device)
    problems += vtep_filter.problems(request.conf.name, _filter(host, node, others, vtep))
    tracked = notrack.problems(request.conf.name, vtep)
    if conf.notrack:
        problems += tracked
    elif not tracked and not _is_untracked(conf):
        problems.append("the tunnel's datagrams are not tracked, but the node's firewall may match on their state")
    problems += host_rules.missing(host, request.conf.name, node, others, vtep.name)
    return [*problems, *others.about_this, *_not_forwarding(host, node, conf, others)]


def _filter(host: Netlink, node: NodeConf, others: Peers, vtep: vxlan.Vtep) -> "Tunnel":  # noqa: F821
    from rules.vtep_filter import Tunnel

    known = paths.vteps(others.nodes, over_ipv6=is_ipv6(vtep.local))
    parent = find_link_by_index(host, vtep.parent)
    return Tunnel(vtep.vni, vtep.port, known, parent.name if parent else "", vtep.name, node.bridge)


def _not_forwarding(host: Netlink, node: NodeConf, conf: TunnelConf, others: Peers) -> list[str]:
    direct = [path.link for path in others.paths if not path.mac]
    return reachability.not_forwarding(host, node, [node.bridge, conf.device], direct)


def _select_peers(host: Netlink, records: Records, node: NodeConf, conf: TunnelConf, vtep: vxlan.Vtep) -> Peers:
    has_ipv6 = reachability.has_ipv6(vtep.name)
    end = paths.Tunnel(_index(host, vtep.name), vtep.local, vtep.mac, conf.direct_routing, has_ipv6)
    return peers.select_peers(host, records, node, end)


def _peers_and_device(host: Netlink, request: Request, node: NodeConf) -> tuple[Peers, str]:
    conf = tunnel.parse(request)
    vtep = tunnel.plan(host, node, conf)
    return _select_peers(host, peers.read_records(request), node, conf, vtep), conf.device


def _index(host: Netlink, name: str) -> int:
    with suppress(OSError):
        found = find_link(host, name)
        return found.index if found else 0
    return 0


PLUGIN = Plugin(type="vxlan", add=add, delete=delete, check=check, gc=gc, status=status)
