"""`tuning` on a node: everything it changes is restored, however the pod ends."""

import json
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.netns.cni import CNI, PATH, CNIFailure
from tests.netns.node import Node, Pod
from tests.netns.tuned_pod import EVERYTHING, FOLDER, backups, before, changed, conf, pod_with_link, state


@pytest.fixture
def pod(node: Node) -> Pod:
    """A pod with a link eth0."""
    return pod_with_link(node)


def test_everything_is_set_and_restored(cni: CNI, node: Node, pod: Pod) -> None:
    """ADD sets what is configured and nothing else; DEL restores the previous state and deletes the file."""
    was = state(pod)
    cni.add(conf(**EVERYTHING), pod)
    paths = [key.replace(".", "/").replace("IFNAME", "eth0") for key in EVERYTHING["sysctl"]]
    assert changed(pod, was).keys() == {"address", "mtu", "txqlen", "flags", *(f"/proc/sys/{path}" for path in paths)}
    cni.check(conf(**EVERYTHING), pod, before())
    assert backups(node) == ["pod_eth0.json"]
    cni.delete(conf(**EVERYTHING), pod, before())
    assert changed(pod, was) == {}
    assert backups(node) == []
    cni.delete(conf(**EVERYTHING), pod, before())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv4.conf.all.forwarding", "1"),
        ("net.ipv6.conf.all.forwarding", "1"),
        ("net.ipv6.conf.all.disable_ipv6", "1"),
        ("net.ipv6.conf.default.disable_ipv6", "1"),
        ("net.ipv4.conf.default.arp_ignore", "2"),
    ],
)
def test_settings_that_change_others(cni: CNI, pod: Pod, name: str, value: str) -> None:
    """What the kernel changes along with a setting, on every link, is restored too, even if links differed."""
    pod.run(
        ["sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/far/forwarding; echo 1 >/proc/sys/net/ipv6/conf/far/forwarding"]
    )
    was = state(pod)
    cni.add(conf(sysctl={name: value}), pod)
    assert changed(pod, was)
    cni.delete(conf(sysctl={name: value}), pod)
    assert changed(pod, was) == {}


def test_write_only_setting(cni: CNI, pod: Pod) -> None:
    """A setting without a value to save is written all the same."""
    keys = {"sysctl": {"net.ipv4.route.flush": "1"}}
    cni.add(conf(**keys), pod)
    cni.delete(conf(**keys), pod)


def test_interface_names_with_dots(cni: CNI, node: Node) -> None:
    """IFNAME, or the name written with either separator, addresses an interface whose name contains a dot."""
    pod = node.pod("pod")
    pod.run(["ip", "link", "add", "net1.7", "type", "veth", "peer", "name", "a.b"])
    keys = {
        "net.ipv4.conf.IFNAME.arp_filter": "1",
        "net.ipv4.conf.a/b.arp_filter": "1",
        "net/ipv4/conf/a.b/arp_notify": "1",
    }
    cni.add(conf(sysctl=keys), pod, ifname="net1.7")
    paths = ["ipv4/conf/net1.7/arp_filter", "ipv4/conf/a.b/arp_filter", "ipv4/conf/a.b/arp_notify"]
    assert [pod.sysctl(path) for path in paths] == ["1", "1", "1"]
    cni.delete(conf(sysctl=keys), pod, ifname="net1.7")
    assert [pod.sysctl(path) for path in paths] == ["0", "0", "0"]


def test_a_second_add_keeps_the_original_values(cni: CNI, pod: Pod) -> None:
    """After ADDs with the same and with other settings, one DEL restores the values from before the first."""
    was = state(pod)
    cni.add(conf(**EVERYTHING), pod)
    cni.add(conf(**EVERYTHING), pod)
    cni.add(conf(mtu=1300, sysctl={"net.core.somaxconn": "78", "net.ipv4.tcp_sack": "0"}), pod)
    cni.delete(conf(), pod)
    assert changed(pod, was) == {}


def test_originals_of_another_namespace_are_not_used(cni: CNI, node: Node, pod: Pod) -> None:
    """A container that returns without a DEL has a new namespace: values saved from the old one are discarded."""
    pod.run(["sysctl", "-q", "net.core.somaxconn=1111"])
    cni.add(conf(**EVERYTHING), pod)
    pod.vanish()
    again = node.pod("pod")
    again.run(["ip", "link", "add", "eth0", "mtu", "1450", "type", "veth", "peer", "name", "far"])
    was = state(again)
    cni.delete(conf(**EVERYTHING), again, ifname="eth1")
    assert changed(again, was) == {}
    cni.add(conf(mtu=1400), again)
    cni.delete(conf(mtu=1400), again)
    assert changed(again, was) == {}


