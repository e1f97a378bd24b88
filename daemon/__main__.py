"""`python -m daemon`, frozen `slash24-node`: builds the daemon of its parts, and runs it."""

import gc
import os
import signal
import sys
from collections.abc import Callable, Mapping
from threading import Thread

from agent import systemd
from agent.log import LEVELS, NOTICE, logger
from agent.memory import limit_heap
from daemon import config as configuration
from daemon import options, single
from daemon.assembly import assemble, report_pods, watch
from daemon.config import Config, ConfigError
from daemon.options import Options
from daemon.policies.node import HUNG_SECONDS, assemble_policies
from daemon.reconciler import Pass
from nodes.registries.open import kind_of, open_registry
from plugins.__main__ import VERSION
from spec import verbs
from spec.config import Section
from spec.errors import CNIError

_STOP_SECONDS = 5.0
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
        log = watcher.monitoring.recent.watch(log)
    registry = open_registry(config.registry, config.node, Section(config.options))
    policies = watcher.policies = assemble_policies(config, log, watcher.monitoring)
    longest = watcher.longest_seconds
    reconciler, parts = assemble(config, registry, log, watcher, policies, longest_seconds=longest)
    gc.freeze()  # collections skip what was loaded
    gc.set_threshold(*_COLLECTIONS)
    close_pages = None
    if watcher.monitoring:
        about = {"version": VERSION, "node": config.node, "registry": kind_of(config.registry), "mode": config.mode}
        about |= {"network": config.conflist.name, "networks": list(config.cluster)}
        close_pages = watcher.monitoring.open(chosen.listen, reconciler, parts.store, policies, about)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: reconciler.stop())
    Thread(target=watch, args=(registry, parts.store, log), name="watch", daemon=True).start()
    parts.registrar.start()
    policies.start()
    report_pods(config, log)
    log(NOTICE, {"event": "started", "version": VERSION, "node": config.node, "registry": kind_of(config.registry)})
    reconciler.run()
    watcher.notify("STOPPING=1")
    if close_pages:
        close_pages()
    parts.registrar.stop()
    policies.stop()
    parts.service.end()
    closing = Thread(target=registry.close, name="close", daemon=True)
    closing.start()
    closing.join(_STOP_SECONDS)
    log(NOTICE, {"event": "ended", "pid": os.getpid()})
    return 0


class _Watcher:
    """Tells the service manager, and the pages if they are served, how the loop is."""

    def __init__(self, notify: Callable[[str], None], environ: Mapping[str, str]) -> None:
        self.notify, self.monitoring, self.policies, self._is_ready = notify, None, None, False
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
        """The loop is alive; a thread of policies that hangs has the daemon restarted, too."""
        if self._has_watchdog and not (self.policies and self.policies.idle_seconds() > HUNG_SECONDS):
            self.notify("WATCHDOG=1")
        if self.monitoring:
            self.monitoring.on_round()


def _exit() -> None:
    status = main()
    sys.stderr.flush()
    os._exit(status)  # at once: a thread may hang in a request to the registry


if __name__ == "__main__":
    _exit()
