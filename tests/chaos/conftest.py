"""The tier with failures of everything: `pytest tests/chaos [--seconds N] [--seed N]`."""

import json

import pytest

from tests.conftest import ROOT
from tests.netns.fixtures import node, untouched_machine  # noqa: F401 (fixtures)

REPORT = ROOT / "build" / "chaos.json"
_SECONDS = 60
_REPORT = "chaos"
"""Its name among the properties of the test's report, which pytest-xdist hands to the process that prints."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--seconds`: how long the chaos lasts; `--seed`: the seed of its choices."""
    parser.addoption("--seconds", type=int, default=_SECONDS, help=f"how long chaos lasts (default: {_SECONDS})")
    parser.addoption("--seed", type=int, default=None, help="repeats the choices of the run that printed it")


@pytest.fixture
def report(request: pytest.FixtureRequest) -> dict:
    """What the test reports at the end of the run, and in build/chaos.json."""
    told = {}
    request.node.user_properties.append((_REPORT, told))
    return told


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The counts of the run, passed or not."""
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        if getattr(report, "when", "") == "teardown" and (told := dict(report.user_properties).get(_REPORT)):
            _show(terminalreporter, told)


def _show(terminalreporter: pytest.TerminalReporter, told: dict) -> None:
    terminalreporter.section("chaos")
    for name, value in told.items():
        if not isinstance(value, dict):
            terminalreporter.line(f"{name}: {value}")
            continue
        terminalreporter.line(f"{name}:")
        for key, count in value.items():
            terminalreporter.line(f"  {key:32} {count:>8}")
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(told, indent=2) + "\n")