def test_stale_originals_are_not_restored(cni: CNI, node: Node, pod: Pod) -> None:
    """DEL does not apply them to a new namespace at the same path, but deletes the file."""
    cni.add(conf(**EVERYTHING), pod)
    pod.vanish()
    again = node.pod("pod")
    again.run(["ip", "link", "add", "eth0", "mtu", "1450", "type", "veth", "peer", "name", "far"])
    was = state(again)
    cni.delete(conf(**EVERYTHING), again)
    assert changed(again, was) == {}
    assert backups(node) == []


def test_originals_of_another_link_are_not_used(cni: CNI, pod: Pod) -> None:
    """A link that took the tuned link's name keeps its MAC and settings; those of the namespace are restored."""
    cni.add(conf(**EVERYTHING), pod)
    pod.run(["ip", "link", "del", "eth0"])
    pod.run(["ip", "link", "add", "eth0", "mtu", "1450", "type", "veth", "peer", "name", "far"])
    pod.run(["sysctl", "-q", "net.ipv4.conf.eth0.arp_filter=1"])
    was = state(pod)
    cni.delete(conf(), pod)
    paths = {"core/somaxconn", "ipv4/ip_local_reserved_ports", "ipv4/tcp_rmem"}
    assert changed(pod, was).keys() == {f"/proc/sys/net/{path}" for path in paths}


@pytest.mark.parametrize("how", ["namespace vanished", "namespace not given", "link vanished", "configuration changed"])
def test_del_always_removes_the_file(cni: CNI, node: Node, pod: Pod, how: str) -> None:
    """Whatever has been deleted before, DEL succeeds and leaves no file."""
    cni.add(conf(**EVERYTHING), pod)
    keys, variables = EVERYTHING, {}
    if how == "namespace vanished":
        pod.vanish()
    elif how == "namespace not given":
        variables = {"netns": None}
    elif how == "link vanished":
        pod.run(["ip", "link", "del", "eth0"])
    else:
        keys, variables = {"mtu": "x", "sysctl": 7, "dataDir": 7}, {"args": "MAC=zz;x"}
    cni.delete(conf(**keys), pod, **variables)
    assert backups(node) == []


@pytest.mark.parametrize("text", ["", "{", '{"sysctl": {"../../kernel/x": "1"}}'])
def test_del_with_a_garbled_file(cni: CNI, node: Node, pod: Pod, text: str) -> None:
    """A file that cannot be parsed is deleted, and nothing is restored from it."""
    cni.add(conf(mtu=1400), pod)
    node.path(f"{FOLDER}/pod_eth0.json").write_text(text)
    cni.delete(conf(mtu=1400), pod)
    assert (backups(node), pod.links()["eth0"]["mtu"]) == ([], 1400)


def test_attachments_with_the_same_file_name(cni: CNI, node: Node, pod: Pod) -> None:
    """`a_b` with `c` and `a` with `b_c`: the second ADD is refused, and its DEL leaves the first's file alone."""
    pod.run(["ip", "link", "add", "c", "type", "veth", "peer", "name", "b_c"])
    cni.add(conf(mtu=1400), pod, containerid="a_b", ifname="c")
    with pytest.raises(CNIFailure, match="holds the original settings of another attachment: a_b c"):
        cni.add(conf(mtu=1300), pod, containerid="a", ifname="b_c")
    cni.delete(conf(mtu=1300), pod, containerid="a", ifname="b_c")
    assert backups(node) == ["a_b_c.json"]
    cni.delete(conf(mtu=1400), pod, containerid="a_b", ifname="c")
    assert (backups(node), pod.links()["c"]["mtu"]) == ([], 1500)


@pytest.mark.parametrize(
    "last",
    [
        {"mtu": 67},
        {"sysctl": EVERYTHING["sysctl"] | {"net.nosuch": "1"}},
        {"sysctl": {"net.ipv4.ip_forward": "1", "net.core.somaxconn": "x"}},
    ],
    ids=["mtu", "no such sysctl", "no such value"],
)
@pytest.mark.parametrize("second", [False, True], ids=["first ADD", "second ADD"])
def test_failed_add_leaves_everything_as_it_was(cni: CNI, node: Node, pod: Pod, last: dict, second: bool) -> None:
    """If the kernel refuses its last step, an ADD changes neither the pod, tuned before or not, nor the file."""
    if second:
        cni.add(conf(mtu=1450, txQLen=5), pod)
    was, files = state(pod), {name: node.path(f"{FOLDER}/{name}").read_bytes() for name in backups(node)}
    with pytest.raises(CNIFailure, match=r"failed to set (mtu|sysctl net\.nosuch|sysctl net\.core\.somaxconn)\b"):
        cni.add(conf(**(EVERYTHING | last)), pod)
    assert changed(pod, was) == {}
    assert {name: node.path(f"{FOLDER}/{name}").read_bytes() for name in backups(node)} == files


