"""From objects and the attached pods of this node to what is in force here, change by change."""

from collections.abc import Iterable, Mapping, Sequence

from policy.compiled import Compiled, Delta
from policy.objects import ClusterNode, LocalPod, Namespace, Pod, PodPeer, Policy

Object = Pod | Namespace | ClusterNode | Policy


class Engine:
    """What policies come to on a node. For one thread; `compiled` may be read by others once they hold it.

    `needs_pods`: an attached pod is decided only when its Pod is known, with the UID that its ADD was told, and its
    Namespace; without, a pod whose Pod is not known has no labels. `metadata_exceptions`: pods that may reach the
    metadata service. `node`: the name of this node.
    """

    def __init__(self, *, needs_pods: bool, metadata_exceptions: Sequence[PodPeer] = (), node: str = "") -> None:
        self._needs_pods = needs_pods
        self._exceptions = tuple(metadata_exceptions)
        self._node = node

    def put(self, value: Object) -> None:
        """Add an object, or replace the one of its kind with its namespace and name."""
        raise NotImplementedError

    def remove(self, kind: str, namespace: str, name: str) -> None:
        """Remove an object; one that is not there is success. `namespace`: "" for objects without.

        `kind`: "Pod", "Namespace", "Node" (or "ClusterNode"), "NetworkPolicy", "ClusterNetworkPolicy". Raises
        ValueError: another kind. A decided pod of this node keeps its labels, if pods are needed.
        """
        raise NotImplementedError

    def replace(self, values: Iterable[Object]) -> None:
        """Make these all the objects that there are."""
        raise NotImplementedError

    def put_local(self, local: LocalPod) -> None:
        """Add an attached pod of this node, or replace what was said of the same owner."""
        raise NotImplementedError

    def remove_local(self, owner: str) -> None:
        """Remove an attached pod by the tag of its owner; one that is not there is success."""
        raise NotImplementedError

    def take(self) -> Delta:
        """What has changed since the last take."""
        raise NotImplementedError

    @property
    def compiled(self) -> Compiled:
        """Everything, as of the last take. Not touched by later changes."""
        raise NotImplementedError

    def name_of(self, address: str) -> str:
        """The "namespace/name" of the pod with a canonical address, for people; "" if there is none."""
        raise NotImplementedError

    def undecided(self) -> tuple[LocalPod, ...]:
        """The attached pods that are not known yet, and so are held."""
        raise NotImplementedError

    def on_node(self) -> tuple[Pod, ...]:
        """The Pods whose `node` is this node, but those on its own network."""
        raise NotImplementedError

    def counts(self) -> Mapping[str, int]:
        """How many of each kind there are: "Pod", "Namespace", "Node", "NetworkPolicy", "ClusterNetworkPolicy".

        Also "LocalPod", attached pods of this node.
        """
        raise NotImplementedError


def compile_all(
    objects: Iterable[Object],
    locals_: Iterable[LocalPod],
    *,
    needs_pods: bool,
    metadata_exceptions: Sequence[PodPeer] = (),
    last: Mapping[str, Pod] | None = None,
) -> Compiled:
    """The same from nothing, without the Engine's own ways, to compare it with.

    Of several that claim an address the last wins. `last`: by owner, the Pod as which it was last known.
    """
    raise NotImplementedError
