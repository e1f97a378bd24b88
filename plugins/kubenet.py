"""`kubenet`: every node has its own subnet; pods are ports of its bridge, and the other nodes' subnets are routed.

What kubenet was to the kubelet until Kubernetes 1.24, as a plugin for any runtime. `docs/kubenet.md` lists every key.
"""

from linux.errors import step
from linux.netlink.socket import Netlink
from plugins.failures import Undo
from plugins.node import host_rules, peers, pods, reachability, state
from plugins.node.conf import NodeConf, parse, unavailable_if_retryable
from plugins.node.maintained import is_maintained
from plugins.node.mtu import pod_mtu
from plugins.node.selection import Peers
from spec.delegate import delegate
from spec.errors import raise_problems
from spec.plugin import Plugin
from spec.request import Request
from spec.result import Result


def add(request: Request) -> Result:
    """ADD: connects the pod and configures the node. Raises CNIError after disconnecting the pod again."""
    from plugins.pod.add import add_pod

    node = parse(request)
    pod = pods.with_ipam(request, node.subnets)
    with Netlink() as host, Undo() as undo:
        with step("read the node's network"):
            if not reachability.is_set_up(host, node):
                reachability.check_subnets(host, node)
        mtu = pod_mtu(host, node)
        pods.undo_bridge(host, node.bridge, undo)
        result = add_pod(pod, pods.pod_conf(pod, node, mtu))
        pods.undo_pod(request, node, delete, result, undo)
        if is_maintained(request):
            pods.ensure_gateways(host, pod, node, result)
        else:
            pods.ensure_node(host, pod, node, None, result)
        undo.pop_all()
    pods.await_policies(request, node, result)
    return result


def delete(request: Request) -> None:
    """DEL: ignores errors in the configuration and the files, which may have changed since the ADD."""
    pods.delete(request, _peers)


def check(request: Request) -> None:
    """CHECK: the pod, and the node unless the daemon keeps it, which is ahead of the peers file."""
    from plugins.pod.check import check_pod

    node = parse(request)
    pod = pods.with_ipam(request, node.subnets)
    check_pod(pod, pods.pod_conf(pod, node, node.mtu))
    with Netlink() as host, step("read the node's network"):
        problems = reachability.unreachable(host, node, request.conf.require_prev_result())
        if not is_maintained(request):
            problems += _differences(host, request, node)
    raise_problems(problems)


def gc(request: Request) -> None:
    """GC: removes what belongs to deleted pods, and gateways that are no longer used."""
    pods.sweep(request, _peers)


def status(request: Request) -> None:
    """STATUS: the node has a subnet, and IPAM is ready."""
    with unavailable_if_retryable():
        node = parse(request)
        records = None if is_maintained(request) else peers.read_records(request)
        with Netlink() as host, step("read the node's network"):
            reachability.check_ready(host, node)
            pod_mtu(host, node)
            problems = state.problems(host, records, node) if records else ()
        peers.log(request, problems, at_most=len(problems))
        pod = pods.with_ipam(request, node.subnets)
        delegate(pod, "STATUS", pod.conf.ipam_type)


def _differences(host: Netlink, request: Request, node: NodeConf) -> list[str]:
    reachability.check_subnets(host, node)
    others = peers.select_peers(host, peers.read_records(request), node)
    problems = peers.missing_paths(host, others.paths, device=0)
    problems += host_rules.missing(host, request.conf.name, node, others)
    return problems + state.not_forwarding(host, node, None, others)


def _peers(host: Netlink, request: Request, node: NodeConf) -> tuple[Peers, str]:
    return peers.select_peers(host, peers.read_records(request), node), ""


PLUGIN = Plugin(type="kubenet", add=add, delete=delete, check=check, gc=gc, status=status)
