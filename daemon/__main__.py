"""`python -m daemon`, frozen `slash24-node`: builds the daemon of its parts, and runs it."""

import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from threading import Thread

from agent import systemd
from agent.log import LEVELS, NOTICE, WARNING, Log, logger
from agent.memory import limit_heap
from daemon import config as configuration
from daemon import conflist, options, single
from daemon.config import BRIDGE, VXLAN, Config, ConfigError
from daemon.drift import Drift
from daemon.files import NodeFile, PeersFile
from daemon.options import Options
from daemon.own import ThisNode
from daemon.reconciler import Parts, Pass, Reconciler
from daemon.records import Store
from daemon.registrar import Registrar
from daemon.service import Service
from nodes.network import Network
from nodes.registries.open import TABLES, kind_of, open_registry
from nodes.registry import Registry, Wish
from plugins.__main__ import VERSION
from plugins.node import tunnel
from plugins.node.conf import DEFAULT_BRIDGE
from spec import verbs
from spec.config import Section
from spec.errors import CNIError
from spec.links import link_name

_STOP_SECONDS, _AGAIN_SECONDS = 5.0, 5.0
_ROUND_SECONDS = 60.0
_COLLECTIONS = 20_000, 20, 100
"""Rarer than by default: to look at the records of 5,000 nodes takes longer than one of them to join."""


def main() -> int:
    """Do what the command line asks for; the exit status."""
    if os.environ.get(verbs.COMMAND):
        sys.stderr.write("slash24-node is not a CNI plugin\n")
        return 1
    chosen = options.parse(sys.argv[1:])
    if chosen.install:
        from daemon.install import install

        return install(chosen.install)
    if chosen.wait:
        return _wait()
    if chosen.check:
        mistakes = configuration.check(chosen.config)
        sys.stderr.write("".join(f"{mistake}\n" for mistake in mistakes))
        return 1 if mistakes else 0
    try:
        config = configuration.read(chosen.config)
        if chosen.uninstall:
            from daemon.uninstall import uninstall

            return uninstall(config)
        return _run(chosen, config)
    except (ConfigError, CNIError, single.AlreadyRunning, OSError) as error:
        sys.stderr.write(f"slash24-node: {error}\n")
        return 1


def _wait() -> int:
    """Until SIGTERM; the exit status."""
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    signal.sigwait(stops)
    return 0


def _run(chosen: Options, config: Config) -> int:
    """Until SIGTERM; the exit status. Raises AlreadyRunning, CNIError, OSError."""
    limit_heap()
    log = logger(2, os.environ, level=LEVELS[chosen.log_level], as_json=chosen.log_format == "json")
    single.hold()
    watcher = _Watcher(systemd.Notifier(os.environ).notify, os.environ)
    if chosen.listen:
        from daemon.monitoring import Monitoring

        watcher.monitoring = Monitoring()
    registry = open_registry(config.registry, config.node, Section(config.options))
    reconciler, parts = _assemble(config, registry, log, watcher)
    gc.freeze()  # collections skip what was loaded
    gc.set_threshold(*_COLLECTIONS)
    close_pages = watcher.monitoring.open(chosen.listen, reconciler, parts.store) if chosen.listen else lambda: None
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: reconciler.stop())
    Thread(target=_watch, args=(registry, parts.store, log), name="watch", daemon=True).start()
    parts.registrar.start()
    _report_pods(config, log)
    log(NOTICE, {"event": "started", "version": VERSION, "node": config.node, "registry": kind_of(config.registry)})
    reconciler.run()
    watcher.notify("STOPPING=1")
    close_pages()
    parts.registrar.stop()
    parts.service.end()
    closing = Thread(target=registry.close, name="close", daemon=True)
    closing.start()
    closing.join(_STOP_SECONDS)
    log(NOTICE, {"event": "ended", "pid": os.getpid()})
    return 0


def _report_pods(config: Config, log: Log) -> None:
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


def _assemble(config: Config, registry: Registry, log: Log, watcher: "_Watcher") -> tuple[Reconciler, Parts]:
    plugin = conflist.main_plugin(config)
    networks = {} if config.mode == BRIDGE else {"clusterCIDRs": list(config.cluster)}
    bridge, device = _names(config, plugin)
    node_file, this = NodeFile(), ThisNode(config, bridge, device)

    def wake() -> None:
        reconciler.wake()

    def wish() -> Wish:
        return Wish(config.cluster, config.allocate, config.exclude, node_file.read_subnets(), this.find_addresses())

    registrar = Registrar(registry, wish, wake, log)
    parts = Parts(
        network=Network(config.conflist.name, {**plugin, **networks}, config.node),
        store=Store(config.node, config.cluster_name, wake, registrar.on_own),
        registrar=registrar,
        drift=Drift(config.conflist.name, config.cluster, [name for name in (bridge, device) if name], device),
        this=this,
        service=Service(config.conflist.name, plugin, lambda: conflist.ensure(config)),
        node_file=node_file,
        peers_file=PeersFile(),
    )
    reconciler = Reconciler(config, parts, log, watcher, longest_seconds=watcher.longest_seconds)
    return reconciler, parts


def _names(config: Config, plugin: Mapping[str, object]) -> tuple[str, str]:
    """The names of the pods' bridge and of the tunnel's device, "" for none."""
    section = Section(plugin)
    bridge = link_name(section, "bridge", DEFAULT_BRIDGE if config.mode != BRIDGE else "cni0")
    return bridge, tunnel.parse_section(section).device if config.mode == VXLAN else ""


def _watch(registry: Registry, store: Store, log: Log) -> None:
    """Watch until the registry is closed, whatever mistakes it makes."""
    while True:
        try:
            registry.watch(store)
            return
        except Exception as error:  # noqa: BLE001  (a mistake in a registry must not end the thread)
            store.lost(f"{type(error).__name__}: {error}")
            log(WARNING, {"event": "watch-failed", "msg": f"{type(error).__name__}: {error}"})
            time.sleep(_AGAIN_SECONDS)


class _Watcher:
    """Tells the service manager, and the pages if they are served, how the loop is."""

    def __init__(self, notify: Callable[[str], None], environ: Mapping[str, str]) -> None:
        self.notify, self.monitoring, self._is_ready = notify, None, False
        usec = environ.get("WATCHDOG_USEC", "")
        self._has_watchdog = usec.isdigit() and environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.longest_seconds = min(int(usec) / 2e6, _ROUND_SECONDS) if self._has_watchdog else _ROUND_SECONDS

    def on_pass(self, done: Pass) -> None:
        """The first pass that succeeds makes the service ready."""
        if done.outcome.is_complete and not self._is_ready:
            self._is_ready = True
            self.notify("READY=1")
        if self.monitoring:
            self.monitoring.on_pass(done)

    def on_round(self) -> None:
        """The loop is alive."""
        if self._has_watchdog:
            self.notify("WATCHDOG=1")
        if self.monitoring:
            self.monitoring.on_round()


def _exit() -> None:
    status = main()
    sys.stderr.flush()
    os._exit(status)  # at once: a thread may hang in a request to the registry


if __name__ == "__main__":
    _exit()
