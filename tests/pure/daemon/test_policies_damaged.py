"""What was opened while others had damaged the tables is cut when they are whole again."""

from daemon.policies.loop import PODS
from linux.nftables.monitor import ELEMENTS
from tests.pure.daemon.test_policies import Case, new_case  # noqa: F401 (a fixture)


def test_what_was_opened_while_elements_were_missing_is_cut(case: Case) -> None:
    """Of all pods; if no element was wrong, nothing is."""
    case.start()
    case.kernel.pods.clear()
    case.monitor.found = ELEMENTS
    assert case.step() == []
    assert case.step(after=1.1) == [PODS]
    assert (case.kernel.calls, case.cuts.asked) == (["resync_pods"], [None])
