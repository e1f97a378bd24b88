"""`slash24 switch` takes away what a provider left, and nothing else; not while its pods or its daemon run."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli import exits
from cli.switch.names import CANAL
from tests.conftest import ROOT
from tests.netns.node import Node
from tests.netns.switch_worlds import ORDER, OTHERS, PREPARE, WORLDS
from tests.netns.test_switch_find import find, make

pytestmark = pytest.mark.cold("no plugin is called")


ENVIRONMENT = {"PYTHONPATH": str(ROOT), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


def switch(node: Node, *arguments: str) -> subprocess.CompletedProcess:
    """Run the command on the node."""
    return node.run([sys.executable, "-m", "cli", "switch", *arguments], env=ENVIRONMENT, check=False)


def state(node: Node) -> dict[str, set[str]]:
    """What is on the node besides providers: rules and chains, tables, sets, links, rules of routing, routes, files."""
    commands = {
        "iptables": "for p in iptables ip6tables iptables-legacy; do $p-save | grep -e '^-A' -e ':.* -'; done",
        "tables": "nft list tables | grep -v -w -e filter -e nat -e raw -e mangle",
        "sets": "ipset list -n; ip xfrm policy",
        "links": "ip -o link | cut -d: -f2",
        "rules": "ip rule; ip -6 rule",
        "routes": "{ ip route show table all; ip -6 route show table all; } | grep -v -e fe80 -e 'table local'",
        "files": "find /etc/cni /opt /run /var/lib /sys/fs/bpf -not -path '/var/lib/slash24/*' -not -path '/run/etc/*'",
    }
    return {name: set(node.run(["sh", "-c", line], check=False).stdout.splitlines()) for name, line in commands.items()}


@contextmanager
def process(node: Node, name: str, tmp_path: Path) -> Iterator[None]:
    """A process of that name runs."""
    program = tmp_path / name
    shutil.copy(shutil.which("sleep"), program)
    started = node.start([str(program), "60"])
    try:
        yield
    finally:
        started.kill()
        started.wait()


ALL = """
import json, subprocess, sys
from click.testing import CliRunner
from cli.app import slash24
from cli.switch.find import find
from cli.switch.seen import read
steps = []
for name in sys.argv[2:]:
    if sys.argv[1] == "command":
        done = CliRunner().invoke(slash24, ["switch", name, "--yes"])
        status, said = done.exit_code, done.output
    else:
        document = json.loads(CliRunner().invoke(slash24, ["switch", name, "--json"]).stdout)
        lines = ["set -e", *(line for one in document["leftovers"] for line in one["commands"])]
        done = subprocess.run(["sh", "-c", chr(10).join(lines)], capture_output=True, text=True)
        status, said = done.returncode, done.stderr
    seen = read()
    left = {other: [(one.kind, one.name) for one in find(other, seen)] for other in sys.argv[2:]}
    steps.append((name, status, said, left))
