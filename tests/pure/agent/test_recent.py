"""The warnings that the agent and the daemon remember."""

from agent.log import INFO, NOTICE, WARNING
from agent.recent import Recent


def test_warnings_are_kept_and_the_log_is_as_it_was() -> None:
    """The newest first, with their age; what they hold is text of a bounded length."""
    lines, now = [], [100.0]
    recent = Recent(lambda: now[0])
    log = recent.watch(lambda priority, fields: lines.append((priority, fields)))
    for number in range(12):
        log(WARNING, {"outcome": number, "msg": "x" * 1000})
        log(INFO, {"outcome": 0})
        now[0] += 1
    assert len(lines) == 24
    kept = recent.describe()
    assert [(one["seconds_ago"], one["outcome"]) for one in kept] == [(1.0 + n, str(11 - n)) for n in range(10)]
    assert {len(one["msg"]) for one in kept} == {500}


def test_problems_that_were_solved_at_once_are_forgotten() -> None:
    """As those of a start; one that has lasted stays, and so does another."""
    now = [100.0]
    recent = Recent(lambda: now[0])
    log = recent.watch(lambda _priority, _fields: None)
    for problem in ("lasting", "brief", "other"):
        log(WARNING, {"event": "problem", "msg": problem})
        now[0] += 8
    log(NOTICE, {"event": "solved", "msg": "lasting"})
    log(WARNING, {"event": "problem", "msg": "brief"})
    log(NOTICE, {"event": "solved", "msg": "brief"})
    assert [one["msg"] for one in recent.describe()] == ["other", "brief", "lasting"]
    assert recent.describe()[1]["seconds_ago"] == 16.0
