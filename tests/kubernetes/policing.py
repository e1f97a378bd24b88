"""Policies in the cluster: what the API has, whether the daemons enforce it, and pods that probe each other."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product

from daemon.policies.inbox import digest_of, key_of, text_of
from policy.documents import KINDS, read_document
from policy.sources.kubernetes import RESOURCES
from tests.kubernetes.apiserver import MERGE, ApiServer, Refused
from tests.kubernetes.cluster import AGNHOST, Cluster
from tests.kubernetes.machine import KubernetesNode
from tests.kubernetes.workload import over_http
from tests.netns.node import wait_until
from tests.policy import cluster as wanted
from tests.policy import model
from tests.system.policy_matrix import Party, Probe, Probers, by_model
from tests.system.underlay import OUTSIDE

PATHS = {each.kind: each.path for each in RESOURCES}
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
CRD = "clusternetworkpolicies.policy.networking.k8s.io"
POLICIES = ("NetworkPolicy", "ClusterNetworkPolicy")
SERVICE, SERVICE_PORT, HOST_PORT = "front", 8080, 9080
TARGET = "x/a"
"""The only pod behind the Service, whose port 80 is a port of its node, too."""

_PAGES, _IN_FORCE_SECONDS = 9325, 30
_PLACES = {"n1": "a", "n2": "b", "n3": "c"}
"""The nodes of tests/policy, and what they are called here."""

Document = Mapping
Key = tuple[str, str, str]


def page(node: KubernetesNode, name: str) -> dict:
    """A page of a node's daemon that is JSON; {} while there is none."""
    try:
        return json.loads(over_http(node, "127.0.0.1", _PAGES, f"/{name}") or "{}")
    except (OSError, json.JSONDecodeError):
        return {}


def listed(api: ApiServer, kind: str) -> list[dict]:
    """All objects of a kind; none if the API does not have the kind."""
    try:
        found = api.request("GET", PATHS[kind])
    except Refused:
        return []
    return [{"apiVersion": found["apiVersion"], "kind": kind, **one} for one in found["items"]]


def path_of(key: Key) -> str:
    """The path of an object in the API."""
    kind, namespace, name = key
    base, _, plural = PATHS[kind].rpartition("/")
    return "/".join(filter(None, (base, *(("namespaces", namespace) if namespace else ()), plural, name)))


def make_crd(api: ApiServer) -> None:
    """Install a CRD that takes any ClusterNetworkPolicy."""
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    group, version = KINDS["ClusterNetworkPolicy"].split("/")
    body = {
        "metadata": {"name": CRD, "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"}},
        "spec": {
            "group": group,
            "scope": "Cluster",
            "names": {"kind": "ClusterNetworkPolicy", "plural": CRD.partition(".")[0], "listKind": "PolicyList"},
            "versions": [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": anything}}],
        },
    }
    api.request("POST", CRDS, body)


def is_served(api: ApiServer, path: str) -> bool:
    """Whether the API has a resource."""
    try:
        api.request("GET", path)
    except Refused:
        return False
    return True


def put_policies(api: ApiServer, policies: Sequence[Document]) -> None:
    """Make the API have exactly these policies."""
    there = {wanted.key_of(one): one for kind in POLICIES for one in listed(api, kind)}
    keys = [wanted.key_of(one) for one in policies]
    for key in there.keys() - set(keys):
        api.request("DELETE", path_of(key))
    for key, one in zip(keys, policies, strict=True):
        if key in there:
            version = there[key]["metadata"]["resourceVersion"]
            changed = {**one, "metadata": {**one["metadata"], "resourceVersion": version}}
            api.request("PUT", path_of(key), changed)
        else:
            api.request("POST", path_of((*key[:2], "")), one)


def put_labels(api: ApiServer, documents: Iterable[Document]) -> None:
    """Give Namespaces and Pods of the API the labels of these documents, and make missing Namespaces."""
    there = {wanted.key_of(one): one for kind in ("Namespace", "Pod") for one in listed(api, kind)}
    for one in documents:
        key, labels = wanted.key_of(one), one["metadata"]["labels"]
        if key not in there:
            api.request("POST", path_of((*key[:2], "")), one)
            continue
        found = there[key]["metadata"].get("labels", {})
        fixed = {name: value for name, value in found.items() if name == model.NAME_LABEL}
        if found != {**fixed, **labels}:
            changed = {**dict.fromkeys(found.keys() - fixed.keys()), **labels}
            api.request("PATCH", path_of(key), {"metadata": {"labels": changed}}, kind=MERGE)


