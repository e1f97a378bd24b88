"""`kubenet`: every node has its own subnet; pods are ports of its bridge, and the other nodes' subnets are routed.

What kubenet was to the kubelet until Kubernetes 1.24, as a plugin for any runtime. `docs/kubenet.md` lists every key.
"""

from linux.errors import step
from linux.netlink.socket import Netlink
from linux.rtnl.links import find_link, list_links, list_links_beside
from plugins.failures import Undo
from plugins.node import host_rules, peers, pods, reachability
from plugins.node.conf import NodeConf, parse, unavailable_if_retryable
from plugins.node.selection import Peers
from spec.delegate import delegate
from spec.errors import raise_problems
from spec.links import require_suitable_mtu
from spec.plugin import Plugin
from spec.request import Request
from spec.result import Result

_IFF_LOOPBACK, _IFF_POINTOPOINT = 0x8, 0x10
_SMALLEST_MTU, _FALLBACK_MTU = 576, 1460  # RFC 791's smallest datagram; kubenet's fallback


def add(request: Request) -> Result:
    """ADD: connects the pod and configures the node. Raises CNIError after disconnecting the pod again."""
    from plugins.pod.add import add_pod

    node = parse(request)
    pod = pods.with_ipam(request, node.subnets)
    with Netlink() as host, Undo() as undo:
        with step("read the node's network"):
            if not reachability.is_set_up(host, node):
                reachability.check_subnets(host, node)
        mtu = _pod_mtu(host, node)
        pods.undo_bridge(host, node.bridge, undo)
        result = add_pod(pod, pods.pod_conf(pod, node, mtu))
        undo.callback(delete, request)
        _ensure_node(host, pod, node, result)
        undo.pop_all()
    return result


def delete(request: Request) -> None:
    """DEL: ignores errors in the configuration and the files, which may have changed since the ADD."""
    pods.delete(request, _peers)


def check(request: Request) -> None:
    """CHECK: the pod and the node."""
    from plugins.pod.check import check_pod

    node = parse(request)
    pod = pods.with_ipam(request, node.subnets)
    check_pod(pod, pods.pod_conf(pod, node, node.mtu))
    records = peers.read_records(request)
    with Netlink() as host, step("read the node's network"):
        reachability.check_subnets(host, node)
        others = peers.select_peers(host, records, node)
        problems = reachability.unreachable(host, node, request.conf.require_prev_result())
        problems += peers.missing_paths(host, others.paths, device=0)
        problems += host_rules.missing(host, request.conf.name, node, others)
        problems += _not_forwarding(host, node, others)
    raise_problems(problems)


def gc(request: Request) -> None:
    """GC: removes what belongs to deleted pods, and gateways that are no longer used."""
    pods.sweep(request, _peers)


def status(request: Request) -> None:
    """STATUS: the node has a subnet, and IPAM is ready."""
    with unavailable_if_retryable():
        node = parse(request)
        records = peers.read_records(request)
        with Netlink() as host, step("read the node's network"):
            reachability.check_ready(host, node)
            _pod_mtu(host, node)
            others = peers.select_peers(host, records, node)
            problems = [*_not_forwarding(host, node, others), *others.left_out]
        peers.log(request, problems, at_most=len(problems))
        pod = pods.with_ipam(request, node.subnets)
        delegate(pod, "STATUS", pod.conf.ipam_type)


def _pod_mtu(host: Netlink, node: NodeConf) -> int:
    """The MTU of pods, in bytes. Raises CNIError 7 if the node's links leave too little for IPv6."""
    with step("find the MTU"):
        mtu = node.mtu or _smallest_mtu(host, node.bridge)
    require_suitable_mtu(mtu, node.subnets, of="the smallest MTU of the node's links")
    return mtu


def _smallest_mtu(host: Netlink, bridge: str) -> int:
    """In bytes, as in kubenet: the smallest of the links that are up, except loopback and point-to-point ones.

    The pods' bridge and its ports are ignored, since their MTU is what this determines.
    """
    own = find_link(host, bridge)
    links = list_links_beside(host, own.index) if own else list_links(host)
    mtus = [link.mtu for link in links if link.up and not link.flags & (_IFF_LOOPBACK | _IFF_POINTOPOINT)]
    smallest = min(mtus, default=_FALLBACK_MTU)
    return smallest if smallest >= _SMALLEST_MTU else _FALLBACK_MTU


def _ensure_node(host: Netlink, pod: Request, node: NodeConf, result: Result) -> None:
    with host_rules.locked(pod.conf.name):
        records = peers.read_records(pod)
        peers.remember_default_file(pod.conf.name, has_peers=records.from_default_file)
        with step("read the node's network"):
            others = peers.select_peers(host, records, node)
        pods.update_gateways(host, pod, node, result)
        reachability.ensure_forwarding(node, [node.bridge])
        problems = peers.ensure_paths(host, others.paths, device=0, within=node.cluster)
        host_rules.ensure(host, pod.conf.name, node, others)
        with step("read the node's network"):
            reachability.check_reachable(host, node, result)
            problems += _not_forwarding(host, node, others)
    peers.log(pod, [*problems, *others.left_out])


def _not_forwarding(host: Netlink, node: NodeConf, others: Peers) -> list[str]:
    return reachability.not_forwarding(host, node, [node.bridge], [path.link for path in others.paths])


def _peers(host: Netlink, request: Request, node: NodeConf) -> tuple[Peers, str]:
    return peers.select_peers(host, peers.read_records(request), node), ""


PLUGIN = Plugin(type="kubenet", add=add, delete=delete, check=check, gc=gc, status=status)
