"""A suite for any folder of CNI plugins: `pytest tests/conformance --cni-bin DIR [--cni-known-failures FILE]`.

It tests what the CNI specification 1.1.0, its conventions and common practice require of an interface plugin (`bridge`)
and an IPAM plugin (`host-local`). Where they leave a choice, every choice passes. Without `--cni-bin` it runs against
our own plugins and the reference plugins, and the tests that fail must be exactly those listed in the TOML files here.
"""

import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conformance.support import Refused, StandIn
from tests.netns.cni import CNI, CNIFailure
from tests.netns.fixtures import node, untouched_machine, vlan_filtering  # noqa: F401 (fixtures)
from tests.netns.node import Node, Pod

HERE = Path(__file__).parent
REFERENCE = "reference"
SUITES = ("slash24", REFERENCE)
SENTENCES = tomllib.loads((HERE / "slash24.toml").read_text())


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--cni-known-failures FILE`: the tests that the plugins under test are known to fail."""
    parser.addoption(
        "--cni-known-failures",
        metavar="FILE",
        help='TOML table "file::test" = "reason": these tests must fail, and no other may',
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test on both suites, unless one is named; the reference suite has no agent, so it only runs cold."""
    if "suite" in metafunc.fixturenames and not metafunc.config.getoption("--cni-bin"):
        suites = SUITES if metafunc.config.getoption("--way") == "cold" else SUITES[:1]
        metafunc.parametrize("suite", suites, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Expect the known failures, strictly: the run fails if one of them passes or names a test that does not exist."""
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    if config.getoption("--cni-bin"):
        file, judged = config.getoption("--cni-known-failures", None), ours
    else:
        file, judged = HERE / "reference-v1.9.1.toml", [i for i in ours if i.callspec.params["suite"] == REFERENCE]
    known = tomllib.loads(Path(file).read_text()) if file else {}
    for item in judged:
        if _name(item) in known:
            item.add_marker(pytest.mark.xfail(reason=known[_name(item)], strict=True))
    stale = known.keys() - {_name(item) for item in judged}
    everything = {f.name for f in HERE.glob("test_*.py")} == {item.path.name for item in judged}
    if stale and everything and not any("::" in argument for argument in config.args):
        raise pytest.UsageError(f"{file} names tests that do not exist: {', '.join(sorted(stale))}")


def _name(item: pytest.Item) -> str:
    """`file::test[parameters]`, without the suite among the parameters."""
    parameters = item.name.removeprefix(item.originalname).strip("[]")
    for suite in SUITES:
        parameters = f"-{parameters}-".replace(f"-{suite}-", "-", 1).strip("-")
    return f"{item.path.name}::{item.originalname}" + (f"[{parameters}]" if parameters else "")


@pytest.fixture(scope="session")
def suite() -> str:
    """Which plugins are tested; without `--cni-bin` each test runs on both suites."""
    return "the named one"


@pytest.fixture
def plugins(suite: str, request: pytest.FixtureRequest) -> Path:
    """The folder that contains the plugins under test."""
    return request.getfixturevalue("reference_bin" if suite == REFERENCE else "bin_dir")


@pytest.fixture
def refused(plugins: Path, request: pytest.FixtureRequest) -> Refused:
    """`with refused(): ...`, see `Refused`. VETH in an expected message stands for the host veth of any pod."""
    name = _name(request.node)
    file, test, parameters = re.fullmatch(r"(.*?)::(\w+)(.*)", name).groups()
    known = [SENTENCES[key] for key in (name, f"{file}::{test}", f"{file}::{parameters}") if key in SENTENCES]
    is_ours = (plugins / "slash24.d").is_dir()
    assert known or not is_ours, f"slash24.toml has no sentence for {name}"
    words = known[0] if is_ours else ""

    @contextmanager
    def refused() -> Iterator[None]:
        with pytest.raises(CNIFailure) as caught:
            yield
        assert words in re.sub(r"\bveth[0-9a-f]{11}\b", "VETH", caught.value.text)

    return refused


@pytest.fixture
def cni(node: Node, plugins: Path) -> CNI:  # noqa: F811 (the fixture, not the import)
    """The plugins under test: a call runs the executable named by the configuration's `type`."""
    return CNI(node, plugins)


@pytest.fixture
def ipam(cni: CNI) -> CNI:
    """The same for host-local, called as an interface plugin calls it: with the whole configuration."""
    return replace(cni, plugin="host-local")


@pytest.fixture
def pod(node: Node) -> Pod:  # noqa: F811 (the fixture, not the import)
    """An empty pod; its container id is its name."""
    return node.pod("poda")


@pytest.fixture
def other(node: Node) -> Pod:  # noqa: F811 (the fixture, not the import)
    """A second empty pod."""
    return node.pod("podb")


@pytest.fixture
def stand_in(tmp_path: Path) -> StandIn:
    """A stand-in for an IPAM plugin, `"type": "stand-in"`."""
    return StandIn(tmp_path)


@pytest.fixture
def with_stand_in(cni: CNI, stand_in: StandIn) -> CNI:
    """The plugins under test, with the stand-in's folder in CNI_PATH."""
    return replace(cni, more=(stand_in.folder,))
