"""What the pages of agent and daemon say, whatever it is, as parts of the picture."""

import pytest

from cli.facts.services import Service
from cli.status import read
from cli.status.picture import NetworkPicture, PeerPicture

JUNK = [{}, {"errors": 1, "repairs": {}, "records": [], "connected": "yes", "left_out": 3, "lost_seconds": True}]
JUNK += [{"errors": [1, None, {"seconds_ago": "x", "msg": 7}], "repairs": [[], {"found": [1, {}]}], "registry": 9}]


def daemon(status: dict, *problems: str, policies: dict | None = None) -> Service:
    """A daemon with these pages."""
    pages = {"/status": status, **({"/policies": policies} if policies is not None else {})}
    return Service("slash24-node", True, 7, where="/run/x", is_ready=True, pages=pages, problems=problems)


@pytest.mark.parametrize("said", JUNK)
def test_a_page_may_hold_anything(said: dict) -> None:
    """Nothing raises; what is of another type counts as missing."""
    service = daemon(said, "problem", policies={"pods": [1, {"held": 1, "owner": "a"}, {"held": True, "owner": []}]})
    assert all(isinstance(event.text, str) for event in (*read.repairs_of(said), *read.errors_of(service, said)))
    assert [one.name for one in read.registry_of(service)] == (["registry"] if said else [])
    assert read.daemon_of(service, []).problems == ("problem",)
    assert read.held_in(service) <= {""}


def test_repairs_and_errors_are_sentences() -> None:
    """Those of agent and daemon by their age."""
    call = {"verb": "ADD", "plugin": "bridge", "container": "0123456789abcdef", "outcome": "11", "msg": "no room"}
    lines = [{**call, "seconds_ago": 30}, {"event": "call failed in the agent", "error": "x", "seconds_ago": 5}]
    lines.append({"verb": "STATUS", "plugin": "vxlan", "container": "", "outcome": "50", "seconds_ago": 50})
    agent = Service("slash24-agent", True, pages={"/status": {"errors": lines}})
    said = {
        "errors": [
            {"event": "problem", "msg": "no subnet", "seconds_ago": 40},
            {"event": "watch-failed", "msg": "refused", "seconds_ago": 10.5},
        ],
        "repairs": [{"seconds_ago": 3, "found": ["route a was deleted", "link b was set down"]}],
    }
    assert [(event.seconds_ago, event.text) for event in read.errors_of(agent, said)] == [
        (5, "event=call failed in the agent error=x"),
        (10.5, "watch-failed: refused"),
        (30, "ADD of 0123456789abc by bridge failed: no room"),
        (40, "no subnet"),
        (50, "STATUS by vxlan failed: error 50"),
    ]
    assert [event.text for event in read.repairs_of(said)] == ["route a was deleted; link b was set down"]


def test_the_registry_is_as_the_daemon_says() -> None:
    """Connected, lost, or not reached yet; without a daemon nothing is known of it."""
    said = {"registry": "etcd", "records": 3, "connected": True}
    (found,) = read.registry_of(daemon(said))
    assert (found.state, found.details, found.problems) == ("connected", "etcd, 3 records", ())
    (found,) = read.registry_of(daemon({**said, "connected": False, "lost_seconds": 12.3, "why": "refused"}))
    assert (found.state, found.problems) == ("not connected", ("cannot be reached for 12 s: refused",))
    (found,) = read.registry_of(daemon({**said, "connected": False, "lost_seconds": 0.0}))
    assert found.problems == ("was not reached yet",)
    assert read.registry_of(Service("slash24-node")) == []


def test_peers_problems_are_not_told_twice() -> None:
    """By the daemon and by the peer itself; without a picture of the peer the daemon's stays."""
    sentence = "peer n9 has no addresses"
    service = daemon({"left_out": [sentence]}, sentence, "no subnet")
    network = NetworkPicture("net", peers=(PeerPicture("n9", problems=("has no addresses",)),))
    assert read.daemon_of(service, [network]).problems == ("no subnet",)
    assert read.daemon_of(service, []).problems == (sentence, "no subnet")


def test_services_are_told_in_words() -> None:
    """Running or not, and why that may be well."""
    assert (
        read.agent_of(Service("slash24-agent", is_waiting=True, unit="inactive")).details == "the next call starts it"
    )
    assert read.agent_of(Service("slash24-agent")).details == "plugins do everything themselves"
    assert read.agent_of(Service("slash24-agent", unit="failed", problems=("x",))).details == "its unit is failed"
    found = read.agent_of(Service("slash24-agent", True, 12, is_ready=False, where="/x"))
    assert (found.state, found.details) == ("runs, not ready", "pid 12")
    assert read.agent_of(Service("slash24-agent", True, 12)).details == "pid 12, serves no pages"