print(json.dumps(steps))
"""
"""Takes away what providers left, one after the other: by the command, or by the commands of its plans."""


@pytest.mark.parametrize("way", ["command", "commands of the plan"])
def test_each_takes_its_own_away(node: Node, way: str) -> None:
    """On a node that has everything, the others keep what is theirs, to the last one."""
    make(node, PREPARE, OTHERS)
    before = state(node)
    make(node, *(WORLDS[name].script for name in ORDER))
    left = {name: world.left for name, world in WORLDS.items()}
    done = node.run([sys.executable, "-c", ALL, way, *ORDER], env=ENVIRONMENT)
    for name, status, said, found in json.loads(done.stdout):
        assert (name, status) == (name, exits.OK), said
        left[name] = frozenset()
        assert {other: set(map(tuple, one)) for other, one in found.items()} == left, name
    after = state(node)
    for what in before:
        assert (what, after[what] - before[what] - _FOLDERS, before[what] - after[what]) == (what, set(), set())
    backup = node.path("/var/lib/slash24/switched")
    assert (backup / "calico/etc/cni/net.d/calico-kubeconfig").exists()
    assert (backup / "flannel/opt/cni/bin/flannel").exists()
    assert switch(node).returncode == exits.OK


_FOLDERS = {
    "/var/lib/slash24",
    "/sys/fs/bpf/tc",
    "/sys/fs/bpf/tc/globals",
    "/sys/fs/bpf/globals",
    "/run/xtables.lock",
    "/var/lib/cni/networks/podnet/lock",
}
"""What a person may keep: folders that several programs share, and locks."""


def test_without_yes_nothing_changes(node: Node) -> None:
    """The plan has every leftover with commands, and the status says that something is left."""
    make(node, PREPARE, WORLDS["weave"].script)
    before = state(node)
    done = switch(node, "weave", "--json")
    assert done.returncode == exits.FOUND
    document = json.loads(done.stdout)
    assert {(one["kind"], one["name"]) for one in document["leftovers"]} == WORLDS["weave"].left
    assert all(one["commands"] for one in document["leftovers"])
    shown = switch(node, "weave")
    assert shown.returncode == exits.FOUND
    assert all(line in shown.stdout for one in document["leftovers"] for line in one["commands"])
    assert "weave" in switch(node).stdout
    assert switch(node, "--yes").returncode == exits.USAGE
    assert state(node) == before


PODS = (
    ("calico", "cali00112233445", ""),
    (CANAL, "cali00112233445", ""),
    ("cilium", "lxc001122334455", ""),
    ("aws", "eni00112233445", ""),
    ("kindnet", "knet00112233", ""),
    ("weave", "vethwepl0123456", ""),
    ("weave", "veth0", "ip link set veth0 master weave"),
    ("kube-router", "veth0", "ip link set veth0 master kube-bridge"),
    ("lyft", "veth0a1b2c3d", ""),
    ("romana", "veth0", "ip link set veth0 up && ip route add 10.250.1.5 dev veth0"),
    ("kopeio", "veth0", "ip link set veth0 master cbr0"),
)
"""Links of pods: of which provider, its name, and what else was done."""


def test_it_refuses_while_pods_run(node: Node) -> None:
    """It names the pods, and has changed nothing; when they are gone it does not refuse."""
    make(node, PREPARE, *(WORLDS[name].script for name in ORDER))
    node.pod("pod")
    before = state(node)
    for name, link, setup in PODS:
        make(node, f"ip link add {link} type veth peer name eth0 netns pod", setup)
        done = switch(node, name, "--yes")
        assert done.returncode == exits.FAILED
        assert f"/run/netns/pod ({link})" in done.stderr
        make(node, f"ip link del {link}")
    assert state(node) == before
    assert switch(node, "lyft", "--yes").returncode == exits.OK


def test_it_refuses_while_the_provider_runs(node: Node, tmp_path: Path) -> None:
    """It would make everything again."""
    make(node, PREPARE, WORLDS["kube-router"].script)
    with process(node, "kube-router", tmp_path):
        done = switch(node, "kube-router", "--yes")
        assert done.returncode == exits.FAILED
        assert "kube-router runs (process" in done.stderr
    assert switch(node, "kube-router", "--yes").returncode == exits.OK


def test_what_fails_is_told_and_the_rest_is_done(node: Node) -> None:
    """With the command that does it; a second run does what is left."""
    others = "iptables -A OTHERS -m set --match-set KUBE-X src -m set --match-set weave-local-pods dst -j DROP"
    make(node, PREPARE, WORLDS["weave"].script, "ipset create KUBE-X hash:ip", "iptables -N OTHERS", others)
    done = switch(node, "weave", "--yes")
    assert done.returncode == exits.FAILED
    assert "failed: ipset weave-local-pods: ipset weave-local-pods: a rule or another set refers to it" in done.stderr
    assert "   ipset destroy weave-local-pods\n" in done.stderr
    assert find(node)["each"]["weave"] == [["set", "weave-local-pods"]]
    node.run(["iptables", "-F", "OTHERS"])
    assert switch(node, "weave", "--yes").returncode == exits.OK


def test_rules_of_iptables_legacy(node: Node) -> None:
    """They are found and taken away beside those of nf_tables."""
    rules = """
    iptables-legacy -t nat -N FLANNEL-POSTRTG
    iptables-legacy -t nat -A FLANNEL-POSTRTG -s 10.244.0.0/16 -j RETURN
    iptables-legacy -t nat -A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
    iptables-legacy -t nat -N OTHERS
    iptables-legacy -t nat -A POSTROUTING -m comment --comment "of others" -j OTHERS
    """
    if node.run(["iptables-legacy", "-t", "nat", "-L"], check=False).returncode:
        pytest.skip("kernel lacks iptables-legacy")
    make(node, PREPARE, rules)
    assert [name for _, name in find(node)["each"]["flannel"]] == ["iptables-legacy ip nat"]
    assert switch(node, "flannel", "--yes").returncode == exits.OK
    saved = node.run(["iptables-legacy-save"]).stdout
    assert "FLANNEL" not in saved
    assert '-A POSTROUTING -m comment --comment "of others" -j OTHERS' in saved
