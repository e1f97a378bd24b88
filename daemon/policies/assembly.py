"""Builds what keeps policies in force of the configuration: the loop, and what it works with."""

import time
from collections.abc import Collection, Mapping
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING

from agent.log import Log
from agent.pages import Page
from daemon import conflist
from daemon.config import BRIDGE, Config
from daemon.policies import setup
from daemon.policies.adoption import Adoption
from daemon.policies.cuts import Cuts
from daemon.policies.denials import Denials
from daemon.policies.inbox import Inbox
from daemon.policies.loop import Parts, Policies, Waker
from daemon.policies.pods import PodFiles
from policy.engine import Engine
from policy.programming import Programmer
from policy.sources.sink import Source
from rules import source_validation
from spec.config import Section

if TYPE_CHECKING:
    from daemon.monitoring import Monitoring
    from daemon.policies.pages import NoMetrics, PolicyMetrics

_AGAIN_SECONDS = 5.0
_FAILING_SECONDS = 60.0
"""For so long programming may fail before new pods are refused, which would be held, or nothing be read."""


class Enabled:
    """Policies are kept in force, by threads: of the source, of the loop, and for what takes long."""

    def __init__(self, config: Config, log: Log, monitoring: "Monitoring | None") -> None:
        conf, waker = config.policy, Waker()
        self._metrics = _metrics(monitoring)
        self._inbox = Inbox(config.node, waker.wake)
        self._place, self._source = conf.documents or "kubernetes", _source(config)
        self._programmer = Programmer(conf.settings)
        self._cuts = Cuts(self._programmer, self._metrics.on_cut)
        plugin = Section(conflist.main_plugin(config))
        vlan = plugin.integer("vlan") if config.mode == BRIDGE else 0
        exceptions, has_api = conf.metadata_exceptions, not conf.documents
        parts = Parts(
            inbox=self._inbox,
            new_engine=lambda: Engine(needs_pods=has_api, metadata_exceptions=exceptions, node=config.node),
            programmer=self._programmer,
            files=PodFiles(),
            adoption=Adoption(config.conflist.name, plugin.section("ipam"), waits_for_names=has_api),
            cuts=self._cuts,
            prepare=partial(setup.prepare, vlan=vlan),
            bind=setup.bind,
            open_monitor=partial(setup.open_monitor, source_validation.TABLE),
            keeps_connections=conf.keeps_connections,
        )
        self.policies = Policies(parts, waker, log, self._metrics)
        self._denials, self._begun = None, time.monotonic()
        if conf.logs:
            compiled = lambda: self.policies.in_force.compiled  # noqa: E731
            self._denials = Denials(conf.log_group, compiled, conf.settings, self.policies.name_of, log)

    def start(self) -> None:
        """As NodePolicies."""
        self._cuts.start()
        self.policies.start()
        Thread(target=self._read, name="documents", daemon=True).start()
        if self._denials:
            self._denials.start()

    def stop(self) -> None:
        """As NodePolicies."""
        self.policies.stop()
        self._cuts.stop()
        Thread(target=self._source.close, name="close", daemon=True).start()

    def on_conflist(self) -> None:
        """As NodePolicies."""
        self.policies.look_soon()

    def pages(self) -> Mapping[str, Page]:
        """As NodePolicies."""
        return self._metrics.serve(self.policies, self._inbox, self._place, self._programmer.denied)

    def refusal(self) -> str:
        """As NodePolicies."""
        is_failing = self.policies.failing_seconds > _FAILING_SECONDS
        return f"policies cannot be programmed: {self.policies.error}" if is_failing else ""

    def pending(self) -> str:
        """As NodePolicies."""
        if self.policies.in_force.objects is not None:
            return ""
        why = self.policies.error or self._inbox.counts().why or "they are being read"
        return f"new pods are held, since no network policies are in force yet: {why}"

    def unready(self) -> str:
        """As NodePolicies. A daemon that is started again must not be told to be without a network for a moment."""
        is_new = time.monotonic() - self._begun < _FAILING_SECONDS
        return self.refusal() or ("" if is_new else self.pending())

    def idle_seconds(self) -> float:
        """As NodePolicies."""
        return time.monotonic() - self.policies.round_at

    def problems(self) -> Collection[str]:
        """As NodePolicies."""
        return self.policies.problems

    def _read(self) -> None:
        """Read documents until the source is closed, whatever mistakes it makes."""
        while True:
            try:
                self._source.run(self._inbox)
                return
            except Exception as error:  # noqa: BLE001  (a mistake in a source must not end the thread)
                self._inbox.lost(f"{type(error).__name__}: {error}")
                time.sleep(_AGAIN_SECONDS)


def _metrics(monitoring: "Monitoring | None") -> "PolicyMetrics | NoMetrics":
    from daemon.policies.pages import NoMetrics, PolicyMetrics

    return PolicyMetrics(monitoring.registry) if monitoring else NoMetrics()


def _source(config: Config) -> Source:
    """Imported only if it is used: a client of the API takes megabytes."""
    if config.policy.documents:
        from policy.sources.folder import FolderSource
        from policy.sources.kept_files import KEPT

        return FolderSource(config.policy.documents, kept=KEPT)
    from nodes.registries.kubernetes.registry import read_options
    from policy.sources.kubernetes import KubernetesSource

    return KubernetesSource(read_options(Section(config.options)).access)
