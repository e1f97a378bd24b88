"""`vxlan`: as `kubenet`, but the other nodes' subnets are reached through a tunnel, so nodes need not share a link.

VXLAN is RFC 7348. Its entries and frames are compatible with flannel's vxlan, so that both can share a network.
`docs/vxlan.md` lists every key.
"""

from contextlib import suppress

from linux.errors import step
from linux.netlink.socket import Netlink
from linux.rtnl import forwarding, vxlan
from plugins.failures import Undo
from plugins.node import host_rules, peers, pods, reachability, state, tunnel
from plugins.node.conf import NodeConf, parse, unavailable_if_retryable
from plugins.node.maintained import is_maintained
from plugins.node.selection import Peers
from plugins.node.tunnel import TunnelConf
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
        is_alone = node.mtu and is_maintained(request)
        mtu = node.mtu if is_alone else tunnel.plan(host, node, conf).mtu
        pods.undo_bridge(host, node.bridge, undo)
        result = add_pod(pod, pods.pod_conf(pod, node, node.mtu or mtu))
        pods.undo_pod(request, node, delete, result, undo)
        if is_alone:
            pods.ensure_gateways(host, pod, node, result)
        else:
            pods.ensure_node(host, pod, node, conf, result)
        undo.pop_all()
    pods.await_policies(request, node, result)
    return result


def delete(request: Request) -> None:
    """DEL: the pod; the tunnel stays, also after the last one."""
    pods.delete(request, _peers_and_device)


def check(request: Request) -> None:
    """CHECK: as in `kubenet`."""
    from plugins.pod.check import check_pod

    node, conf = parse(request), tunnel.parse(request)
    pod = pods.with_ipam(request, node.subnets)
    check_pod(pod, pods.pod_conf(pod, node, node.mtu))
    with Netlink() as host, step("read the node's network"):
        problems = reachability.unreachable(host, node, request.conf.require_prev_result())
        if not is_maintained(request):
            problems += _differences(host, request, node, conf)
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
        records = None if is_maintained(request) else peers.read_records(request)
        with Netlink() as host, step("read the node's network"):
            reachability.check_ready(host, node, conf.device)
            vtep = tunnel.plan(host, node, conf)
            if rival := vxlan.find_rival(host, vtep):
                raise CNIError(Code.PLUGIN_NOT_AVAILABLE, f'cannot create "{vtep.name}": {rival.strerror}')
            problems = state.problems(host, records, node, conf, vtep) if records else ()
        peers.log(request, problems, at_most=len(problems))
        pod = pods.with_ipam(request, node.subnets)
        delegate(pod, "STATUS", pod.conf.ipam_type)


def _differences(host: Netlink, request: Request, node: NodeConf, conf: TunnelConf) -> list[str]:
    from rules import notrack, vtep_filter

    reachability.check_subnets(host, node, conf.device)
    records, vtep = peers.read_records(request), tunnel.plan(host, node, conf)
    others = state.select(host, records, node, conf, vtep)
    problems = vxlan.differences(host, vtep, tunnel.addresses_of(node))
    device = state.index_of(host, vtep.name)
    if device:
        problems += peers.missing_paths(host, others.paths, device)
    problems += vtep_filter.problems(request.conf.name, state.filter_of(host, node, others, vtep))
    tracked = notrack.problems(request.conf.name, vtep)
    if conf.notrack:
        problems += tracked
    elif not tracked and not state.is_untracked(conf):
        problems.append("the tunnel's datagrams are not tracked, but the node's firewall may match on their state")
    problems += host_rules.missing(host, request.conf.name, node, others, vtep.name)
    return [*problems, *others.about_this, *state.not_forwarding(host, node, conf, others)]


def _peers_and_device(host: Netlink, request: Request, node: NodeConf) -> tuple[Peers, str]:
    conf = tunnel.parse(request)
    vtep = tunnel.plan(host, node, conf)
    return state.select(host, peers.read_records(request), node, conf, vtep), conf.device


PLUGIN = Plugin(type="vxlan", add=add, delete=delete, check=check, gc=gc, status=status)