def test_add_undoes_itself_whichever_request_is_refused(node: Node, pod: Pod, bin_dir: Path) -> None:
    """If any request to the kernel, or any file that an ADD writes, is refused, the previous state is restored."""
    script = ROOT / "tests" / "netns" / "fail_every_step.py"
    env = {"PYTHONPATH": str(ROOT), "PATH": PATH, "PYTHONDONTWRITEBYTECODE": "1"}
    done = node.run([sys.executable, script, bin_dir, pod.path, "used"], stdin=json.dumps(conf(**EVERYTHING)), env=env)
    story = json.loads(done.stdout)
    failed = [entry for entry in story if entry["status"]]
    assert len(failed) >= 5 + len(EVERYTHING["sysctl"]) + 1, f"too few requests were refused to prove anything: {story}"
    assert story[-1] == {"refused": "", "status": 0, "left": {}}, "the ADD that is not disturbed succeeds"
    assert [entry for entry in failed if entry["left"]] == []


def test_del_after_an_add_killed_at_any_step(cni: CNI, node: Node, pod: Pod) -> None:
    """Killed before any of its requests, or before its file is in place: DEL restores the pod and leaves no file."""
    script = ROOT / "tests" / "netns" / "die_at_step.py"
    env = {"PYTHONPATH": str(ROOT), "PATH": PATH, "PYTHONDONTWRITEBYTECODE": "1"}
    was, died = state(pod), 0
    while True:
        argv = [sys.executable, script, pod.path, str(died + 1)]
        done = node.run(argv, stdin=json.dumps(conf(**EVERYTHING)), env=env, check=False)
        cni.delete(conf(**EVERYTHING), pod, before())
        assert (changed(pod, was), backups(node)) == ({}, [])
        if done.returncode == 0:
            break
        assert done.returncode == 9, done.stderr
        died += 1
    assert died == 1 + 5 + len(EVERYTHING["sysctl"]), "the file, the link's attributes, the sysctls"


def test_originals_are_saved_before_the_first_change(cni: CNI, node: Node, pod: Pod) -> None:
    """If they cannot be saved, nothing is changed."""
    node.path("/run/cni").write_text("a file where the folder should be")
    was = state(pod)
    with pytest.raises(CNIFailure) as caught:
        cni.add(conf(**EVERYTHING), pod)
    assert caught.value.code == 5
    assert changed(pod, was) == {}
    cni.delete(conf(**EVERYTHING), pod)


@pytest.mark.parametrize("folder", ["/run/nosuch", "/run/plain", "/dev/null", "/run/" + "long" * 70, "/run/nul\0", ""])
def test_del_and_gc_without_a_usable_folder(cni: CNI, node: Node, pod: Pod, folder: str) -> None:
    """A folder that is missing, not a directory or invalid: nothing to restore and no error; nor for a very long ID."""
    node.path("/run/plain").write_text("")
    cni.delete(conf(dataDir=folder), pod, containerid="long" * 70)
    cni.gc(conf(dataDir=folder))


def test_without_settings_no_file_is_written(cni: CNI, node: Node, pod: Pod) -> None:
    """The result is that of the previous plugin."""
    assert cni.add(conf(), pod) == before()
    assert backups(node) == []


def test_read_only_settings_that_have_the_configured_value(cni: CNI, node: Node, pod: Pod) -> None:
    """With /proc/sys read-only, a setting that already has its value is not an error; any other is."""
    node.run(["mount", "-o", "bind,ro", "/proc/sys", "/proc/sys"])
    cni.add(conf(sysctl={"net.ipv4.ip_forward": pod.sysctl("ipv4/ip_forward")}), pod)
    with pytest.raises(CNIFailure, match="failed to set sysctl net.core.somaxconn"):
        cni.add(conf(sysctl={"net.core.somaxconn": "77"}), pod)


def test_gc_deletes_the_files_of_stale_attachments(cni: CNI, node: Node, pod: Pod) -> None:
    """Those of valid attachments, other networks and the reference stay."""
    for name in ("valid", "stale"):
        cni.add(conf(mtu=1400), pod, containerid=name)
    cni.add(conf(mtu=1400) | {"name": "other"}, pod, containerid="elsewhere")
    node.path(f"{FOLDER}/go_eth0.json").write_text('{"mtu": 1500}')
    cni.gc(conf(), ("valid", "eth0"))
    assert backups(node) == ["elsewhere_eth0.json", "go_eth0.json", "valid_eth0.json"]
    cni.gc(conf(dataDir="/run/nosuch"))
