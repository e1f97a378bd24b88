"""What each provider left is found on a real node, and nothing else is."""

import json
import sys

import pytest

from cli.switch.find import CANAL, NAMES
from tests.conftest import ROOT
from tests.netns.node import Node
from tests.netns.switch_worlds import ORDER, OTHERS, PREPARE, WORLDS

pytestmark = pytest.mark.cold("no plugin is called")

FIND = """
import json
from cli.switch.find import find, find_all, NAMES
from cli.switch.seen import read
seen = read()
found = {name: [(one.kind, one.name) for one in find(name, seen)] for name in NAMES}
print(json.dumps({"each": found, "all": list(find_all())}))
"""


def find(node: Node) -> dict[str, dict]:
    """What `find` of each provider says on the node, and how much `find_all`."""
    return json.loads(node.run([sys.executable, "-c", FIND], env={"PYTHONPATH": str(ROOT)}).stdout)


def make(node: Node, *scripts: str) -> None:
    """Run shell scripts on the node, each until a command fails."""
    node.run(["sh", "-c", "\n".join(["set -e", *scripts])])


def test_nothing_of_a_provider_is_found_where_none_was(node: Node) -> None:
    """On a node of others, and of slash24."""
    make(node, PREPARE, OTHERS)
    found = find(node)
    assert found["each"] == {name: [] for name in NAMES}
    assert found["all"] == []


def test_each_finds_its_own_beside_all_others(node: Node) -> None:
    """No leftover is missed, and none is taken for another provider's or for one where somebody else made it."""
    make(node, PREPARE, OTHERS, *(WORLDS[name].script for name in ORDER))
    found = find(node)["each"]
    for name, world in WORLDS.items():
        assert set(map(tuple, found[name])) == world.left, name
    assert set(map(tuple, found[CANAL])) == WORLDS["calico"].left | WORLDS["flannel"].left
    assert found["bridge"] == []


def test_the_two_halves_of_canal_are_one(node: Node) -> None:
    """Where both flannel and Calico left something, that is Canal's."""
    make(node, PREPARE, WORLDS["calico"].script, WORLDS["flannel"].script)
    assert find(node)["all"] == [CANAL]
