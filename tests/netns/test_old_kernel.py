"""A kernel with a low version number that has every required feature, as distributions' kernels may."""

import json

import pytest

from tests.netns.cni import CNI
from tests.netns.node import Node

OLD = ("setarch", "--uname-2.6")
CONF = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "isDefaultGateway": True, "ipMasq": True}
IPAM = {"type": "host-local", "subnet": "10.1.2.0/24"}


@pytest.mark.cold(reason="the agent's kernel is not that of who calls it")
@pytest.mark.parametrize("verb", ["STATUS", "ADD"])
def test_the_kernels_version_number_is_ignored(cni: CNI, node: Node, verb: str) -> None:
    """The plugin tries, and succeeds; STATUS has the kernel validate the rules, and leaves none."""
    pod = node.pod("pod")
    assert node.run([*OLD, "uname", "-r"]).stdout.startswith("2.6.")
    argv = [*OLD, cni.folder / "bridge"]
    done = node.run(argv, stdin=json.dumps({**CONF, "ipam": IPAM}), env=cni.environ(verb, pod), check=False)
    assert done.returncode == 0, done.stdout
    assert ("slash24_masquerade" in node.ruleset()) == (verb == "ADD")
