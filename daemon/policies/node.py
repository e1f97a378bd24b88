"""The policies of this node, as the rest of the daemon sees them: kept in force, or taken away."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Protocol

from agent.log import Log
from agent.pages import Page
from daemon.config import Config

if TYPE_CHECKING:
    from daemon.monitoring import Monitoring


HUNG_SECONDS = 150.0
"""Each loop does a round every minute at least; none takes longer than this."""


class NodePolicies(Protocol):
    """The policies of a node; the methods may be called by any thread, and do not wait."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """End. What is in force stays."""

    def on_conflist(self) -> None:
        """Runtimes have been given the configuration."""

    def pages(self) -> Mapping[str, Page]:
        """The pages about them, by path."""

    def refusal(self) -> str:
        """Why no pod should be added, "" if they can be."""

    def pending(self) -> str:
        """Why nothing is in force yet, so that new pods are held; "" once the first complete list is."""

    def unready(self) -> str:
        """Why no pod should be scheduled to this node, "" if they can be: a refusal, or `pending` for long."""

    def idle_seconds(self) -> float:
        """For how long no round has begun; more than a minute or so, if a thread hangs."""

    def problems(self) -> Collection[str]:
        """A sentence for everything that is wrong."""


class Disabled:
    """They are not enabled: what an earlier configuration has made is removed."""

    def __init__(self, log: Log) -> None:
        from daemon.policies.setup import Removal

        self._removal = Removal(log)

    def start(self) -> None:
        """As NodePolicies."""
        self._removal.start()

    def stop(self) -> None:
        """As NodePolicies."""

    def on_conflist(self) -> None:
        """As NodePolicies."""

    def pages(self) -> Mapping[str, Page]:
        """As NodePolicies."""
        return {}

    def refusal(self) -> str:
        """As NodePolicies."""
        return ""

    def pending(self) -> str:
        """As NodePolicies."""
        return ""

    def unready(self) -> str:
        """As NodePolicies."""
        return ""

    def idle_seconds(self) -> float:
        """As NodePolicies."""
        return 0.0

    def problems(self) -> Collection[str]:
        """As NodePolicies."""
        return (self._removal.problem,) if self._removal.problem else ()


def assemble_policies(config: Config, log: Log, monitoring: "Monitoring | None") -> NodePolicies:
    """What the table [policy] asks for. Raises CNIError 7, OSError."""
    if not config.policy.enabled:
        return Disabled(log)
    from daemon.policies.assembly import Enabled

    return Enabled(config, log, monitoring)
