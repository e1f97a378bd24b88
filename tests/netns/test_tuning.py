"""`tuning` on a node: everything it changes is put back, by whichever way the pod goes."""

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


def test_everything_is_set_and_put_back(cni: CNI, node: Node, pod: Pod) -> None:
    """An ADD sets all that is configured, and only that; a DEL leaves the pod as it was before, and no file."""
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
    """What the kernel changes along with a setting, on every link, is put back with it, also where links differed."""
    pod.run(
        ["sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/far/forwarding; echo 1 >/proc/sys/net/ipv6/conf/far/forwarding"]
    )
    was = state(pod)
    cni.add(conf(sysctl={name: value}), pod)
    assert changed(pod, was)
    cni.delete(conf(sysctl={name: value}), pod)
    assert changed(pod, was) == {}


def test_setting_that_can_only_be_written(cni: CNI, pod: Pod) -> None:
    """A setting without a value to keep is written all the same."""
    keys = {"sysctl": {"net.ipv4.route.flush": "1"}}
    cni.add(conf(**keys), pod)
    cni.delete(conf(**keys), pod)


def test_interface_names_with_dots(cni: CNI, node: Node) -> None:
    """IFNAME, or the name itself with the other separator, reach an interface whose name has a dot."""
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


def test_a_second_add_never_loses_the_originals(cni: CNI, pod: Pod) -> None:
    """ADDs with the same and with other settings; one DEL gives back what was before the first."""
    was = state(pod)
    cni.add(conf(**EVERYTHING), pod)
    cni.add(conf(**EVERYTHING), pod)
    cni.add(conf(mtu=1300, sysctl={"net.core.somaxconn": "78", "net.ipv4.tcp_sack": "0"}), pod)
    cni.delete(conf(), pod)
    assert changed(pod, was) == {}


def test_originals_of_another_namespace_are_not_used(cni: CNI, node: Node, pod: Pod) -> None:
    """A container that comes again without a DEL has a new namespace: what was saved of the old is forgotten."""
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


def test_stale_originals_are_not_put_back(cni: CNI, node: Node, pod: Pod) -> None:
    """Nor does a DEL put them upon a new namespace at the same path; the file goes all the same."""
    cni.add(conf(**EVERYTHING), pod)
    pod.vanish()
    again = node.pod("pod")
    again.run(["ip", "link", "add", "eth0", "mtu", "1450", "type", "veth", "peer", "name", "far"])
    was = state(again)
    cni.delete(conf(**EVERYTHING), again)
    assert changed(again, was) == {}
    assert backups(node) == []


def test_originals_of_another_link_are_not_used(cni: CNI, pod: Pod) -> None:
    """A link that took the name of the tuned one keeps its MAC and settings; those of the namespace are put back."""
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
    """Whatever is gone already: no file stays, and nothing is an error."""
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
    """A file that can not be understood is removed, and nothing put back from it."""
    cni.add(conf(mtu=1400), pod)
    node.path(f"{FOLDER}/pod_eth0.json").write_text(text)
    cni.delete(conf(mtu=1400), pod)
    assert (backups(node), pod.links()["eth0"]["mtu"]) == ([], 1400)


def test_attachments_with_the_same_file_name(cni: CNI, node: Node, pod: Pod) -> None:
    """`a_b` with `c` and `a` with `b_c`: the second ADD is refused, and its DEL takes nothing of the first."""
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
    """An ADD whose last step the kernel refuses changes nothing, tuned before or not; nor does it the file."""
    if second:
        cni.add(conf(mtu=1450, txQLen=5), pod)
    was, files = state(pod), {name: node.path(f"{FOLDER}/{name}").read_bytes() for name in backups(node)}
    with pytest.raises(CNIFailure, match=r"failed to set (mtu|sysctl net\.nosuch|sysctl net\.core\.somaxconn)\b"):
        cni.add(conf(**(EVERYTHING | last)), pod)
    assert changed(pod, was) == {}
    assert {name: node.path(f"{FOLDER}/{name}").read_bytes() for name in backups(node)} == files


