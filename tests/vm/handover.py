"""Run tests that this machine's kernel cannot run on another kernel.

A test that skips because "kernel lacks ..." has not been run. After all others have finished, these tests run again in
the virtual machine, on Debian's stock kernel, with the same plugins; its reports are their results here.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

EXCUSE = "kernel lacks"
SECONDS = 1200
"""How long the virtual machine may run."""

_NETWORK = os.open("/proc/self/ns/net", os.O_RDONLY)

RUN = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{_NETWORK}", str(Path(__file__).with_name("run.sh"))]
"""What runs a command there: on the machine's network, which tests leave, as its kernel may have to be fetched."""


def lacks(report: pytest.TestReport | pytest.CollectReport) -> bool:
    """Whether the report is a skip because the kernel lacks a feature."""
    return report.skipped and not hasattr(report, "wasxfail") and reason(report.longrepr).startswith(EXCUSE)


def reason(longrepr: object) -> str:
    """Why a test was skipped."""
    text = longrepr[2] if isinstance(longrepr, (tuple, list)) else str(longrepr)
    return text.removeprefix("Skipped: ")


def _without_group(nodeid: str) -> str:
    """The test's name, without the group that pytest-xdist appends to it."""
    name, at, group = nodeid.rpartition("@")
    return name if at and "]" not in group else nodeid


class Here:
    """The plugin on this machine: hides tests that its kernel cannot run, and runs them in the virtual machine.

    Under pytest-xdist it is registered in the controller, which gets the reports of all workers.
    """

    def __init__(self, options: list[str]) -> None:
        """`options`: passed to pytest in the virtual machine to select the plugins under test."""
        self._options = options
        self._held: dict[str, pytest.TestReport] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport | pytest.CollectReport) -> tuple[str, str, str] | None:
        """Hide and do not count tests that have not been run yet."""
        return ("", "", "") if isinstance(report, pytest.TestReport) and lacks(report) else None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record a test for another kernel."""
        if lacks(report):
            self._held[_without_group(report.nodeid)] = report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Iterator[None]:
        """When all other tests have finished, run the recorded ones."""
        done = yield
        if self._held:
            session.config.get_terminal_writer().line(f"\nin the virtual machine: {len(self._held)} tests")
            self._hand_over(session.config)
        return done

    def _hand_over(self, config: pytest.Config) -> None:
        with tempfile.TemporaryDirectory() as results:
            said, file = self._run(config.rootpath, results), Path(results, "reports")
            lines = file.read_text().splitlines() if file.exists() else []
        reports = [config.hook.pytest_report_from_serializable(config=config, data=json.loads(line)) for line in lines]
        finished = {report.nodeid for report in reports if report.when == "teardown"}
        for report in reports:
            config.hook.pytest_runtest_logreport(report=report)
        for nodeid, held in self._held.items():
            if nodeid not in finished:
                text = f"the virtual machine has no result of this test. It said:\n{said}"
                failed = pytest.TestReport(nodeid, held.location, {}, "failed", text, "call")
                config.hook.pytest_runtest_logreport(report=failed)

    def _run(self, folder: Path, results: str) -> str:
        pytest_there = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--reports", "/results/reports"]
        argv = [*RUN, "--timeout", str(SECONDS), "--results", results, *pytest_there, *self._options, *self._held]
        done = subprocess.run(argv, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.stdout


class There:
    """The plugin in the virtual machine: writes its reports to a file, one per line."""

    def __init__(self, config: pytest.Config, file: str) -> None:
        self._config, self._file = config, file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Append the report."""
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        with open(self._file, "a") as file:
            file.write(json.dumps(data) + "\n")