def await_force(cluster: Cluster, nodes: Iterable[KubernetesNode] = ()) -> None:
    """Wait until the daemons enforce all policies that the API has, for all Namespaces and for the pods of tests."""
    documents = [one for kind in (*POLICIES, "Namespace") for one in listed(cluster.api, kind)]
    documents += [one for one in listed(cluster.api, "Pod") if one["metadata"]["namespace"] in wanted.NAMESPACES]
    items = [read_document(one) for one in documents]
    digests = {text_of(key_of(item)): digest_of(item) for item in items}
    for node in nodes or cluster.nodes.values():
        in_force = wait_until(lambda node=node: _enforced(node, digests) == digests, timeout=_IN_FORCE_SECONDS)
        assert in_force, f"{node.name}: {page(node, 'policies')}"


def _enforced(node: KubernetesNode, digests: Mapping[str, str]) -> dict[str, str]:
    """What a node enforces of these, and any other policy; nothing while it still ends connections."""
    found = page(node, "policies/documents")
    if not found.get("complete") or found["cutting"]:
        return {}
    return {
        name: digest
        for name, digest in found["documents"].items()
        if name in digests or name.partition("/")[0] in POLICIES
    }


@dataclass
class Policed:
    """The pods of tests/policy/cluster.py in the cluster, the nodes and a host outside, which probe each other."""

    cluster: Cluster
    parties: list[Party]
    probers: Probers
    services: Mapping[int, str]

    @property
    def addresses(self) -> dict[str, str]:
        """Names for documents, as those of tests/system/policy_cluster.py."""
        found = {f"outside_{version}": address for version, address in zip((4, 6), OUTSIDE, strict=True)}
        for party in self.parties:
            if party.is_pod:
                name = party.name.replace("/", "_")
                found |= {f"{name}_{version}": address for version, address in party.addresses.items()}
        subnets = self.cluster.pod_cidrs()
        for name, place in _PLACES.items():
            found |= dict(zip((f"{name}_4", f"{name}_6"), self.cluster.addresses(place), strict=True))
            found |= {f"net{name[1:]}_{6 if ':' in one else 4}": one for one in subnets[place]}
        return found

    def enforce(self, step: Sequence[Document]) -> None:
        """Make the API have these documents, apart from those of the cluster, and wait until all nodes enforce them."""
        step = wanted.filled(list(step), self.addresses)
        base = [wanted.namespace(name) for name in wanted.NAMESPACES]
        base += [wanted.pod(namespace, name) for namespace, name in product(wanted.NAMESPACES, wanted.PODS)]
        labelled = wanted.overlaid(base, [one for one in step if one["kind"] not in POLICIES])
        put_labels(self.cluster.api, labelled)
        put_policies(self.cluster.api, [one for one in step if one["kind"] in POLICIES])
        await_force(self.cluster)

    def documents(self) -> list[Document]:
        """What the API has, and policies are about."""
        found = [one for kind in PATHS for one in listed(self.cluster.api, kind)]
        return [one for one in found if one["kind"] != "Pod" or one["metadata"]["namespace"] in wanted.NAMESPACES]

    def differences(self) -> str:
        """What the packets say that the model does not, between all parties and to the Service and the host port."""
        expect = by_model(self.probers, self.documents())
        meant = {one: one for one in self.probers.everything()} | dict(self._translated())
        return self.probers.differences(lambda probe: expect(meant[probe]), list(meant))

    def _translated(self) -> Iterator[tuple[Probe, Probe]]:
        """Probes to the Service and to the host port; and what the model is to be asked instead.

        Nodes come to the Service by the address that they use towards the pod, as kube-proxy masquerades them.
        Pods of other nodes come to the host port by that of their node, as they leave the cluster's network.
        """
        target = next(one for one in self.parties if one.name == TARGET)
        place = _place(target)
        near = {one.name for one in self.parties if not one.is_pod or _place(one) == place}
        for source, version in product(self.parties, (4, 6)):
            if source.name != "outside":
                for kind in (model.TCP, model.UDP):
                    probe = Probe(source, target, kind, SERVICE_PORT, version, self.services[version])
                    yield probe, replace(probe, port=80, address=target.addresses[version])
            if source.name in near:
                address = self.cluster.addresses(place)[version == 6]
                probe = Probe(source, target, model.TCP, HOST_PORT, version, address)
                yield probe, replace(probe, port=80)


def _place(pod: Party) -> str:
    """The node of a pod: that of the pod's name, so that every namespace has one on each."""
    return pod.name.partition("/")[2]


