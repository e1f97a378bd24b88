"""What runtimes are told while policies cannot be programmed."""

import json

from tests.pure.daemon.test_reconciler import Case, new_case

__all__ = ["new_case"]


def test_pods_are_refused_while_they_would_be_held(case: Case) -> None:
    """The file of the node says why, as long as policies cannot be programmed; other problems of theirs are told."""
    case.start()
    case.policies.wrong = ("policy default/web: expected a list",)
    case.step(after=61)
    assert "policy default/web: expected a list" in case.logged
    case.policies.refused = "policies cannot be programmed: no memory"
    case.step(after=61)
    assert json.loads((case.folder / "node.json").read_text())["problem"] == "policies cannot be programmed: no memory"
    assert "policies cannot be programmed: no memory" in case.logged
    case.policies.refused, case.policies.unknown = "", "new pods are held"
    case.step(after=61)
    assert "problem" not in json.loads((case.folder / "node.json").read_text())
    assert "new pods are held" in case.logged
    case.policies.unknown = ""
    case.step(after=61)
    assert "problem" not in json.loads((case.folder / "node.json").read_text())
