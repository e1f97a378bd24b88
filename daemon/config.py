"""The daemon's configuration, /etc/slash24/slash24.toml, as values; `docs/slash24-node.md` lists every key."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, time
from functools import partial

from daemon import policy_config, toml_file
from daemon.policy_config import PolicyConf
from daemon.reader import Mistakes, Reader
from ipam import host_local
from nodes.registries.open import DEFAULT, TABLES, kind_of, open_registry
from plugins import bridge
from plugins.node import conf as node_conf
from plugins.node import tunnel
from plugins.node.conf import ipam_of
from plugins.node.records import check_subnets, parse_each
from spec.addresses import Address, canonical_ip, parse_cidr
from spec.config import NetConf, Section, absolute_path, wrong_value
from spec.errors import CNIError
from spec.identifiers import is_identifier
from spec.links import link_name
from state.files import read_file

CONFIG_FILE = "/etc/slash24/slash24.toml"
CONFLIST = "/etc/cni/net.d/10-slash24.conflist"
KUBENET, VXLAN, BRIDGE = "kubenet", "vxlan", "bridge"
MODES = (KUBENET, VXLAN, BRIDGE)

_LARGEST = 1 << 16  # bytes; a file with everything in it has some thousand
_LONGEST_LINE = 1 << 13  # characters; tomllib needs minutes for a key of 30,000 parts
_MOST = 100  # mistakes that are listed
_LENGTHS = {4: 24, 6: 64}
_LEASING = ("file", "etcd")
"""The registries that lease subnets unless they are told otherwise."""
_CONFLIST_VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
_NETWORK = 'a network like "10.244.0.0/16", without host bits'
_LONGEST_NAME = 253  # characters of a DNS name, which nodes of Kubernetes have
_LONGEST_NETWORK = 200  # characters; files are named after it
_BY_THE_DAEMON = {
    "type": 'it is the "mode"',
    "name": 'set "name" in [conflist]',
    "cniVersion": 'set "cniVersion" in [conflist]',
    "clusterCIDRs": 'set "cluster"',
    "podCIDRs": "the registry gives them",
    "podCIDR": "the registry gives them",
    "subnetFile": "the daemon writes it",
    "peers": "the registry has them",
    "peersFile": "the daemon writes it",
    "policyWait": 'set "policyWait" in [policy]',
    "prevResult": "the runtime sets it",
    "runtimeConfig": "the runtime sets it",
}
"""Keys of the plugins that must not be in the mode's table, and why."""


_CHECKED_ELSEWHERE = ("conflist.plugins[", *(f"{table}." for table in (*MODES, *TABLES.values())))


class ConfigError(Exception):
    """The configuration cannot be used; `mistakes` are sentences, each with the file and its line."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = tuple(mistakes)


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
    """The whole file. `mode`: one of MODES.

    `cluster`: the networks of all pods (CIDRs). `registry`: as in the file, such as "kubernetes" or "file:///folder".
    `node`: this node's name. `allocate`: lengths of the subnets to lease; () if the registry determines them.
    `exclude`: networks that are not leased. `plugin`: further keys of the main plugin, from the table that is named
    after the mode. `options`: the registry's table (see `nodes.registries.open.TABLES`). `policy`: the table [policy].
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
    policy: PolicyConf = field(default_factory=PolicyConf)


