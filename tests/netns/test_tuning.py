"""`tuning` on a node: everything it changes is put back, by whichever way the pod goes."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.netns.cni import CNI, PATH, CNIFailure, with_prev
from tests.netns.node import Node, Pod

FOLDER = "/run/cni/tuning"
MTU6 = "/proc/sys/net/ipv6/conf/eth0/mtu"
MAC = "02:00:5e:10:00:01"
EVERYTHING = {
    "mac": MAC,
    "mtu": 1400,
    "promisc": True,
    "allmulti": True,
    "txQLen": 17,
    "sysctl": {
        "net.ipv4.conf.IFNAME.arp_filter": "1",
        "net.ipv6.conf.IFNAME.hop_limit": "33",
        "net.core.somaxconn": "77",
        "net.ipv4.ip_local_reserved_ports": "8080,9000-9010",
        "net.ipv4.tcp_rmem": "4096 80000 6000000",
    },
}


@pytest.fixture
def pod(node: Node) -> Iterator[Pod]:
    """A pod with a link eth0."""
    made = node.pod("pod")
    made.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far"])
    made.run(["ip", "link", "set", "eth0", "up"])
    return made


def conf(**keys: object) -> dict:
    """A configuration with these keys, and the result of the plugin before."""
    return with_prev({"cniVersion": "1.1.0", "name": "net", "type": "tuning", **keys}, before())


def before() -> dict:
    """The result of the plugin before."""
    return {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:07", "sandbox": "/run/netns/pod"}],
    }


def state(pod: Pod) -> dict:
    """Everything under /proc/sys/net that can be read, and what can be tuned of the link."""
    link = pod.ip("link", "show", "eth0")[0]
    kept = {key: link[key] for key in ("address", "mtu", "txqlen", "flags")}
    # What the kernel counts or draws anew, not settings.
    settings = pod.run(["sh", "-c", "grep -rs '' /proc/sys/net | grep -v -e nf_conntrack_count -e /neigh/.*_ms"]).stdout
    return kept | dict(line.partition(":")[::2] for line in settings.splitlines())


def changed(pod: Pod, was: dict) -> dict:
    """What is not as it was; the MTU of IPv6 goes with that of the link."""
    now = state(pod)
    assert int(now.get(MTU6, now["mtu"])) == now["mtu"]
    return {
        key: (was.get(key), now.get(key))
        for key in was.keys() | now.keys()
        if was.get(key) != now.get(key) and key != MTU6
    }


def backups(node: Node) -> list[str]:
    """The files that wait for a DEL."""
    return sorted(file.name for file in node.path(FOLDER).glob("*"))


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
    with pytest.raises(CNIFailure, match="holds the originals of another attachment: a_b c"):
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
    with pytest.raises(CNIFailure):
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


@pytest.fixture
def allowlist(node: Node) -> Iterator[object]:
    """Write the allowlist of the node: an /etc of its own."""
    node.run(["sh", "-c", "mount -t tmpfs etc /etc && mkdir -p /etc/cni/tuning"])
    return node.path("/etc/cni/tuning/allowlist.conf")


def test_allowlist(cni: CNI, node: Node, pod: Pod, allowlist) -> None:
    """Only what a line matches, as the configuration writes it, may be set; STATUS says so before."""
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


def test_status_is_50_where_an_add_would_fail(cni: CNI, node: Node, allowlist) -> None:
    """An allowlist with a bad pattern, or one that can not be read, or originals that can not be saved: error 50."""
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
    with pytest.raises(CNIFailure, match="the originals can not be saved") as caught:
        cni.status(conf())
    assert caught.value.code == 50


def test_del_of_what_the_reference_tuned(cni: CNI, reference: CNI, node: Node, pod: Pod) -> None:
    """The node came to us: our DEL puts back what the reference's ADD saved."""
    keys = {key: value for key, value in EVERYTHING.items() if key != "sysctl"}
    was = state(pod)
    reference.add(conf(**keys), pod)
    assert changed(pod, was).keys() == {"address", "mtu", "txqlen", "flags"}
    cni.delete(conf(**keys), pod)
    assert (changed(pod, was), backups(node)) == ({}, [])


def test_add_upon_what_the_reference_tuned(cni: CNI, reference: CNI, node: Node, pod: Pod) -> None:
    """An ADD of ours over one of the reference's keeps the originals of that."""
    was = state(pod)
    reference.add(conf(mtu=1400, mac=MAC), pod)
    cni.add(conf(**EVERYTHING), pod)
    cni.delete(conf(**EVERYTHING), pod)
    assert changed(pod, was) == {}


def test_the_reference_puts_back_what_we_tuned(cni: CNI, reference: CNI, node: Node, pod: Pod) -> None:
    """The node goes back: the reference's DEL restores the link from our file, and removes it."""
    keys = {key: value for key, value in EVERYTHING.items() if key != "sysctl"}
    was = state(pod)
    cni.add(conf(**keys), pod)
    reference.delete(conf(**keys), pod)
    assert (changed(pod, was), backups(node)) == ({}, [])


def test_the_reference_understands_our_file_with_sysctls_in_it(cni: CNI, reference: CNI, node: Node, pod: Pod) -> None:
    """What only we save does not keep it from restoring the rest; CHECK of either passes after the ADD of ours."""
    keys = EVERYTHING | {"sysctl": {"net.core.somaxconn": "77"}}
    was = state(pod)
    cni.add(conf(**keys), pod)
    reference.check(conf(**keys), pod, before())
    reference.delete(conf(**keys), pod)
    assert (changed(pod, was).keys(), backups(node)) == ({"/proc/sys/net/core/somaxconn"}, [])


def test_allowlist_is_read_as_the_reference_reads_it(cni: CNI, reference: CNI, node: Node, pod: Pod, allowlist) -> None:
    """For one pattern after the other, both allow and refuse the same."""
    patterns = [
        r"net\.core",
        "^net.core.som",
        "somaxconn$",
        r"^[[:alpha:].]+$",
        r"\Anet\.core\.\w{9}\z",
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
        "(?=net)",
        r"\Z",
        "[z-a]",
        "net.core.somaxconn\\",
        "(?:",
        "x{1001}",
        "{1}",
        "a{,2}|q",
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
    """Indented by one blank as the reference's, readable for its owner alone."""
    cni.add(conf(**EVERYTHING), pod)
    file = node.path(f"{FOLDER}/pod_eth0.json")
    assert file.read_text().startswith('{\n "mac": "')
    assert json.loads(file.read_text())["attachment"] == {"network": "net", "containerID": "pod", "ifname": "eth0"}
    assert file.stat().st_mode & 0o777 == 0o600
