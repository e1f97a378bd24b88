"""Opens the registry that the configuration names. Its module is imported only then: a client library takes megabytes.

| `registry` of the configuration | table with its options |
|---|---|
| "file:///folder" | [file] |
| "etcd://host:port,.../prefix" | [etcd] |
| "kubernetes" | [kubernetes] |
| "flannel+etcd://host:port,.../prefix" | [etcd] |
| "flannel+kubernetes" | [kubernetes] |
"""

from nodes.registry import Registry
from spec.config import Section, wrong_value

DEFAULT = "file:///var/lib/slash24/nodes"
TABLES = {
    "file": "file",
    "etcd": "etcd",
    "kubernetes": "kubernetes",
    "flannel+etcd": "etcd",
    "flannel+kubernetes": "kubernetes",
}
"""The kinds of registries, and the table of the configuration that has the options of each."""


def kind_of(url: str) -> str:
    """The kind of registry that a text such as "etcd://192.0.2.1:2379" or "kubernetes" names; a key of TABLES.

    Raises CNIError 7.
    """
    kind, _, _ = url.partition("://")
    if kind not in TABLES:
        expected = (
            '"kubernetes", "etcd://HOST:PORT,...", "file:///FOLDER", "flannel+kubernetes" or "flannel+etcd://..."'
        )
        raise wrong_value("registry", expected, url)
    return kind


def open_registry(url: str, node: str, options: Section) -> Registry:
    """The registry at `url`, for the node of that name; `options`: the table of the configuration (see TABLES).

    No I/O. Raises CNIError 7 if a part of the URL or an option is wrong.
    """
    match kind_of(url):
        case "file":
            from nodes.registries.file import FileRegistry as Opened
        case "etcd":
            from nodes.registries.etcd import EtcdRegistry as Opened
        case "kubernetes":
            from nodes.registries.kubernetes.registry import KubernetesRegistry as Opened
        case "flannel+etcd":
            from nodes.registries.flannel_etcd import FlannelEtcdRegistry as Opened
        case _:
            from nodes.registries.flannel_kubernetes import FlannelKubernetesRegistry as Opened
    return Opened(url, node, options)
