"""The clock of the wall, which may jump."""

import re

import pytest

from tests.conftest import ROOT

MAY_READ = {
    "daemon/install.py": "the age of files, which have times of that clock",
    "nodes/patient_folder.py": "the age of files, which have times of that clock",
    "nodes/registries/file.py": "`since`, once in the life of a node",
    "nodes/registries/kubernetes/reports.py": "times that people read",
}
MODULES = sorted(path for folder in ("daemon", "nodes") for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("name", [str(path.relative_to(ROOT)) for path in MODULES])
def test_no_decision_depends_on_the_clock(name: str) -> None:
    """Durations are measured with the steady clock."""
    reads = re.search(r"time\.time\(|time_ns\(|datetime\.now|\.utcnow", (ROOT / name).read_text())
    assert bool(reads) <= (name in MAY_READ)
