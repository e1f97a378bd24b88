"""What all tiers share: where the executables under test are, and that in CI nothing is left out quietly."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.netns import way

ROOT = Path(__file__).resolve().parent.parent
_EXCUSE = "kernel lacks"

# How long an example takes depends on what else the machine does.
settings.register_profile("untimed", parent=settings(), deadline=None)
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--cni-bin DIR`: the folder of plugins to test; `--way WAY`: how their calls go on nodes of tests."""
    parser.addoption("--cni-bin", metavar="DIR", default=None, help="folder of CNI plugins to test (default: dist/bin)")
    parser.addoption("--way", choices=way.WAYS, default="cold", help="with an agent, without (default), or in turns")


def pytest_configure(config: pytest.Config) -> None:
    """Tell the nodes of all tests how calls go."""
    config.addinivalue_line("markers", "slow: takes some ten seconds or more, most of them of the processor")
    config.addinivalue_line("markers", "cold(reason): no agent of ours on its nodes; not repeated by another --way")
    way.CHOSEN.choose(config.getoption("--way"), _chosen_bin(config))


def pytest_report_header(config: pytest.Config) -> str:
    """Say what is tested."""
    command = "" if way.CHOSEN.way == "cold" else f" ({' '.join(way.agent_command(way.CHOSEN.home))})"
    return f"plugins: {way.CHOSEN.home}, way: {way.CHOSEN.way}{command}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is the same whatever the way, when that is asked about another than the default."""
    if way.CHOSEN.way != "cold":
        config.hook.pytest_deselected(items=[item for item in items if not _has_ways(item)])
        items[:] = [item for item in items if _has_ways(item)]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tell the nodes whether an agent has a part in this test."""
    way.CHOSEN.is_marked_cold = item.get_closest_marker("cold") is not None


def _has_ways(item: pytest.Item) -> bool:
    """Whether the test calls our plugins, and not in a way of its own."""
    return not item.get_closest_marker("cold") and bool({"bin_dir", "cni"}.intersection(item.fixturenames))


def _chosen_bin(config: pytest.Config) -> Path:
    return Path(config.getoption("--cni-bin") or os.environ.get("SLASH24_BIN") or ROOT / "dist" / "bin")


@pytest.fixture(scope="session")
def bin_dir(pytestconfig: pytest.Config) -> Path:
    """The folder of the plugins under test: `--cni-bin`, else $SLASH24_BIN, else the frozen ones in dist/bin."""
    return _folder(_chosen_bin(pytestconfig), made_by="./build.sh")


@pytest.fixture(scope="session")
def reference_bin() -> Path:
    """The folder of the Go reference plugins (v1.9.1) and `cnitool`: $REFERENCE_BIN, else build/reference/bin."""
    chosen = os.environ.get("REFERENCE_BIN") or ROOT / "build" / "reference" / "bin"
    return _folder(Path(chosen), made_by="tests/tools.sh")


def _folder(path: Path, *, made_by: str) -> Path:
    if not path.is_dir():
        pytest.fail(f"{path} is not there; make it with {made_by}", pytrace=False)
    return path.resolve()


def _skip_is_failure(longrepr: object) -> str | None:
    """Why a skip counts as a failure in CI, or None if it may stand: the kernel lacks what the test is about."""
    reason = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    reason = reason.removeprefix("Skipped: ")
    if not os.environ.get("CI") or reason.startswith(_EXCUSE):
        return None
    return f'skipped in CI, where only "{_EXCUSE} ..." is a reason to skip: {reason}'


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """With CI set, turn the skip of a test into a failure."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        failure = _skip_is_failure(report.longrepr)
        if failure:
            report.outcome, report.longrepr = "failed", failure
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    """With CI set, turn the skip of a whole module into a failure."""
    report = yield
    if report.skipped:
        failure = _skip_is_failure(report.longrepr)
        if failure:
            report.outcome, report.longrepr = "failed", failure
    return report
