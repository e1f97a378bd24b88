"""The daemon's configuration, /etc/slash24/slash24.toml, as values; `docs/slash24-node.md` lists every key."""

from collections.abc import Mapping
from dataclasses import dataclass, field

CONFIG_FILE = "/etc/slash24/slash24.toml"
CONFLIST = "/etc/cni/net.d/10-slash24.conflist"


@dataclass(frozen=True)
class AddressConf:
    """How the others reach this node: at most one of a link's name, a network (CIDR), and addresses."""

    interface: str = ""
    network: str = ""
    ips: tuple[str, ...] = ()


@dataclass(frozen=True)
class ConflistConf:
    """The network configuration list that is written for runtimes: its path, its version, its further plugins."""

    path: str = CONFLIST
    cni_version: str = "1.0.0"
    name: str = "slash24"
    plugins: tuple[Mapping[str, object], ...] = ()


@dataclass(frozen=True)
class Config:
    """The whole file. `mode`: "kubenet", "vxlan" or "bridge".

    `cluster`: the networks of all pods (CIDRs). `registry`: as in the file, such as "kubernetes" or "file:///folder".
    `node`: this node's name. `allocate`: lengths of the subnets to lease. `exclude`: networks that are not leased.
    `plugin`: further keys of the main plugin, from the table that is named after the mode. `options`: the table of the
    registry, which is named after its scheme.
    """

    mode: str
    cluster: tuple[str, ...]
    registry: str
    node: str
    allocate: tuple[int, ...] = ()
    exclude: tuple[str, ...] = ()
    cluster_name: str = ""
    address: AddressConf = AddressConf()
    conflist: ConflistConf = ConflistConf()
    plugin: Mapping[str, object] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)