def test_add_undoes_itself_whichever_request_is_refused(node: Node, pod: Pod, bin_dir: Path) -> None:
    """For each request to the kernel and each file that an ADD makes: if it is refused, all is as before."""
    script = ROOT / "tests" / "netns" / "fail_every_step.py"
    env = {"PYTHONPATH": str(ROOT), "PATH": PATH, "PYTHONDONTWRITEBYTECODE": "1"}
    done = node.run([sys.executable, script, bin_dir, pod.path, "used"], stdin=json.dumps(conf(**EVERYTHING)), env=env)
    story = json.loads(done.stdout)
    failed = [entry for entry in story if entry["status"]]
    assert len(failed) >= 5 + len(EVERYTHING["sysctl"]) + 1, f"too few requests were refused to prove anything: {story}"
    assert story[-1] == {"refused": "", "status": 0, "left": {}}, "the ADD that is not disturbed succeeds"
    assert [entry for entry in failed if entry["left"]] == []


def test_del_after_an_add_that_died_anywhere(cni: CNI, node: Node, pod: Pod) -> None:
    """Killed before any of its requests, or of its files was in place: a DEL leaves the pod as it was, and no file."""
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
    """Where they can not be saved, nothing is changed."""
    node.path("/run/cni").write_text("a file where the folder should be")
    was = state(pod)
    with pytest.raises(CNIFailure) as caught:
        cni.add(conf(**EVERYTHING), pod)
    assert caught.value.code == 5
    assert changed(pod, was) == {}
    cni.delete(conf(**EVERYTHING), pod)


@pytest.mark.parametrize("folder", ["/run/nosuch", "/run/plain", "/dev/null", "/run/" + "long" * 70, "/run/nul\0", ""])
def test_del_and_gc_where_no_file_can_be(cni: CNI, node: Node, pod: Pod, folder: str) -> None:
    """A folder that is not there, is none, or can not be: nothing to put back, no error; nor for a very long id."""
    node.path("/run/plain").write_text("")
    cni.delete(conf(dataDir=folder), pod, containerid="long" * 70)
    cni.gc(conf(dataDir=folder))


def test_nothing_to_do_leaves_nothing(cni: CNI, node: Node, pod: Pod) -> None:
    """Without anything to tune there is no file, and the result is that of the plugin before."""
    assert cni.add(conf(), pod) == before()
    assert backups(node) == []


def test_read_only_settings_that_are_as_wanted(cni: CNI, node: Node, pod: Pod) -> None:
    """Where /proc/sys is read-only, a setting that has its value already is no error; another one is."""
    node.run(["mount", "-o", "bind,ro", "/proc/sys", "/proc/sys"])
    cni.add(conf(sysctl={"net.ipv4.ip_forward": pod.sysctl("ipv4/ip_forward")}), pod)
    with pytest.raises(CNIFailure, match="failed to set sysctl net.core.somaxconn"):
        cni.add(conf(sysctl={"net.core.somaxconn": "77"}), pod)


def test_gc_forgets_the_pods_that_are_gone(cni: CNI, node: Node, pod: Pod) -> None:
    """Files of this network's stale attachments go; those of valid ones, other networks and the reference stay."""
    for name in ("valid", "stale"):
        cni.add(conf(mtu=1400), pod, containerid=name)
    cni.add(conf(mtu=1400) | {"name": "other"}, pod, containerid="elsewhere")
    node.path(f"{FOLDER}/go_eth0.json").write_text('{"mtu": 1500}')
    cni.gc(conf(), ("valid", "eth0"))
    assert backups(node) == ["elsewhere_eth0.json", "go_eth0.json", "valid_eth0.json"]
    cni.gc(conf(dataDir="/run/nosuch"))
