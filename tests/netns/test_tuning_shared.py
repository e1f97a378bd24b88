"""What `tuning` shares with the reference: backup files, which either can restore, and the allowlist."""

import json
from pathlib import Path

import pytest

from tests.netns.cni import CNI, CNIFailure
from tests.netns.node import Node, Pod
from tests.netns.tuned_pod import EVERYTHING, FOLDER, MAC, backups, before, changed, conf, pod_with_link, state


@pytest.fixture
def pod(node: Node) -> Pod:
    """A pod with a link eth0."""
    return pod_with_link(node)


@pytest.fixture
def allowlist(node: Node) -> Path:
    """The node's allowlist; the node gets an /etc of its own."""
    node.run(["sh", "-c", "mount -t tmpfs etc /etc && mkdir -p /etc/cni/tuning"])
    return node.path("/etc/cni/tuning/allowlist.conf")


def test_allowlist(cni: CNI, node: Node, pod: Pod, allowlist: Path) -> None:
    """Only a setting that a line matches, as the configuration writes it, may be set; STATUS reports any other."""
    allowlist.write_text("^net\\.ipv4\\.conf\\.IFNAME\\.[a-z_]*$\n")
    allowed = conf(sysctl={"net.ipv4.conf.IFNAME.arp_filter": "1"})
    cni.status(allowed)
    cni.add(allowed, pod)
    forbidden = conf(sysctl={"net.ipv4.conf.eth0.arp_filter": "1"}, mtu=1300)
    for refused in (lambda: cni.add(forbidden, pod), lambda: cni.status(forbidden)):
        with pytest.raises(CNIFailure, match="Sysctl net.ipv4.conf.eth0.arp_filter is not allowed"):
            refused()
    assert pod.links()["eth0"]["mtu"] == 1500
    cni.add(conf(mtu=1300), pod)


def test_status_is_50_where_an_add_would_fail(cni: CNI, node: Node, allowlist: Path) -> None:
    """The allowlist has a bad pattern or cannot be read, or original values cannot be saved: error 50."""
    cni.status(conf())
    allowlist.write_text("(")
    with pytest.raises(CNIFailure, match="line 1: not a regular expression") as caught:
        cni.status(conf())
    assert caught.value.code == 50
    allowlist.unlink()
    allowlist.mkdir()
    with pytest.raises(CNIFailure, match="failed to read the allowlist of sysctls") as caught:
        cni.status(conf())
    assert caught.value.code == 50
    allowlist.rmdir()
    node.path("/run/cni").write_text("no folder")
    with pytest.raises(CNIFailure, match="the original settings cannot be saved") as caught:
        cni.status(conf())
    assert caught.value.code == 50


def test_del_of_what_the_reference_tuned(cni: CNI, reference: CNI, node: Node, pod: Pod) -> None:
    """After a switch to our suite, our DEL restores what the reference's ADD saved."""
    keys = {key: value for key, value in EVERYTHING.items() if key != "sysctl"}
    was = state(pod)
    reference.add(conf(**keys), pod)
    assert changed(pod, was).keys() == {"address", "mtu", "txqlen", "flags"}
    cni.delete(conf(**keys), pod)
    assert (changed(pod, was), backups(node)) == ({}, [])


def test_add_over_an_add_of_the_reference(cni: CNI, reference: CNI, node: Node, pod: Pod) -> None:
    """Our ADD keeps the original values that the reference's ADD saved."""
    was = state(pod)
    reference.add(conf(mtu=1400, mac=MAC), pod)
    cni.add(conf(**EVERYTHING), pod)
    cni.delete(conf(**EVERYTHING), pod)
    assert changed(pod, was) == {}


def test_the_reference_restores_what_we_tuned(cni: CNI, reference: CNI, node: Node, pod: Pod) -> None:
    """After a switch back, the reference's DEL restores the link from our file, and deletes the file."""
    keys = {key: value for key, value in EVERYTHING.items() if key != "sysctl"}
    was = state(pod)
    cni.add(conf(**keys), pod)
    reference.delete(conf(**keys), pod)
    assert (changed(pod, was), backups(node)) == ({}, [])


def test_the_reference_can_read_our_file_with_sysctls(cni: CNI, reference: CNI, node: Node, pod: Pod) -> None:
    """Values that only we save do not keep it from restoring the rest; its CHECK passes after our ADD."""
    keys = EVERYTHING | {"sysctl": {"net.core.somaxconn": "77"}}
    was = state(pod)
    cni.add(conf(**keys), pod)
    reference.check(conf(**keys), pod, before())
    reference.delete(conf(**keys), pod)
    assert (changed(pod, was).keys(), backups(node)) == ({"/proc/sys/net/core/somaxconn"}, [])


def test_allowlist_is_read_as_the_reference_reads_it(
    cni: CNI, reference: CNI, node: Node, pod: Pod, allowlist: Path
) -> None:
    """For each of these patterns, valid or not, both suites allow or refuse the same."""
    patterns = [
        r"net\.core",
        "^net.core.som",
        "somaxconn$",
        r"\Anet\.core\.\w{9}$",
        "(?i)SOMAX",
        "(a|core)+?",
        "^core",
        "net.core$",
        r"^net\x2ecore",
        "net.{2,3}e",
        "(?P<x>core)",
        r"\bcore\b",
        r"\Bore",
        "x|y|",
        "[^a-z]{2}",
        "(",
        "a**",
        r"\Z",
        "[z-a]",
        "net.core.somaxconn\\",
        "(?:",
    ]
    keys = conf(sysctl={"net.core.somaxconn": "77"})
    verdicts = []
    for pattern in patterns:
        allowlist.write_text(pattern + "\n")
        verdicts.append([pattern, *(succeeds(plugin, keys, pod) for plugin in (cni, reference))])
    assert [verdict for verdict in verdicts if verdict[1] != verdict[2]] == []
    assert {verdict[1] for verdict in verdicts} == {True, False}


def succeeds(plugin: CNI, keys: dict, pod: Pod) -> bool:
    """Whether an ADD succeeds."""
    try:
        plugin.add(keys, pod)
    except CNIFailure:
        return False
    return True


def test_our_file_is_one_json_object(cni: CNI, node: Node, pod: Pod) -> None:
    """It is indented by one space, as the reference's, and readable only by its owner."""
    cni.add(conf(**EVERYTHING), pod)
    file = node.path(f"{FOLDER}/pod_eth0.json")
    assert file.read_text().startswith('{\n "mac": "')
    assert json.loads(file.read_text())["attachment"] == {"network": "net", "containerID": "pod", "ifname": "eth0"}
    assert file.stat().st_mode & 0o777 == 0o600
