"""Nodes with the nine pods of tests/policy/cluster.py, whose policies are files in a folder that the nodes share."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from daemon.policies.inbox import digest_of, key_of, text_of
from policy.documents import WrongDocument, read_document
from tests.netns.node import Pod, wait_until
from tests.policy import cluster as wanted
from tests.policy import model
from tests.system.daemons import CONFLIST, NETWORK, Cluster, Served, cluster_on
from tests.system.policy_matrix import Party, Probers, by_model
from tests.system.underlay import OUTSIDE, Underlay

DOCUMENTS = "/run/policies"
FIELDS = ("4", "6")
_IN_FORCE_SECONDS = 10

LAYOUTS = {
    "one node": (("left",), {"mode": "kubenet"}),
    "three nodes": (("left", "left", "right"), {"mode": "vxlan"}),
}
_ABSENT = {f"n{number}": (f"192.0.2.{200 + number}", f"2001:db8:1::{200 + number}") for number in (1, 2, 3)}


@dataclass
class PolicyCluster:
    """The nodes, the pods and others that are probed, and the documents without policies."""

    cluster: Cluster
    folder: Path
    parties: list[Party]
    probers: Probers
    base: list[Mapping]
    settings: model.Settings

    @property
    def nodes(self) -> list[Served]:
        """The nodes."""
        return self.cluster.nodes

    @property
    def addresses(self) -> dict[str, str]:
        """Names for documents: x_a_4 is the address of a pod, n1_4 of a node, outside_4; net1_4 a node's subnet."""
        found = {f"outside_{version}": address for version, address in zip(FIELDS, OUTSIDE, strict=True)}
        for one in self.base:
            if one["kind"] in ("Pod", "Node"):
                name = "_".join(filter(None, wanted.key_of(one)[1:]))
                ips = _ips(one)
                found |= {f"{name}_{6 if ':' in ip else 4}": ip for ip in ips}
        for place, one in enumerate(self.nodes, start=1):
            found |= {f"net{place}_{6 if ':' in subnet else 4}": subnet for subnet in one.subnets}
        return found

    def documents(self, more: Sequence[Mapping]) -> list[Mapping]:
        """The documents of the cluster with others, whose names of addresses are replaced."""
        return wanted.overlaid(self.base, wanted.filled(list(more), self.addresses))

    def enforce(self, documents: Sequence[Mapping], *, are_apart: bool = False) -> None:
        """Make the folder have exactly these documents, and wait until they are in force on all nodes.

        They are in one file, whose content changes; or, if they `are_apart`, each policy is in a file of its own, which
        takes longer: a file that is gone may come back within two seconds. Of a document that is wrong the last content
        would stay in force, so the others come first.
        """
        right = [one for one in documents if not _is_wrong(one)]
        if len(right) < len(documents):
            self.enforce(right, are_apart=are_apart)
        files: dict[str, list[str]] = {}
        for one in documents:
            is_apart = are_apart and one["kind"].endswith("Policy")
            files.setdefault(_file_name(one) if is_apart else "cluster.yaml", []).append(json.dumps(one))
        for name in [name for name in os.listdir(self.folder) if name not in files]:
            (self.folder / name).unlink()
        for name, parts in files.items():
            path, text = self.folder / name, "\n---\n".join(parts)
            if not path.exists() or path.read_text() != text:
                (self.folder / f".{name}.new").write_text(text)
                os.rename(self.folder / f".{name}.new", path)
        digests = dict(map(_digest, documents))
        for one in self.nodes:
            in_force = wait_until(lambda one=one: is_in_force(one, digests), timeout=_IN_FORCE_SECONDS)
            assert in_force, f"{one.name}: {one.daemon.page('policies')} {one.daemon.log}"

    def warm_up(self) -> None:
        """Wait until everybody reaches everybody that the configuration allows: new addresses may be tentative."""
        documents = self.documents([])
        self.enforce(documents)
        found: list[str] = []
        reached = wait_until(lambda: not found.append(self.differences(documents)) and not found[-1], timeout=30)
        assert reached, found[-1]

    def differences(self, documents: Sequence[Mapping]) -> str:
        """What the packets say that the model does not."""
        return self.probers.differences(by_model(self.probers, documents, self.settings))


def is_in_force(node: Served, digests: Mapping[str, str]) -> bool:
    """Whether a node enforces exactly these documents, and has cut the connections that they do not allow."""
    status, text = node.daemon.page("policies/documents")
    page = json.loads(text) if status == 200 else {}
    return page.get("complete", False) and page["documents"] == digests and not page["cutting"]


