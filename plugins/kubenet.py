"""`kubenet`: every node owns a subnet, pods are ports of its bridge, the other nodes' subnets are routes.

What kubenet was to the kubelet until Kubernetes 1.24, as a plugin that any runtime can call. `docs/kubenet.md` has
every key.
"""

from collections.abc import Sequence

from linux import overlay
from linux.errors import step
from linux.netlink import Netlink
from plugins.node import pods, state, ways
from plugins.node.conf import NodeConf, parse, read_peers, telling_status
from plugins.node.mtu import smallest_mtu
from plugins.node.records import Node
from plugins.undo import Undo
from spec.delegate import delegate
from spec.errors import CNIError, Code
from spec.plugin import Plugin
from spec.request import Request
from spec.result import Result


def add(request: Request) -> Result:
    """ADD: the pod, and the node as it should be. Raises CNIError, with the pod taken away again."""
    from plugins.pod.add import add_pod

    node = parse(request)
    pod = pods.with_ipam(request, node.subnets)
    with Netlink() as host, Undo() as undo:
        with step("find the MTU"):
            mtu = node.mtu or smallest_mtu(host, node.bridge)
        pods.undo_bridge(host, node.bridge, undo)
        result = add_pod(pod, pods.pod_conf(pod, node, mtu))
        undo.push(lambda: delete(request))
        _ensure_node(host, pod, node, result)
        undo.keep()
    return result


def delete(request: Request) -> None:
    """DEL: never fails for the configuration or the files, which may have been changed since the ADD."""
    pods.delete(request)


def check(request: Request) -> None:
    """CHECK: the pod, and the node."""
    from plugins.pod.check import check_pod

    node = parse(request)
    pod = pods.with_ipam(request, node.subnets)
    check_pod(pod, pods.pod_conf(pod, node, node.mtu))
    peers = read_peers(request, node)
    with Netlink() as host, step("look at the node"):
        wrong = state.ways_missing(host, _ways(host, node, peers), device=0)
        wrong += state.missing_rules(host, request.conf.name, node, peers)
    if wrong:
        raise CNIError(Code.INTERNAL, wrong[0], "; ".join(wrong[1:]))


def gc(request: Request) -> None:
    """GC: what belongs to pods that the runtime no longer knows, and gateways that nobody uses any more."""
    pods.sweep(request)


def status(request: Request) -> None:
    """STATUS: ready if the node has a subnet and IPAM is ready."""

    def begin() -> None:
        node = parse(request)
        read_peers(request, node)
        pod = pods.with_ipam(request, node.subnets)
        delegate(pod, "STATUS", pod.conf.ipam_type)

    telling_status(begin)


def _ensure_node(host: Netlink, pod: Request, node: NodeConf, result: Result) -> None:
    with state.locked(pod.conf.name):
        peers = read_peers(pod, node)
        wanted = _ways(host, node, peers)
        pods.settle_gateways(host, pod, node, result)
        state.ensure_ways(host, wanted, device=0, within=node.cluster)
        state.ensure_rules(host, pod.conf.name, node, peers)


def _ways(host: Netlink, node: NodeConf, peers: Sequence[Node]) -> list[overlay.Way]:
    addresses, bridge = state.apart_from_bridge(host, node.bridge)
    return ways.direct_ways(peers, ways.Links(addresses, apart_from=bridge))


PLUGIN = Plugin(type="kubenet", add=add, delete=delete, check=check, gc=gc, status=status)
