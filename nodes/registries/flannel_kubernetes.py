"""flannel's registry in Kubernetes, "flannel+kubernetes": annotations of the Nodes; see `docs/registry-flannel.md`."""

from dataclasses import replace

from nodes import flannel
from nodes.registries.kubernetes.objects import NodeObject, plain_record
from nodes.registries.kubernetes.registry import KubernetesRegistry
from nodes.registry import Entry, Grant, RegistryError, Wish
from plugins.node.records import Node
from spec.addresses import canonical_ip
from spec.config import Section

_PREFIX = "flannel.alpha.coreos.com"


class FlannelKubernetesRegistry(KubernetesRegistry):
    """As the registry "kubernetes", with flannel's annotations in place of ours."""

    URL = "flannel+kubernetes"

    def __init__(self, url: str, node: str, options: Section) -> None:
        super().__init__(url, node, options)
        prefix = options.string("annotationPrefix", _PREFIX)
        # As flannel completes it (--kube-annotation-prefix).
        prefix = prefix if "/" in prefix else prefix + "/"
        self._prefix = prefix if prefix.endswith(("/", "-")) else prefix + "-"

    def lease(self, wish: Wish) -> Grant:
        """See Registry. The annotations by which flannel lets the operator set the addresses are used."""
        grant = super().lease(wish)
        found = self._annotations(self._own or self._ask(self._read_own))
        try:
            chosen = [canonical_ip(found[key]) for key in flannel.OVERWRITES if found[key]]
        except ValueError as error:
            raise RegistryError(f"an annotation of flannel of this node is wrong: {error}") from error
        return replace(grant, addresses=tuple(chosen)) if chosen else grant

    def publish(self, node: Node) -> None:
        """See Registry."""
        own = self._own or self._ask(self._read_own)
        try:
            wanted = flannel.write_annotations(replace(node, subnets=plain_record(own).subnets), node.vni)
        except ValueError as error:
            raise RegistryError(str(error)) from error
        current = self._annotations(own)
        if any(current[key] != value for key, value in wanted.items()):
            self._annotate({self._prefix + key: value for key, value in wanted.items()})

    def _entry(self, node: NodeObject) -> Entry:
        try:
            plain = plain_record(node)
            record = flannel.read_annotations(self._annotations(node), plain.subnets)
        except ValueError as error:
            return Entry(node.name, None, str(error))
        return Entry(node.name, replace(record, name=plain.name, zone=plain.zone, since=plain.since))

    def _annotations(self, node: NodeObject) -> dict[str, str]:
        """flannel's annotations of a Node, without the prefix."""
        return {key: node.annotation(self._prefix + key) for key in (*flannel.ANNOTATIONS, *flannel.OVERWRITES)}

    def _own_annotations(self) -> tuple[str, ...]:
        return tuple(self._prefix + key for key in flannel.ANNOTATIONS)
