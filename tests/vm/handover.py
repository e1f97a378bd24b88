"""Tests that this machine's kernel can not run are run on another.

A test that skips because "kernel lacks ..." has not been run. When all others are through, these are run once more in
the virtual machine, on Debian's stock kernel, with the same plugins; what is reported there is their result here.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

EXCUSE = "kernel lacks"
SECONDS = 600
"""How long the virtual machine may run."""

RUN = [str(Path(__file__).with_name("run.sh"))]
"""What runs a command there."""


def lacks(report: pytest.TestReport | pytest.CollectReport) -> bool:
    """Whether the report is the skip of a test for want of a kernel's feature."""
    return report.skipped and not hasattr(report, "wasxfail") and reason(report.longrepr).startswith(EXCUSE)


def reason(longrepr: object) -> str:
    """Why a test was skipped."""
    text = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    return text.removeprefix("Skipped: ")


class Here:
    """The run on this machine: holds back tests that its kernel can not run, and has them run elsewhere."""

    def __init__(self, options: list[str]) -> None:
        """`options`: of pytest, to say there which plugins are tested, and how."""
        self._options = options
        self._items: list[pytest.Item] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        """Run a test; report it, unless it is for another kernel."""
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        if any(map(lacks, reports)):
            self._items.append(item)
        else:
            for report in reports:
                item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Iterator[None]:
        """When all others are through, run those that were held back."""
        done = yield
        if self._items:
            session.config.get_terminal_writer().line(f"\nin the virtual machine: {len(self._items)} tests")
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
        for item in self._items:
            if item.nodeid not in finished:
                text = f"the virtual machine has no result of this test. It said:\n{said}"
                failed = pytest.TestReport(item.nodeid, item.location, {}, "failed", text, "call")
                config.hook.pytest_runtest_logreport(report=failed)

    def _run(self, folder: Path, results: str) -> str:
        names = [item.nodeid for item in self._items]
        pytest_there = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--reports", "/results/reports"]
        argv = [*RUN, "--timeout", str(SECONDS), "--results", results, *pytest_there, *self._options, *names]
        done = subprocess.run(argv, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.stdout


class There:
    """The run in the virtual machine: writes its reports to a file, one a line."""

    def __init__(self, config: pytest.Config, file: str) -> None:
        self._config, self._file = config, file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write one."""
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        with open(self._file, "a") as file:
            file.write(json.dumps(data) + "\n")