def read(path: str, environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration. Raises ConfigError with all mistakes."""
    config, mistakes = _read(path, environ)
    if mistakes or config is None:
        raise ConfigError(mistakes)
    return config


def check(path: str, environ: Mapping[str, str] = os.environ) -> list[str]:
    """A sentence for every mistake, such as `slash24.toml:12: "vni": expected ...`, in the order of lines."""
    return _read(path, environ)[1]


def _read(path: str, environ: Mapping[str, str]) -> tuple[Config | None, list[str]]:
    try:
        text = read_file(path, _LARGEST).decode()
    except OSError as error:
        return None, [f"{path}: cannot be read: {error.strerror}"]
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        return None, [f"{path}:{line}: expected UTF-8, got the byte 0x{error.object[error.start]:02x}"]
    for line, each in enumerate(text.split("\n"), 1):
        if len(each) > _LONGEST_LINE:
            return None, [f"{path}:{line}: expected at most {_LONGEST_LINE} characters in a line"]
    document = toml_file.parse(text.replace("\r\n", "\n"))
    mistakes = Mistakes()
    try:
        values = _plain(document.values, "", mistakes)
        config = _parse(Reader(values), mistakes, environ)
    except RecursionError:
        return None, [f"{path}:1: tables are nested too deeply"]
    found = list(document.errors)
    if mistakes.found:
        lines = toml_file.lines_of(document.text)
        for where, sentence in mistakes.found:
            # What a line with a syntax error has set is not missing.
            if not (document.errors and sentence.endswith("got nothing")):
                found.append((toml_file.line_of(lines, where), sentence))
    return config, _listed(path, found)


def _listed(path: str, found: Sequence[tuple[int, str]]) -> list[str]:
    in_order = sorted(found, key=lambda mistake: mistake[0])
    sentences = [f"{path}:{line}: {sentence}" for line, sentence in in_order]
    more = len(sentences) - _MOST
    return [*sentences[:_MOST], f"{path}: {more} more mistakes"] if more > 0 else sentences


def _plain(value: object, path: str, mistakes: Mistakes) -> object:
    """A value of TOML without what JSON lacks, which is noted: dates, infinities, integers of more than 64 bits."""
    if isinstance(value, dict):
        inside = {key: _plain(each, f"{path}.{key}" if path else key, mistakes) for key, each in value.items()}
        return {key: each for key, each in inside.items() if each is not None}
    if isinstance(value, list):
        return [_plain(each, f"{path}[{index}]", mistakes) for index, each in enumerate(value)]
    if isinstance(value, date | time) or (isinstance(value, float) and not math.isfinite(value)):
        mistakes.add(path, f'"{path}": expected a text, a number, true, false, a list or a table, got {value}')
        return None
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        mistakes.add(path, f'"{path}": expected an integer of at most 64 bits')
        return None
    return value


def _parse(section: Reader, mistakes: Mistakes, environ: Mapping[str, str]) -> Config:
    read = mistakes.read
    mode = read(partial(section.string, "mode", VXLAN, choices=MODES), VXLAN)
    cluster = _networks(section, "cluster", mistakes)
    registry = read(partial(_registry, section), "")
    kind = registry.partition("://")[0]
    config = Config(
        mode=mode,
        cluster=cluster,
        registry=registry,
        node=read(partial(_node, section, environ), ""),
        allocate=read(partial(_allocate, section, cluster, kind), ()),
        exclude=_networks(section, "exclude", mistakes),
        cluster_name=read(partial(_name, section, "clusterName"), ""),
        address=_address(_table(section, "address", mistakes), mistakes),
        conflist=_conflist(_table(section, "conflist", mistakes), mistakes),
        plugin=section.raw(mode) or {},
        options=section.raw(TABLES[kind]) or {} if kind else {},
        policy=_policy(section, kind, mistakes),
    )
    if kind in _LEASING and not section.has("cluster"):
        mistakes.note(section.error("cluster", 'the networks of all pods, such as ["10.244.0.0/16"]'))
    for unused in (*MODES, *TABLES.values()):
        _table(section, unused, mistakes)
    _check_plugin(config, mistakes)
    if kind:
        _check_options(config, TABLES[kind], mistakes)
    for path, sentence in section.unknown():
        if not path.lower().startswith(_CHECKED_ELSEWHERE):
            mistakes.add(path, f'"{path}" {sentence}')
    return config


def _policy(section: Reader, kind: str, mistakes: Mistakes) -> PolicyConf:
    table, is_given = _table(section, policy_config.TABLE, mistakes), section.has(policy_config.TABLE)
    return policy_config.read_policy(table, kind, mistakes, is_given=is_given)


def _table(section: Reader, key: str, mistakes: Mistakes) -> Reader:
    return mistakes.read(partial(section.section, key), Reader({}, key))


def _registry(section: Section) -> str:
    url = section.string("registry", DEFAULT)
    kind_of(url)
    return url


def _node(section: Section, environ: Mapping[str, str]) -> str:
    if section.has("node"):
        return _name(section, "node", required=True)
    for name in (environ.get("NODE_NAME", ""), os.uname().nodename):
        if _is_name(name):
            return name
    expected = "the name of this node, since neither $NODE_NAME nor the host's name can serve"
    raise section.error("node", expected)


def _name(section: Section, key: str, *, required: bool = False) -> str:
    name = section.string(key)
    if (name or required) and not _is_name(name):
        raise section.error(key, f"a name: at most {_LONGEST_NAME} letters, digits, dots, dashes and underscores")
    return name


def _is_name(text: str) -> bool:
    return is_identifier(text) and len(text) <= _LONGEST_NAME


def _networks(section: Section, key: str, mistakes: Mistakes) -> tuple[str, ...]:
    """The networks in a list, or a single one; those that are wrong or overlap an earlier one are noted."""
    raw = section.raw(key)
    if raw is not None and not isinstance(raw, str | list):
        mistakes.note(section.error(key, "a list of networks"))
        return ()
    found: list[Address] = []
    for index, value in enumerate([raw] if isinstance(raw, str) else raw or ()):
        where = section.path_of(key) if isinstance(raw, str) else f"{section.path_of(key)}[{index}]"
        network = _network(value)
        other = next((one for one in found if network and one.overlaps(network)), None)
        if network is None:
            mistakes.note(wrong_value(where, _NETWORK, value))
        elif other:
            mistakes.note(wrong_value(where, f"a network that does not overlap {other.cidr}", value))
        else:
            found.append(network)
    return tuple(network.cidr for network in found)


def _network(value: object) -> Address | None:
    """A network without host bits; None for everything else."""
    with suppress(ValueError):
        network = parse_cidr(value).unmapped if isinstance(value, str) else None
        return network if network and network.number == network.first else None
    return None


def _allocate(section: Section, cluster: tuple[str, ...], kind: str) -> tuple[int, ...]:
    """The lengths of the subnets to lease, checked against the networks that they are taken from."""
    widest = {}
    for network in map(parse_cidr, cluster):
        widest[network.version] = min(network.prefix, widest.get(network.version, 128))
    given = section.raw("allocate")
    if given is None:
        lengths = [_LENGTHS[version] for version in sorted(widest)] if kind in _LEASING else []
    else:
        lengths = given if isinstance(given, list) else [given]
        if not all(type(each) is int and (8 <= each <= 30 or 32 < each <= 126) for each in lengths):
            raise section.error("allocate", "lengths of subnets, such as [24, 64]: 8 to 30 of IPv4, 33 to 126 of IPv6")
    if lengths and kind.startswith("flannel"):
        raise section.error("allocate", "nothing, since flannel's configuration has the lengths")
    versions = [4 if each <= 32 else 6 for each in lengths]
    if len(set(versions)) < len(versions):
        raise section.error("allocate", "one length per address family")
    for version, length in zip(versions, lengths, strict=True):
        if cluster and widest.get(version, 129) > length:
            expected = f'lengths of subnets for which "cluster" has room; no IPv{version} network has for a /{length}'
            raise wrong_value("allocate", expected, given)
    return tuple(lengths)


def _address(section: Reader, mistakes: Mistakes) -> AddressConf:
    def ips() -> tuple[str, ...]:
        return parse_each(section, "ips", canonical_ip, 'an address like "192.0.2.1"')

    def interface() -> str:
        return link_name(section, "interface", "") if section.has("interface") else ""

    def network() -> str:
        if section.has("network") and _network(section.raw("network")) is None:
            raise section.error("network", _NETWORK)
        return _network(section.raw("network")).cidr if section.has("network") else ""

    if sum(map(section.has, ("interface", "network", "ips"))) > 1:
        mistakes.add("address", '"address": expected only one of "interface", "network" and "ips"')
    read = mistakes.read
    return AddressConf(read(interface, ""), read(network, ""), read(ips, ()))


def _conflist(section: Reader, mistakes: Mistakes) -> ConflistConf:
    def path() -> str:
        found = absolute_path(section, "path") or CONFLIST
        if not found.endswith(".conflist"):
            raise section.error("path", 'a path that ends with ".conflist", or runtimes ignore the file')
        return found

    def name() -> str:
        found = section.string("name", "slash24")
        if not is_identifier(found) or len(found) > _LONGEST_NETWORK:
            raise section.error("name", f"at most {_LONGEST_NETWORK} letters, digits, dots, dashes and underscores")
        return found

    read = mistakes.read
    plugins = read(partial(section.sections, "plugins"), ()) or ()
    for plugin in plugins:
        read(partial(_check_further, plugin), None)
    return ConflistConf(
        path=read(path, CONFLIST),
        cni_version=read(partial(section.string, "cniVersion", "1.0.0", choices=_CONFLIST_VERSIONS), "1.0.0"),
        name=read(name, "slash24"),
        plugins=tuple(section.raw("plugins") or ()) if plugins else (),
    )


def _check_further(plugin: Section) -> None:
    """Check what is known of a further plugin's keys. Raises CNIError 7."""
    kind = plugin.string("type")
    if not is_identifier(kind) or kind in MODES:
        raise plugin.error("type", 'the type of a plugin that is called after the main plugin, such as "portmap"')
    capabilities = plugin.section("capabilities")
    for key in capabilities.names():
        capabilities.boolean(key)
    for key in ("name", "cniVersion"):
        if plugin.has(key):
            raise plugin.error(key, f'nothing, since "{key}" of [conflist] is used')


def _check_plugin(config: Config, mistakes: Mistakes) -> None:
    """Check the main plugin's keys with its own parser."""
    given = config.plugin if isinstance(config.plugin, Mapping) else {}
    reserved = {key.lower(): (key, why) for key, why in _BY_THE_DAEMON.items()}
    own = {}
    for key, value in given.items():
        if key.lower() in reserved:
            mistakes.add(f"{config.mode}.{key}", f'"{key}" must not be set here: {reserved[key.lower()][1]}')
        else:
            own[key] = value
    # In place of the node's own, so that MTUs and ranges are compared with their families.
    by_family = {":" in network: network for network in config.cluster if _has_room(network)}
    subnets = tuple(by_family.values()) or ("192.0.2.0/24",)
    own |= {"name": config.conflist.name, "type": config.mode}
    own |= {} if config.mode == BRIDGE else {"podCIDRs": list(subnets)}
    if config.policy.enabled:
        own |= {"policyWait": config.policy.wait}
        completed = {"isDefaultGateway": True, "ipam": {"type": "host-local"}} if config.mode == BRIDGE else {}
        own = {**{key: value for key, value in completed.items() if not Section(own).mentions(key)}, **own}
    _check_keys(mistakes, config.mode, own, _PARSERS[config.mode], others=("ipam", "dns", "capabilities"))
    ipam = next((value for key, value in own.items() if key.lower() == "ipam"), {})
    if isinstance(ipam, Mapping) and Section(ipam).raw("type") in (None, "host-local"):
        completed = ipam_of(Section(own), subnets)
        _check_keys(mistakes, config.mode, {"ipam": completed}, host_local.check_section)


def _check_keys(
    mistakes: Mistakes,
    table: str,
    values: Mapping[str, object],
    parse: Callable[[Reader], object],
    others: Sequence[str] = (),
) -> None:
    """Note what a parser finds wrong in a table, and the keys that it does not read, except those in `others`."""
    reader = mistakes.all_of(values, parse, table)
    for path, sentence in reader.unknown() if reader else ():
        if path.partition(".")[0].lower() not in others:
            mistakes.add(f"{table}.{path}", f'"{path}" {sentence}')


def _has_room(network: str) -> bool:
    try:
        check_subnets((network,))
    except ValueError:
        return False
    return True


def _check_options(config: Config, table: str, mistakes: Mistakes) -> None:
    """Have the registry check its URL and its options."""

    is_opened = True

    def opened(options: Section) -> None:
        nonlocal is_opened
        try:
            open_registry(config.registry, config.node, options)
        except CNIError as error:
            if not error.msg.startswith('"registry"'):
                raise
            mistakes.note(error)
            is_opened = False

    options = config.options if isinstance(config.options, Mapping) else {}
    reader = mistakes.all_of(options, opened, table)
    for path, sentence in reader.unknown() if reader and is_opened else ():
        mistakes.add(f"{table}.{path}", f'"{path}" {sentence}')


def _parse_node(section: Section) -> None:
    node_conf.parse_section(section)
    NetConf.parse(section)


def _parse_tunnel(section: Section) -> None:
    _parse_node(section)
    tunnel.parse_section(section)


_PARSERS = {KUBENET: _parse_node, VXLAN: _parse_tunnel, BRIDGE: bridge.parse_section}
