"""The checks of the chaos test find each kind of leftover and each kind of loss."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.leftovers import Attached, problems
from tests.chaos.networks import NETWORKS, begin_overlay, write_foreign
from tests.chaos.runtime import judge
from tests.netns.cni import CNI, with_prev
from tests.netns.node import Node, wait_until

pytestmark = pytest.mark.cold(reason="about the tests' own eyes")

DAMAGES = {
    "a lease": ("printf 'gone\\r\\neth0' >/var/lib/cni/networks/masq/10.41.0.9", "lease of masq without a pod"),
    "another's lease": ("printf 'gone\\r\\neth0' >/var/lib/cni/networks/masq/10.41.0.2", "lease of masq without a pod"),
    "no lease": ("rm /var/lib/cni/networks/chain/10.42.0.2", "no lease of chain for a pod"),
    "an entry": (
        "cd /var/lib/cni/networks/masq/.slash24/*/; touch gone:eth0:0",
        "entry of masq without a pod: gone:eth0:0",
    ),
    "a foreign lease": ("ln -s gone:eth0 /run/foreign/10.43.0.9", "foreign lease without a pod"),
    "no foreign lease": ("rm /run/foreign/10.43.0.2", "no foreign lease for a pod"),
    "a veth": ("ip link add stray type veth peer name yarts", "link without a pod: stray"),
    "an ifb": ("ip link add stray type ifb", "link without a pod: stray"),
    "no link": ("ip link del $(ip -o link show type ifb | cut -d' ' -f2 | tr -d :)", "no link for a pod"),
    "an element": (
        """nft 'add element inet slash24_masquerade pods4 { 10.41.0.9 comment "v1:masq:gone:eth0" : return }'""",
        "element without a pod: v1:masq:gone:eth0",
    ),
    "no element": ("nft delete element inet slash24_portmap ports4 { tcp . 8001 }", "no element for a pod: v1:chain:"),
    "a chain": ("nft add chain inet slash24_masquerade subnet-10.9.0.0/24", "chain of 10.9.0.0/24"),
    "shaping": ("tc qdisc add dev masq0 root tbf rate 1mbit burst 20000 latency 25ms", "shaping without a pod: masq0"),
    "no shaping": (
        "tc qdisc del dev $(ip -o link show type ifb | cut -d' ' -f2 | tr -d :) root",
        "no shaping for a pod: bwp",
    ),
    "a route": ("ip route add 10.47.9.0/24 via 192.0.2.2 proto 24", "route to a peer without a pod: 10.47.9.0/24"),
    "no route": ("ip route del 10.47.2.0/24", "no route to a peer for a pod: 10.47.2.0/24"),
    "a namespace": ("ip netns add stray", "namespace without a pod: stray"),
}


@pytest.fixture
def living(node: Node, bin_dir: Path, tmp_path: Path) -> list[Attached]:
    """A pod on each of our networks that every kernel supports."""
    write_foreign(tmp_path)
    begin_overlay(node)
    cni, found = CNI(node, bin_dir, more=(tmp_path,)), []
    everywhere = [network for network in NETWORKS if not (network.is_reference or network.filters_vlans)]
    for number, network in enumerate(everywhere):
        pod, result = node.pod(f"pod{number}"), None
        for conf in network.configurations(number, ""):
            result = cni.add(with_prev(conf, result), pod)
        found.append(Attached(network, pod.name, result))
    return found


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_difference_is_found(node: Node, living: list[Attached], damage: str) -> None:
    """Nothing is reported before the damage, and something after it."""
    line, told = DAMAGES[damage]
    assert problems(node, living) == []
    node.run(["bash", "-ec", line])
    found = problems(node, living)
    assert [each for each in found if told in each], found


def test_every_leftover_of_an_unknown_pod_is_found(node: Node, living: list[Attached]) -> None:
    """Every part of a pod that is not among the living ones is reported."""
    parts = {each.partition(" without")[0] for each in problems(node, living[1:2])}
    assert parts >= {"lease of masq", "entry of masq", "foreign lease", "link", "element", "namespace"}
    parts = {each.partition(" without")[0] for each in problems(node, [living[0], living[2]])}
    assert parts >= {"lease of chain", "link", "element", "shaping", "namespace"}


@pytest.fixture
def holder(node: Node) -> Iterator[Callable[[str], int]]:
    """Starts a process on the node that runs a line of Python and then waits; returns its process id."""
    started = []

    def start(line: str) -> int:
        code = f"import os, socket, ctypes\n{line}\nprint('ready', flush=True)\ninput()"
        argv = ["/usr/bin/env", "python3", "-c", code]
        started.append(node.start(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "ready\n"
        return started[-1].pid

    yield start
    for process in started:
        process.communicate()


DESCRIPTOR = "kept = os.open('/run/netns/pod', os.O_RDONLY)"
SOCKET = """
own, pod = (os.open(path, os.O_RDONLY) for path in ('/proc/self/ns/net', '/run/netns/pod'))
enter = ctypes.CDLL(None).setns
assert enter(pod, 0) == 0
kept = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
assert enter(own, 0) == 0
os.close(own)
os.close(pod)
"""


@pytest.mark.parametrize("line", [DESCRIPTOR, SOCKET], ids=["a descriptor", "a socket"])
def test_a_held_namespace_is_found(node: Node, holder: Callable[[str], int], line: str) -> None:
    """A process with a descriptor of a pod's namespace, or a socket in it, is reported; one with neither is not."""
    node.pod("pod")
    assert problems(node, [], [holder("pass")]) == ["namespace without a pod: pod"]
    pid = holder(line)
    assert wait_until(lambda: [one for one in problems(node, [], [pid]) if f"the agent {pid} holds" in one], timeout=1)


def test_a_process_of_the_foreign_plugin_is_found(node: Node) -> None:
    """A process that still hangs after all calls have ended is reported."""
    process = node.start(["sleep", "60"])
    assert wait_until(lambda: problems(node, []) == [f"a process of the foreign plugin: {process.pid}"], timeout=1)
    process.kill()
    process.wait()
    assert problems(node, []) == []


RESULT = {"cniVersion": "1.1.0", "ips": []}
ERROR = {"cniVersion": "1.1.0", "code": 11, "msg": "later"}


@pytest.mark.parametrize(
    ("verb", "status", "stdout", "outcome", "is_right"),
    [
        ("ADD", 0, json.dumps(RESULT), "ok", True),
        ("DEL", 0, "", "ok", True),
        ("ADD", 1, json.dumps(ERROR), "code 11", True),
        ("DEL", -9, "", "killed", True),
        ("ADD", 0, "", "ok", False),
        ("ADD", 0, json.dumps(ERROR), "ok", False),
        ("DEL", 0, json.dumps(RESULT), "ok", False),
        ("ADD", 0, json.dumps(RESULT) * 2, "malformed", False),
        ("ADD", 1, "", "malformed", False),
        ("ADD", 1, json.dumps({**ERROR, "code": "11"}), "malformed", False),
        ("ADD", 1, json.dumps({**ERROR, "msg": ""}), "malformed", False),
        ("ADD", 2, json.dumps(ERROR), "code 11", False),
    ],
)
def test_outcomes_of_calls(verb: str, status: int, stdout: str, outcome: str, is_right: bool) -> None:
    """Malformed output is reported, and an error never counts as success."""
    answer, wrong = judge(verb, status, stdout)
    assert (answer.outcome, not wrong) == (outcome, is_right)