def _digest(document: Mapping) -> tuple[str, str]:
    """What the daemon's page has for a document: its name and digest."""
    try:
        item = read_document(document)
    except WrongDocument as wrong:
        item = wrong.item  # in force as far as it can be read
    return text_of(key_of(item)), digest_of(item)


def _is_wrong(document: Mapping) -> bool:
    try:
        read_document(document)
    except WrongDocument:
        return True
    return False


def _file_name(document: Mapping) -> str:
    return "-".join(filter(None, wanted.key_of(document))).lower() + ".json"


def _ips(document: Mapping) -> list[str]:
    status = document.get("status", {})
    listed = [one["ip"] for one in status.get("podIPs", ())]
    return listed + [one["address"] for one in status.get("addresses", ()) if one["type"] == "InternalIP"]


def add_pod(node: Served, namespace: str, name: str, **options: object) -> Pod:
    """Add a pod with a namespace and a name to a node, as a kubelet does; CHECK it. `options`: as for Cnitool.run."""
    pod = node.node.pod(f"{namespace}-{name}")
    pod.run(["ip", "link", "set", "lo", "up"])
    args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={pod.name}"
    node.results[pod.name] = node.tool.ok("add", NETWORK, pod, args=args, **options)
    return pod


def pods_of(nodes: Sequence[Served]) -> Iterator[tuple[Party, Mapping]]:
    """The nine pods, each namespace spread over the nodes, and their documents."""
    for namespace in wanted.NAMESPACES:
        for number, name in enumerate(wanted.PODS):
            node = nodes[number % len(nodes)]
            pod = add_pod(node, namespace, name)
            ips = {version: node.address(pod, version) for version in (4, 6)}
            document = wanted.pod(namespace, name, ips=list(ips.values()), node=node.name)
            yield Party(f"{namespace}/{name}", model.Pod(namespace, name), pod, ips), document


def others(cluster: Cluster) -> Iterator[Party]:
    """The nodes, and a host outside that has routes to the pods."""
    for one in cluster.nodes:
        yield Party(one.name, model.Node(one.name), one.node, dict(zip((4, 6), one.addresses, strict=True)))
        for subnet in one.subnets:
            address = one.addresses[":" in subnet]
            cluster.underlay.fabric.run(["ip", "route", "add", subnet, "via", address])
    outside = dict(zip((4, 6), OUTSIDE, strict=True))
    yield Party("outside", model.Outside(OUTSIDE[0]), cluster.underlay.outside, outside)


@contextmanager
def policy_cluster(
    layout: str,
    folder: Path,
    bin_dir: Path,
    reference_bin: Path,
    *,
    policy: Mapping | None = None,
    settings: model.Settings = model.DEFAULTS,
    plugins: Sequence[Mapping] = (),
    more: Callable[[Cluster], Iterable[Party]] = lambda _: (),
) -> Iterator[PolicyCluster]:
    """The cluster of a layout, without policies.

    `policy`: further keys of the table [policy], and what they mean to the model; `plugins`: chained ones; `more`:
    makes further parties, before there are probers.
    """
    links, config = LAYOUTS[layout]
    registry, documents = folder / "registry", folder / "policies"
    registry.mkdir()
    documents.mkdir()
    with ExitStack() as stack:
        underlay = Underlay(bin_dir)
        stack.callback(underlay.close)
        cluster = stack.enter_context(cluster_on(underlay, registry, bin_dir, reference_bin))
        for link in links:
            member = underlay.join(link)
            member.node.run(["mkdir", DOCUMENTS])
            member.node.run(["mount", "--bind", documents, DOCUMENTS])
            conflist = {"path": CONFLIST, "plugins": list(plugins)} if plugins else {"path": CONFLIST}
            cluster.serve(member, **config, conflist=conflist, policy={"documents": DOCUMENTS, **(policy or {})})
        cluster.settle()
        added = list(pods_of(cluster.nodes))
        parties = [party for party, _ in added] + list(others(cluster)) + list(more(cluster))
        probers = Probers(parties)
        stack.callback(probers.close)
        base = [wanted.namespace(name) for name in wanted.NAMESPACES] + [document for _, document in added]
        ips = _ABSENT | {one.name: one.addresses for one in cluster.nodes}
        base += [wanted.node(name, ips[name]) for name in wanted.NODES]
        made = PolicyCluster(cluster, documents, parties, probers, base, settings)
        made.warm_up()
        yield made
