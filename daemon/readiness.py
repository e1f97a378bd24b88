"""Whether this node's network works, as it is told to the registry, to /readyz and to the service manager. Pure."""

from dataclasses import dataclass

from nodes.network import Outcome
from nodes.registry import Readiness

_LOST_SECONDS = 60.0
"""For so long the registry may be unreachable before that is told: a server is restarted within it."""


@dataclass(frozen=True)
class State:
    """What the daemon knows. `outcome` None: nothing has been synchronised yet.

    `unready`: why it cannot synchronise, such as a missing subnet; `lost_seconds`, `why`: see daemon.records.Counts.
    `refusal`: why new pods would be held, and none should be scheduled to the node; "" if they can be.
    """

    outcome: Outcome | None = None
    unready: str = ""
    address_problem: str = ""
    lost_seconds: float = 0.0
    why: str = ""
    wrong: tuple[str, ...] = ()
    about_conflist: tuple[str, ...] = ()
    is_published: bool = True
    publish_problem: str = ""
    refusal: str = ""
    about_policies: tuple[str, ...] = ()


def readiness(state: State) -> Readiness:
    """The state of the node's network in one word and a sentence, and what an operator must see besides."""
    outcome, warnings = state.outcome, _warnings(state)
    if state.unready:
        return _not_ready("NoSubnet", state.unready, warnings)
    if outcome is None:
        return _not_ready("Starting", "the network of this node has not been set up yet", warnings)
    if outcome.own_conflict:
        return _not_ready("SubnetConflict", outcome.own_conflict, warnings)
    if not outcome.is_complete:
        why = outcome.problems[-1] if outcome.problems else "see the log"
        return _not_ready("NetworkIncomplete", why, warnings)
    if not state.is_published:
        why = _unknown(state) or "the other nodes do not know this one yet"
        return _not_ready("RecordNotPublished", why, warnings)
    if state.refusal:
        return _not_ready("PoliciesNotInForce", state.refusal, warnings)
    return Readiness(
        is_ready=True,
        reason="RoutesInPlace",
        message="the routes to the other nodes are in place",
        warnings=tuple(warnings),
    )


def _warnings(state: State) -> list[str]:
    warnings = [*state.about_conflist, *state.wrong]
    if state.address_problem:
        warnings.append(state.address_problem)
    if is_registry_lost(state):
        warnings.append(f"the registry cannot be reached: {state.why}")
    if state.is_published and _unknown(state):
        warnings.append(_unknown(state))
    warnings += state.about_policies
    if state.outcome:
        warnings += [*state.outcome.problems, *state.outcome.left_out]
    return warnings


def _unknown(state: State) -> str:
    return f"the other nodes do not learn of this one: {state.publish_problem}" if state.publish_problem else ""


def _not_ready(reason: str, message: str, warnings: list[str]) -> Readiness:
    return Readiness(is_ready=False, reason=reason, message=message, warnings=tuple(warnings))


def is_registry_lost(state: State) -> bool:
    """Whether the registry has been unreachable for so long that it must be seen."""
    return state.lost_seconds > _LOST_SECONDS
