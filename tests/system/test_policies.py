"""Who reaches whom under each policy of tests/policy/cases.py: real packets, compared with the model of the API.

Nine pods, the nodes and a host outside probe each other by TCP, UDP, SCTP and ICMP, over IPv4 and IPv6.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.policy.cases import CASES, chosen
from tests.system.policy_cluster import LAYOUTS, PolicyCluster, policy_cluster

pytestmark = pytest.mark.cold(reason="its nodes have agents of their own")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each layout has its third of the cases, or with `--every-case` all; its tests run in one process."""
    is_every = metafunc.config.getoption("every_case")
    pairs = [
        pytest.param(layout, name, marks=pytest.mark.xdist_group(f"policies on {layout}"))
        for turn, layout in enumerate(LAYOUTS, start=1)
        for name in (CASES if is_every else chosen(turn))
    ]
    metafunc.parametrize(("policies", "name"), pairs, indirect=["policies"], scope="module")


@pytest.fixture(scope="module")
def policies(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, bin_dir: Path, reference_bin: Path
) -> Iterator[PolicyCluster]:
    """Nine pods on one node, or on three; for all tests of this module."""
    with policy_cluster(request.param, tmp_path_factory.mktemp("policies"), bin_dir, reference_bin) as made:
        yield made


def test_packets_pass_as_the_api_says(policies: PolicyCluster, name: str) -> None:
    """Those that are allowed arrive and are answered, the others do not arrive; after each step of the case."""
    for number, step in enumerate(CASES[name], start=1):
        documents = policies.documents(step)
        policies.enforce(documents, are_apart=len(CASES[name]) > 1)
        found = policies.differences(documents)
        assert not found, f"step {number} of {len(CASES[name])}:\n{found}"
