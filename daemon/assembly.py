"""Builds the loop of the daemon, and what it works with, of the configuration."""

import time
from collections.abc import Mapping, Sequence
from threading import Thread

from agent.log import WARNING, Log
from daemon import conflist
from daemon.config import BRIDGE, VXLAN, Config
from daemon.drift import Drift
from daemon.files import NodeFile, PeersFile
from daemon.own import ThisNode
from daemon.policies.node import NodePolicies
from daemon.reconciler import Observer, Parts, Reconciler
from daemon.records import Store
from daemon.registrar import Registrar
from daemon.service import Service
from nodes.network import Network
from nodes.registries.open import TABLES, kind_of
from nodes.registry import Registry, Wish
from plugins.node import tunnel
from plugins.node.conf import DEFAULT_BRIDGE
from spec.config import Section
from spec.links import link_name

_AGAIN_SECONDS = 5.0


def report_pods(config: Config, log: Log) -> None:
    """Have the Kubernetes API told of the networks of pods by a thread of its own, if the configuration asks for it."""
    if TABLES[kind_of(config.registry)] != "kubernetes":
        return
    from nodes.pod_status import open_pod_status

    def warn(problem: str) -> None:
        log(WARNING, {"event": "pod-status-failed", "msg": problem})

    options, plugin = Section(config.options), conflist.main_plugin(config)
    reports = open_pod_status(config.node, options, config.conflist.name, plugin, warn)
    if reports:
        Thread(target=reports.run, name="pods", daemon=True).start()


def assemble(
    config: Config, registry: Registry, log: Log, observer: Observer, policies: NodePolicies, *, longest_seconds: float
) -> tuple[Reconciler, Parts]:
    """The loop, and its parts. `longest_seconds`: as Reconciler."""
    plugin = conflist.main_plugin(config)
    networks = {} if config.mode == BRIDGE else {"clusterCIDRs": list(config.cluster)}
    bridge, device = _names(config, plugin)
    node_file, this = NodeFile(), ThisNode(config, bridge, device)

    def wake() -> None:
        reconciler.wake()

    def wish() -> Wish:
        return Wish(config.cluster, config.allocate, config.exclude, node_file.read_subnets(), this.find_addresses())

    def ensure_conflist() -> Sequence[str]:
        warnings = conflist.ensure(config)
        policies.on_conflist()
        return warnings

    registrar = Registrar(registry, wish, wake, log)
    parts = Parts(
        network=Network(config.conflist.name, {**plugin, **networks}, config.node),
        store=Store(config.node, config.cluster_name, wake, registrar.on_own),
        registrar=registrar,
        drift=Drift(config.conflist.name, config.cluster, [name for name in (bridge, device) if name], device),
        this=this,
        service=Service(config.conflist.name, plugin, ensure_conflist),
        node_file=node_file,
        peers_file=PeersFile(),
        policies=policies,
    )
    reconciler = Reconciler(config, parts, log, observer, longest_seconds=longest_seconds)
    return reconciler, parts


def _names(config: Config, plugin: Mapping[str, object]) -> tuple[str, str]:
    """The names of the pods' bridge and of the tunnel's device, "" for none."""
    section = Section(plugin)
    bridge = link_name(section, "bridge", DEFAULT_BRIDGE if config.mode != BRIDGE else "cni0")
    return bridge, tunnel.parse_section(section).device if config.mode == VXLAN else ""


def watch(registry: Registry, store: Store, log: Log) -> None:
    """Watch until the registry is closed, whatever mistakes it makes."""
    while True:
        try:
            registry.watch(store)
            return
        except Exception as error:  # noqa: BLE001  (a mistake in a registry must not end the thread)
            store.lost(f"{type(error).__name__}: {error}")
            log(WARNING, {"event": "watch-failed", "msg": f"{type(error).__name__}: {error}"})
            time.sleep(_AGAIN_SECONDS)
