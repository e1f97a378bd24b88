"""Reads the node: from the kernel, files, and the pages of agent and daemon if they run. Changes nothing."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from cli.facts import services
from cli.facts.attachments import read_attachments
from cli.facts.leases import read_leases
from cli.facts.paths import NET_D
from cli.facts.runtimes import find_runtimes
from cli.status.kernel import with_unconfigured
from cli.status.networks import Seen, find_networks, read_network
from cli.status.picture import Event, NetworkPicture, NodePicture, Service
from linux.netlink.socket import Netlink

_MOST_EVENTS = 10
_CONTAINER = 13


class Reader:
    """Reads the node again and again; where runtimes look for networks is found once."""

    def __init__(self) -> None:
        self._folders = dict.fromkeys((NET_D, *(runtime.conf_dir for runtime in find_runtimes())))

    def read(self) -> NodePicture:
        """The node as it is now. What cannot be read is a problem in it."""
        agent, daemon = services.read_agent(), services.read_daemon()
        said = daemon.pages.get("/status", {})
        problems: list[str] = []
        seen, networks = Seen(), []
        with _noting(problems, "the leases"):
            seen = Seen(leases=read_leases(), held=held_in(daemon), node=_text(said, "node"))
        with _noting(problems, "the attached pods"):
            seen = Seen(read_attachments(seen.leases), seen.leases, seen.held, seen.node)
        with _noting(problems, "the networks"), Netlink() as host:
            for name, plugin in find_networks(self._folders, seen).items():
                networks.append(read_network(host, name, plugin, seen))
            networks = with_unconfigured(host, networks)
        return NodePicture(
            seen.node or os.uname().nodename,
            (agent_of(agent), daemon_of(daemon, networks), *registry_of(daemon)),
            tuple(networks),
            tuple(repairs_of(said)),
            tuple(errors_of(agent, said)),
            tuple(problems),
        )


@contextmanager
def _noting(problems: list[str], what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        problems.append(f"cannot read {what}: {error.strerror or error}")


def agent_of(found: services.Service) -> Service:
    """The agent."""
    if found.is_waiting:
        return Service("agent", "does not run", "the next call starts it", found.problems)
    return Service("agent", *_how(found), found.problems)


def daemon_of(found: services.Service, networks: Sequence[NetworkPicture]) -> Service:
    """The daemon, without the problems that the peers of its network are shown with."""
    left_out = found.pages.get("/status", {}).get("left_out")
    is_told = any(peer.problems for network in networks for peer in network.peers) and isinstance(left_out, list)
    told = [one for one in found.problems if not (is_told and one in left_out)]
    return Service("daemon", *_how(found), tuple(told))


def _how(found: services.Service) -> tuple[str, str]:
    """Its state in a few words, and more."""
    if not found.is_running:
        return "does not run", f"its unit is {found.unit}" if found.unit else "plugins do everything themselves"
    details = [f"pid {found.pid}"] if found.pid else []
    details += [] if found.where else ["serves no pages"]
    return "runs, not ready" if found.is_ready is False else "runs", ", ".join(details)


def registry_of(daemon: services.Service) -> list[Service]:
    """The registry, as the daemon says; nothing without it."""
    said = daemon.pages.get("/status", {})
    if not said:
        return []
    details = ", ".join(filter(None, (_text(said, "registry"), f"{_number(said, 'records'):.0f} records")))
    if said.get("connected") is True:
        return [Service("registry", "connected", details)]
    lost, why = _number(said, "lost_seconds"), _text(said, "why")
    problem = f"cannot be reached for {lost:.0f} s: {why}" if lost else "was not reached yet"
    return [Service("registry", "not connected", details, (problem,))]


def held_in(daemon: services.Service) -> frozenset[str]:
    """The tags of the pods that are held."""
    pods = daemon.pages.get("/policies", {}).get("pods")
    return frozenset(_text(pod, "owner") for pod in _objects(pods) if pod.get("held") is True)


def repairs_of(said: Mapping[str, object]) -> Iterator[Event]:
    """What the daemon says that it has repaired."""
    for one in _objects(said.get("repairs"))[:_MOST_EVENTS]:
        found = one.get("found")
        texts = [text for text in found if isinstance(text, str)] if isinstance(found, list) else []
        yield Event(_number(one, "seconds_ago"), "; ".join(texts) or "something was changed")


def errors_of(agent: services.Service, said: Mapping[str, object]) -> list[Event]:
    """Of both, the newest first."""
    failed = [Event(_number(one, "seconds_ago"), _call(one)) for one in _lines(agent.pages.get("/status", {}))]
    failed += [Event(_number(one, "seconds_ago"), _warning(one)) for one in _lines(said)]
    return sorted(failed, key=lambda event: event.seconds_ago)[:_MOST_EVENTS]


def _lines(said: Mapping[str, object]) -> list[Mapping[str, object]]:
    return _objects(said.get("errors"))


def _call(one: Mapping[str, object]) -> str:
    """A failed call of the agent's log."""
    verb, plugin = _text(one, "verb"), _text(one, "plugin")
    if not verb:
        return _warning(one)
    container = _text(one, "container")[:_CONTAINER]
    of = f" of {container}" if container else ""
    return f"{verb}{of} by {plugin} failed: {_text(one, 'msg') or 'error ' + _text(one, 'outcome')}"


def _warning(one: Mapping[str, object]) -> str:
    """Another line of a log: what it says, or else all of it."""
    event, told = _text(one, "event"), _text(one, "msg")
    if told:
        return told if event in ("", "problem") else f"{event}: {told}"
    return " ".join(f"{name}={_text(one, name)}" for name in one if name != "seconds_ago")


def _objects(value: object) -> list[Mapping[str, object]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _text(value: Mapping[str, object], name: str) -> str:
    found = value.get(name)
    return found if isinstance(found, str) else ""


def _number(value: Mapping[str, object], name: str) -> float:
    found = value.get(name)
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) and abs(found) < 1e12 else 0.0
