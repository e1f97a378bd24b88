"""Shared by all tiers: the folders of the executables under test, and skips that count as failures."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.netns import way
from tests.vm import handover

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"

_GROUPS = {"launcher": "launcher", "netns/test_launcher.py": "launcher", "runtimes": "runtimes"}
"""Folders and files whose tests share what takes long to make: one process runs all of them."""
_PROCESSES_A_CORE, _MOST_PROCESSES = 2, 16

# The duration of an example depends on the machine's load. `--hypothesis-profile thorough` runs ten times as many.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", settings.get_profile("untimed"), max_examples=1000)
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--cni-bin DIR`: the folder of plugins to test; `--way WAY`: whether the nodes of tests have an agent.

    `--every-case`: of network policies, where otherwise each layout of pods has its share.
    """
    parser.addoption("--cni-bin", metavar="DIR", default=None, help="folder of CNI plugins to test (default: dist/bin)")
    parser.addoption("--way", choices=way.WAYS, default="cold", help="with an agent, without (default), or in turns")
    parser.addoption(
        "--alone", action="store_true", help="what several processes of pytest-xdist leave out, and only that"
    )
    parser.addoption("--every-case", action="store_true", help="of policies, on one node and on three: twice as long")
    parser.addoption("--reports", metavar="FILE", help="in the virtual machine: where to write what this machine reads")


def pytest_configure(config: pytest.Config) -> None:
    """Set whether the nodes of tests have an agent."""
    config.addinivalue_line("markers", "slow: takes some ten seconds or more, most of them of the processor")
    config.addinivalue_line("markers", "alone: loads all cores for so long that others would run out of time")
    config.addinivalue_line("markers", "cold(reason): no agent of ours on its nodes; not repeated by another --way")
    config.addinivalue_line("markers", "xdist_group(name): one process runs them all (heavy: each loads both cores)")
    reports, asked, named = (config.getoption(option) for option in ("--reports", "--way", "--cni-bin"))
    # In the virtual machine all calls go through an agent, as starting Python takes seconds there.
    way.CHOSEN.choose("warm" if reports else asked, _chosen_bin(config))
    if reports:
        config.pluginmanager.register(handover.There(config, reports))
    elif asked == "cold" and not hasattr(config, "workerinput"):
        config.pluginmanager.register(handover.Here(["--cni-bin", named] if named else []))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave tests/kubernetes out unless it is named: only `./test.sh kubernetes` makes what it needs."""
    is_named = any("tests/kubernetes" in argument for argument in config.args)
    return True if collection_path == TESTS / "kubernetes" and not is_named else None


def pytest_report_header(config: pytest.Config) -> str:
    """The header names the plugins under test and the mode."""
    command = "" if way.CHOSEN.way == "cold" else f" ({' '.join(way.agent_command(way.CHOSEN.home))})"
    return f"plugins: {way.CHOSEN.home}, way: {way.CHOSEN.way}{command}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """The number of processes for `-n auto`: more than cores, as tests spend half of their time waiting."""
    return min(_PROCESSES_A_CORE * len(os.sched_getaffinity(0)), _MOST_PROCESSES)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what does not depend on --way, unless it is the default; sort the tests."""
    is_worker = hasattr(config, "workerinput")
    alone = config.getoption("--alone")
    if config.getoption("--way") != "cold":
        _keep(_has_ways, config, items)
    if is_worker or alone:
        _keep(lambda item: bool(item.get_closest_marker("alone")) is alone, config, items)
    if is_worker:
        _arrange(items)


def _keep(is_wanted: Callable[[pytest.Item], bool], config: pytest.Config, items: list[pytest.Item]) -> None:
    config.hook.pytest_deselected(items=[item for item in items if not is_wanted(item)])
    items[:] = filter(is_wanted, items)


def _arrange(items: list[pytest.Item]) -> None:
    """Start the longest tests first, so that all processes end at about the same time."""
    turns = {}
    for item in items:
        path = item.path.relative_to(TESTS) if item.path.is_relative_to(TESTS) else Path()
        folder = path.parts[:1]
        group = _GROUPS.get("".join(folder)) or _GROUPS.get(str(path))
        is_long = bool(group or item.get_closest_marker("slow") or item.get_closest_marker("xdist_group"))
        if folder == ("pure",) and not is_long:  # so short that distributing single tests would take longer
            group = str(path)
        if group:
            item.add_marker(pytest.mark.xdist_group(group))
        turns[item] = (not is_long, folder == ("pure",))
    items.sort(key=turns.get)
    _name_groups(items)


def _name_groups(items: list[pytest.Item]) -> None:
    """Append its group to each test's ID, where pytest-xdist reads it: its own attempt has no effect on pytest 9.2."""
    for item in items:
        mark = item.get_closest_marker("xdist_group")
        if mark:
            item._id = type(item._id).parse(f"{item.nodeid}@{mark.args[0]}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Set whether the nodes of this test have an agent."""
    way.CHOSEN.is_marked_cold = item.get_closest_marker("cold") is not None


def _has_ways(item: pytest.Item) -> bool:
    """Whether the test calls our plugins and depends on --way."""
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


def _skip_is_failure(report: pytest.TestReport | pytest.CollectReport, config: pytest.Config) -> str | None:
    """Why a skip counts as a failure; None if it is accepted: outside CI, or if the test runs on another kernel."""
    if config.getoption("--reports"):
        return f"skipped in the virtual machine: {handover.reason(report.longrepr)}"
    if not os.environ.get("CI") or (isinstance(report, pytest.TestReport) and handover.lacks(report)):
        return None
    return f'skipped in CI, where only a test may be, for "{handover.EXCUSE} ...": {handover.reason(report.longrepr)}'


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Turn the skip of a test into a failure, unless it is accepted."""
    report = yield
    return _judged(report, item.config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    """Turn the skip of a whole module into a failure, unless it is accepted."""
    report = yield
    return _judged(report, collector.config)


def _judged(report: pytest.TestReport | pytest.CollectReport, config: pytest.Config):
    if report.skipped and not hasattr(report, "wasxfail"):
        failure = _skip_is_failure(report, config)
        if failure:
            report.outcome, report.longrepr = "failed", failure
    return report
