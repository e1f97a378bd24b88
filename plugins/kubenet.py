"""`kubenet`: every node owns a subnet, pods are ports of its bridge, the other nodes' subnets are routes.

What kubenet was to the kubelet until Kubernetes 1.24, as a plugin that any runtime can call. `docs/kubenet.md` has
every key.
"""

from linux.errors import step
from linux.netlink.socket import Netlink
from plugins.failures import Undo
from plugins.node import current_peers, host_state, peers_seen, pods, reachability
from plugins.node.conf import NodeConf, parse, read_peers, telling_status
from plugins.node.mtu import smallest_mtu
from plugins.node.selection import Peers
from spec.delegate import delegate
from spec.errors import CNIError, Code
from spec.links import require_suitable_mtu
from spec.plugin import Plugin
from spec.request import Request
from spec.result import Result


def add(request: Request) -> Result:
    """ADD: the pod, and the node as it should be. Raises CNIError, with the pod taken away again."""
    from plugins.pod.add import add_pod

    node = parse(request)
    pod = pods.with_ipam(request, node.subnets)
    with Netlink() as host, Undo() as undo:
        with step("look at the node"):
            if not reachability.is_set_up(host, node):
                reachability.check_subnets(host, node)
        mtu = _mtu(host, node)
        pods.undo_bridge(host, node.bridge, undo)
        result = add_pod(pod, pods.pod_conf(pod, node, mtu))
        undo.callback(delete, request)
        _ensure_node(host, pod, node, result)
        undo.pop_all()
    return result


def delete(request: Request) -> None:
    """DEL: never fails for the configuration or the files, which may have been changed since the ADD."""
    pods.delete(request, _peers)


def check(request: Request) -> None:
    """CHECK: the pod, and the node."""
    from plugins.pod.check import check_pod

    node = parse(request)
    pod = pods.with_ipam(request, node.subnets)
    check_pod(pod, pods.pod_conf(pod, node, node.mtu))
    records = read_peers(request)
    with Netlink() as host, step("look at the node"):
        reachability.check_subnets(host, node)
        peers = current_peers.peers_of(host, records, node)
        wrong = reachability.cut_off(host, node, request.conf.require_prev_result())
        wrong += host_state.missing_paths(host, peers.paths, device=0)
        wrong += host_state.missing_rules(host, request.conf.name, node, peers)
        wrong += _not_forwarding(host, node, peers)
    if wrong:
        raise CNIError(Code.INTERNAL, wrong[0], "; ".join(wrong[1:]))


def gc(request: Request) -> None:
    """GC: what belongs to pods that the runtime no longer knows, and gateways that nobody uses any more."""
    pods.sweep(request, _peers)


def status(request: Request) -> None:
    """STATUS: ready if the node has a subnet and IPAM is ready."""

    def begin() -> None:
        node = parse(request)
        records = read_peers(request)
        with Netlink() as host, step("look at the node"):
            reachability.check_ready(host, node)
            _mtu(host, node)
            peers = current_peers.peers_of(host, records, node)
            said = [*_not_forwarding(host, node, peers), *peers.left_out]
        current_peers.tell(request, said, at_most=len(said))
        pod = pods.with_ipam(request, node.subnets)
        delegate(pod, "STATUS", pod.conf.ipam_type)

    telling_status(begin)


def _mtu(host: Netlink, node: NodeConf) -> int:
    """The MTU of pods, in bytes. Raises CNIError 7 if the node's links leave too little for IPv6."""
    with step("find the MTU"):
        mtu = node.mtu or smallest_mtu(host, node.bridge)
    require_suitable_mtu(mtu, node.subnets, of="the smallest MTU of the node's links")
    return mtu


def _ensure_node(host: Netlink, pod: Request, node: NodeConf, result: Result) -> None:
    with host_state.locked(pod.conf.name):
        records = read_peers(pod)
        peers_seen.note(pod.conf.name, peers=records.from_default_file)
        with step("look at the node"):
            peers = current_peers.peers_of(host, records, node)
        pods.settle_gateways(host, pod, node, result)
        reachability.ensure_forwarding(node, [node.bridge])
        problems = host_state.ensure_paths(host, peers.paths, device=0, within=node.cluster)
        host_state.ensure_rules(host, pod.conf.name, node, peers)
        with step("look at the node"):
            reachability.check_reach(host, node, result)
            problems += _not_forwarding(host, node, peers)
    current_peers.tell(pod, [*problems, *peers.left_out])


def _not_forwarding(host: Netlink, node: NodeConf, peers: Peers) -> list[str]:
    return reachability.not_forwarding(host, node, [node.bridge], [path.link for path in peers.paths])


def _peers(host: Netlink, request: Request, node: NodeConf) -> tuple[Peers, str]:
    return current_peers.peers_of(host, read_peers(request), node), ""


PLUGIN = Plugin(type="kubenet", add=add, delete=delete, check=check, gc=gc, status=status)
