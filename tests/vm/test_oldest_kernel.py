"""The oldest supported kernel has all features that the examples need."""

import subprocess
import sys

import pytest

from linux.kernel import OLDEST
from tests.conftest import ROOT
from tests.vm import handover

EXAMPLES = ("dual_stack", "firewalled", "kubenet", "vxlan")
"""Of tests/netns/test_docs.py: between them they have every table of rules, both kinds of ways, ports and limits."""


@pytest.mark.xdist_group("heavy")
def test_examples_work_on_the_oldest_kernel() -> None:
    """Pod traffic, published ports and egress work on Debian's kernel of that version."""
    names = [f"tests/netns/test_docs.py::test_{name}" for name in EXAMPLES]
    pytest_there = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--reports", "/dev/null"]
    argv = [*handover.RUN, "--kernel", f"{OLDEST[0]}.{OLDEST[1]}", *pytest_there, *names]
    done = subprocess.run(argv, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    assert f"{len(names)} passed" in done.stdout