def _manifests() -> Iterator[dict]:
    """The namespaces, the pods and the Service."""
    for name in wanted.NAMESPACES:
        yield wanted.namespace(name)
    for namespace in wanted.NAMESPACES:
        for name in wanted.PODS:
            made = wanted.pod(namespace, name)
            (container,) = made["spec"]["containers"]
            container |= {"image": AGNHOST, "command": ["/agnhost", "pause"]}
            if f"{namespace}/{name}" == TARGET:
                container["ports"] = [
                    one | ({"hostPort": HOST_PORT} if one["name"] == "web" else {}) for one in container["ports"]
                ]
            made["spec"] |= {"nodeSelector": {"kubernetes.io/hostname": name}}
            made["spec"] |= {"terminationGracePeriodSeconds": 0}
            yield made
    ports = [
        {"name": kind.lower(), "port": SERVICE_PORT, "targetPort": 80, "protocol": kind} for kind in ("TCP", "UDP")
    ]
    spec = {"ipFamilyPolicy": "RequireDualStack", "ports": ports}
    yield {"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "x", "name": SERVICE}, "spec": spec}


def _point(cluster: Cluster, addresses: Mapping[int, str]) -> None:
    """Make the Service lead to these addresses: labels of pods change during the tests, so it has no selector."""
    for version, address in addresses.items():
        slices = "/apis/discovery.k8s.io/v1/namespaces/x/endpointslices"
        labels = {"kubernetes.io/service-name": SERVICE}
        ports = [{"name": kind.lower(), "port": 80, "protocol": kind} for kind in ("TCP", "UDP")]
        body = {
            "metadata": {"name": f"{SERVICE}-{version}", "labels": labels},
            "addressType": f"IPv{version}",
            "ports": ports,
            "endpoints": [
                {"addresses": [address], "nodeName": TARGET.partition("/")[2], "conditions": {"ready": True}}
            ],
        }
        cluster.api.request("POST", slices, body)


def _pod_party(cluster: Cluster, item: Mapping) -> Party:
    namespace, name = item["metadata"]["namespace"], item["metadata"]["name"]
    node, status = cluster.nodes[item["spec"]["nodeName"]], item["status"]
    addresses = {6 if ":" in one["ip"] else 4: one["ip"] for one in status["podIPs"]}
    host = node.pod(status["containerStatuses"][0]["containerID"])
    return Party(f"{namespace}/{name}", model.Pod(namespace, name), host, addresses)


def _others(cluster: Cluster) -> Iterator[Party]:
    for name, node in cluster.nodes.items():
        yield Party(name, model.Node(name), node, dict(zip((4, 6), cluster.addresses(name), strict=True)))
    yield Party("outside", model.Outside(OUTSIDE[0]), cluster.underlay.outside, dict(zip((4, 6), OUTSIDE, strict=True)))


def _routes(cluster: Cluster, change: str) -> None:
    """Add or delete ("add", "del") the routes from outside to pods."""
    for name, subnets in cluster.pod_cidrs().items():
        for subnet in subnets:
            address = cluster.addresses(name)[":" in subnet]
            cluster.underlay.fabric.run(["ip", "route", change, subnet, "via", address])


@contextmanager
def policed(cluster: Cluster) -> Iterator[Policed]:
    """Nine pods on three nodes, without policies; everybody reaches everybody."""
    cluster.apply(*_manifests())
    for namespace in wanted.NAMESPACES:
        cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pods", "--all", "--timeout=90s")
    for name, place in _PLACES.items():
        labels = [f"{key}={value}" for key, value in wanted.NODES[name].items()]
        cluster.kubectl("label", "node", place, *labels)
    _routes(cluster, "add")
    items = [one for one in listed(cluster.api, "Pod") if one["metadata"]["namespace"] in wanted.NAMESPACES]
    parties = [*(_pod_party(cluster, item) for item in items), *_others(cluster)]
    _point(cluster, next(one.addresses for one in parties if one.name == TARGET))
    service = cluster.get("service", "-n", "x", SERVICE)["spec"]["clusterIPs"]
    probers = Probers(parties)
    try:
        made = Policed(cluster, parties, probers, {6 if ":" in one else 4: one for one in service})
        made.enforce([])
        found: list[str] = []
        reached = wait_until(lambda: not found.append(made.differences()) and not found[-1], timeout=60)
        assert reached, found[-1]
        yield made
    finally:
        probers.close()
        put_policies(cluster.api, [])
        _routes(cluster, "del")
        for name, place in _PLACES.items():
            cluster.kubectl("label", "node", place, *(f"{key}-" for key in wanted.NODES[name]))
        cluster.kubectl("delete", "namespace", "--timeout=90s", *wanted.NAMESPACES)
