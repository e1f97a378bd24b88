"""What was opened while others had damaged the tables is cut when they are whole again."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from daemon.policies.loop import DOCUMENTS, PODS, WHOLE
from linux.nftables.monitor import ANYTHING, ELEMENTS, LOSS
from tests.pure.daemon.test_policies import IP_A, POLICY, Case, new_case, pod

__all__ = ["new_case"]


def test_what_was_opened_while_elements_were_missing_is_cut(case: Case) -> None:
    """Of all pods; if no element was wrong, nothing is."""
    case.start()
    case.kernel.pods.clear()
    case.monitor.found = ELEMENTS
    assert case.step() == []
    assert case.step(after=1.1) == [PODS]
    assert (case.kernel.calls, case.cuts.asked) == (["resync_pods"], [None])


@pytest.mark.parametrize("found", [ELEMENTS, LOSS])
def test_nothing_is_compared_before_the_first_list(case: Case, found: int) -> None:
    """And the loop does not go round for that; the first list is compared with everything there is."""
    assert case.step() == []
    case.monitor.found = found
    assert case.step() == []
    assert case.step(after=1) == []
    assert case.loop.seconds_left() > 1
    case.start()
    assert case.step(after=1) == []


def test_elements_that_no_add_or_del_has_taken_are_restored_at_once(case: Case) -> None:
    """And what was opened meanwhile is cut."""
    case.start()
    case.kernel.hold(IP_A)
    case.monitor.found = LOSS
    assert case.step() == [PODS]
    assert (set(case.kernel.pods), case.cuts.asked) == ({IP_A}, [None])
    assert case.step(after=1) == []


def taking_a_second(case: Case, repair: Callable[..., object]) -> Callable[..., object]:
    """The same, by the case's clock."""

    def repaired(*args: object) -> object:
        case.clock.now += 1
        return repair(*args)

    return repaired


def test_who_takes_them_again_and_again_is_answered_after_a_pause(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as long as a repair took; what is opened until then is cut then."""
    case.start()
    for repair in ("resync", "resync_pods"):
        monkeypatch.setattr(case.kernel, repair, taking_a_second(case, getattr(case.kernel, repair)))
    for found, kind in ((LOSS, PODS), (ANYTHING, WHOLE)):
        case.monitor.found = found
        case.kernel.hold(IP_A)
        assert case.step() == [kind]
        case.cuts.asked.clear()
        case.monitor.found = found
        case.kernel.hold(IP_A)
        case.inbox.put(replace(POLICY, name=kind))
        assert case.step(after=1) == [DOCUMENTS]
        assert None not in case.cuts.asked
        assert 0 < case.loop.seconds_left() <= 1
        assert case.step(after=1) == [kind]
        assert case.cuts.asked[-1] is None
        case.clock.now += 10


def test_lost_elements_that_are_restored_with_everything_else_are_no_less_cut(case: Case) -> None:
    """Whatever else was the reason to compare everything."""
    case.start()
    case.kernel.hold(IP_A)
    case.monitor.found = LOSS
    assert case.step(after=61) == [WHOLE]
    assert case.cuts.asked == [None]
    case.kernel.refuses = "no memory"
    case.monitor.found = LOSS
    case.step()
    case.kernel.refuses = ""
    case.inbox.put(pod("x"))
    assert case.step(after=1) == [WHOLE]
    assert case.cuts.asked == [None, None]
