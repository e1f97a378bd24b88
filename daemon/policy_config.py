"""The table [policy] of the daemon's configuration, as a value; `docs/slash24-node.md` lists every key."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from daemon.reader import Mistakes, Reader
from nodes.registries.open import TABLES
from policy.objects import IN, PodPeer, Requirement, Selector
from policy.settings import PROTOCOLS, NodePorts, Settings
from spec.config import Section, absolute_path, wrong_value

TABLE = "policy"
FOLDER = "/etc/slash24/policies"
"""The folder of documents, unless the configuration names another one or the API has them."""

ALLOW, DENY = "allow", "deny"
_ALL = "all"
_LONGEST_WAIT, _LARGEST_GROUP, _LARGEST_PORT = 60, 65535, 65535
_PORTS = '"all", or a list of ports like "tcp/53" and "udp/30000-32767" (tcp, udp or sctp, 1 to 65535)'


@dataclass(frozen=True)
class PolicyConf:
    """The table [policy].

    `documents`: the folder of documents, "" if they are those of the Kubernetes API. `wait`: how many seconds an ADD
    waits at most until the pod's policies are in force. `keeps_connections`: those that a changed policy no longer
    allows go on. `denies_metadata`: pods do not reach the metadata service, except `metadata_exceptions`.
    `node_access`: the ports of their own node that pods reach, None: all. `logs`: denied packets are logged, by the
    nflog group `log_group`.
    """

    enabled: bool = False
    documents: str = FOLDER
    wait: int = 5
    keeps_connections: bool = False
    denies_metadata: bool = False
    metadata_exceptions: tuple[PodPeer, ...] = ()
    node_access: tuple[NodePorts, ...] | None = None
    logs: bool = False
    log_group: int = 24

    @property
    def settings(self) -> Settings:
        """What the rules that are the same for all pods need of it."""
        return Settings(self.denies_metadata, self.node_access, self.log_group if self.logs else None)


def read_policy(section: Reader, kind: str, mistakes: Mistakes, *, is_given: bool) -> PolicyConf:
    """The table; what is wrong is noted.

    `kind`: of the registry, "" if it is not known. `is_given`: whether the configuration has the table.
    """
    read = mistakes.read
    return PolicyConf(
        enabled=read(partial(section.boolean, "enabled", is_given or kind == "kubernetes"), otherwise=False),
        documents=read(partial(_documents, section, kind), FOLDER),
        wait=read(partial(section.integer, "policyWait", 5, low=0, high=_LONGEST_WAIT), 5),
        keeps_connections=read(partial(section.boolean, "keepConnections"), otherwise=False),
        denies_metadata=read(partial(section.string, "metadataAccess", ALLOW, choices=(ALLOW, DENY)), ALLOW) == DENY,
        metadata_exceptions=read(partial(_exceptions, section), ()),
        node_access=read(partial(_node_access, section), None),
        logs=read(partial(section.boolean, "log"), otherwise=False),
        log_group=read(partial(section.integer, "logGroup", 24, low=0, high=_LARGEST_GROUP), 24),
    )


def _documents(section: Section, kind: str) -> str:
    """The folder; "" for the API."""
    has_api = TABLES.get(kind) == "kubernetes"
    if section.has("documents") and kind == "kubernetes":
        raise section.error("documents", "nothing, since the Kubernetes API has the policies")
    return absolute_path(section, "documents") or ("" if has_api else FOLDER)


def _exceptions(section: Section) -> tuple[PodPeer, ...]:
    """The pods that reach the metadata service nevertheless: each entry has a namespace, and labels if it likes."""
    return tuple(_exception(each) for each in section.sections("metadataExceptions") or ())


def _exception(entry: Section) -> PodPeer:
    namespace, labels = entry.string("namespace"), entry.raw("labels")
    if not namespace:
        raise entry.error("namespace", "the name of a namespace")
    if labels is None:
        labels = {}
    if not isinstance(labels, Mapping):
        raise entry.error("labels", 'a table of labels, like {app = "y"}')
    for key, value in labels.items():
        if not isinstance(value, str):
            raise wrong_value(f"{entry.path_of('labels')}.{key}", "a string", value)
    requirements = tuple(Requirement(key, IN, (value,)) for key, value in sorted(labels.items()))
    return PodPeer(Selector(requirements), None, namespace)


def _node_access(section: Section) -> tuple[NodePorts, ...] | None:
    """The ports, None for all."""
    raw = section.raw("nodeAccess")
    if raw is None or raw == _ALL:
        return None
    if not isinstance(raw, list):
        raise section.error("nodeAccess", _PORTS)
    return tuple(_ports(f"{section.path_of('nodeAccess')}[{index}]", value) for index, value in enumerate(raw))


def _ports(path: str, value: object) -> NodePorts:
    protocol, _, numbers = value.partition("/") if isinstance(value, str) else ("", "", "")
    first, dash, last = numbers.partition("-")
    ends = [first, last] if dash else [first, first]
    if protocol not in PROTOCOLS or not all(end.isascii() and end.isdigit() and len(end) <= 5 for end in ends):
        raise wrong_value(path, 'a port or ports like "tcp/53" or "udp/30000-32767"', value)
    low, high = map(int, ends)
    if not 1 <= low <= high <= _LARGEST_PORT:
        raise wrong_value(path, f"ports of 1 to {_LARGEST_PORT}, the lower one first", value)
    return NodePorts(PROTOCOLS[protocol], low, high)
