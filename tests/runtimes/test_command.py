"""`slash24 install` and `slash24 uninstall`, on nodes with real and with made-up runtimes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli import exits
from plugins.__main__ import TYPES
from tests.conftest import ROOT
from tests.runtimes.machine import TREE, Machine
from tests.runtimes.snapshots import State, state

COMMAND = ROOT / "dist" / "bin" / "slash24"
EXAMPLE = ROOT / "docs" / "conflists" / "simple.conflist"
NET_D = "/etc/cni/net.d"
RANCHER = "/var/lib/rancher/k3s"
SNAP = "/var/snap/microk8s/current"
RUNTIMES = {
    "/usr/bin/crio": ("crio version 1.22.0", ["/usr/libexec/cni"], "/srv/crio/net.d", "0.4.0"),
    "/usr/local/bin/cri-dockerd": ("cri-dockerd 0.3.4", ["/srv/docker", "/opt/cni/bin"], "/srv/docker/net.d", "1.0.0"),
    f"{RANCHER}/data/current/bin/containerd": ("containerd v2.1.4", [f"{RANCHER}/data/cni"], f"{RANCHER}/n", "1.0.0"),
    "/snap/microk8s/current/bin/containerd": (
        "containerd v1.6.1",
        [f"{SNAP}/opt/cni/bin"],
        f"{SNAP}/args/cni-network",
        "1.0.0",
    ),
}
"""Of made-up ones: what they say, where they look, and the cniVersion of a network that is written for them."""
SECTION = "[plugins.'io.containerd.cri.v1.runtime'.cni]"
FILES = {
    "/etc/crio/crio.conf": '[crio.network]\nplugin_dirs=["/usr/libexec/cni/"]\nnetwork_dir="/srv/crio/net.d"',
    "/etc/systemd/system/cri-docker.service": "[Service]\nExecStart=/usr/local/bin/cri-dockerd"
    " --cni-bin-dir=/srv/docker,/opt/cni/bin --cni-conf-dir=/srv/docker/net.d",
    "/usr/local/bin/k3s": "",
    f"{RANCHER}/agent/etc/containerd/config.toml": f"version=3\n{SECTION}\nbin_dir='{RANCHER}/data/cni'\n"
    f"conf_dir='{RANCHER}/n'",
    f"{SNAP}/args/containerd.toml": "",
}


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Machine]:
    """A node without runtimes of its own."""
    made = Machine(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def kept() -> Iterator[tuple[Machine, State]]:
    """A node with Debian's containerd and podman, and its state."""
    made = Machine()
    try:
        yield made, state(made)
    finally:
        made.close()


@pytest.fixture
def debian(kept: tuple[Machine, State]) -> Iterator[Machine]:
    """A node with Debian's containerd and podman, on which nothing is installed."""
    machine, before = kept
    yield machine
    run(machine, "uninstall")
    for path in state(machine).keys() - before.keys():  # of the test itself
        Path(path).unlink()
    assert state(machine) == before


def write(machine: Machine, path: str, text: str, mode: int = 0o644) -> None:
    """Write a file of the node, with its folders."""
    machine.path(path).parent.mkdir(parents=True, exist_ok=True)
    machine.path(path).write_text(text)
    machine.path(path).chmod(mode)


def run(machine: Machine, *words: str, status: int = exits.OK) -> list[str]:
    """The lines that the command prints, which ends with this status."""
    done = machine.run([COMMAND, *words], check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return (done.stdout + done.stderr).splitlines()


def is_ours(machine: Machine, path: str) -> bool:
    """Whether a plugin is the built launcher."""
    return machine.run(["cmp", path, ROOT / "dist" / "bin" / path.rpartition("/")[2]], check=False).returncode == 0


def test_a_dry_run_prints_every_step_and_does_none(debian: Machine) -> None:
    """The same steps, in the same order, that an installation then takes. Installing again changes nothing."""
    before = state(debian)
    planned = run(debian, "install", "--network", "simple", "--dry-run")
    assert state(debian) == before
    done = run(debian, "install", "--network", "simple")
    steps = [line.removeprefix("would ") for line in planned if line.startswith("would ")]
    assert [line for line in done if line in steps] == steps
    assert "simple works: the scratch pod had 10.21.0.2/24, and is gone" in done
    assert debian.path(f"{NET_D}/10-simple.conflist").read_text() == EXAMPLE.read_text()
    installed = state(debian)
    assert "nothing had to be installed" in run(debian, "install", "--network", "simple")
    assert state(debian) == installed
    planned = run(debian, "uninstall", "--dry-run")
    assert state(debian) == installed
    assert [f"would {line}" for line in run(debian, "uninstall")] == planned
    assert state(debian) == before
    assert run(debian, "uninstall") == ["nothing is installed"]


def test_scripts_get_json(debian: Machine) -> None:
    """The runtimes, the steps, and what the scratch pod had; nothing else is on stdout."""
    planned = json.loads("\n".join(run(debian, "install", "--network", "simple", "--dry-run", "--json")))
    done = json.loads("\n".join(run(debian, "install", "--network", "simple", "--json")))
    assert (planned["done"], planned["trials"], done["done"]) == (False, [], True)
    assert planned["steps"] == done["steps"] != []
    assert [(one["name"], one["cni_version"]) for one in done["runtimes"]] == [
        ("containerd", "1.0.0"),
        ("podman", "1.0.0"),
    ]
    assert done["trials"] == [{"network": "simple", "cni_version": "1.0.0", "addresses": ["10.21.0.2/24"]}]
    assert done["problems"] == []
    undone = json.loads("\n".join(run(debian, "uninstall", "--json")))
    assert undone["done"]
    assert f"delete {NET_D}/10-simple.conflist" in undone["steps"]


def test_the_trial_leaves_nothing(debian: Machine) -> None:
    """No link, lease or namespace."""
    run(debian, "install", "--network", "dual-stack")
    assert set(debian.links()) == {"lo"}
    assert list(debian.path("/run/netns").iterdir()) == list(debian.path("/var/lib/cni/networks").iterdir()) == []


def test_runtimes_of_all_kinds_find_the_plugins(bare: Machine) -> None:
    """CRI-O, cri-dockerd, k3s and MicroK8s: ours are the first that each finds, and each has a network it can read."""
    for path, text in FILES.items():
        write(bare, path, text, 0o755 if path.endswith("k3s") else 0o644)
    for path, (says, bin_dirs, _, _) in RUNTIMES.items():
        write(bare, path, f"#!/bin/sh\necho {says}\n", 0o755)
        for name in ("bridge", "macvlan"):
            write(bare, f"{bin_dirs[0]}/{name}", f"{name} of {path}", 0o755)
    multi = bare.path(f"{RANCHER}/data/cni/host-local")
    multi.symlink_to("../current/bin/cni")
    before = state(bare)
    run(bare, "install", "--network", "simple")
    for _, bin_dirs, conf_dir, version in RUNTIMES.values():
        for name in TYPES:
            first = next(f"{folder}/{name}" for folder in bin_dirs if bare.path(f"{folder}/{name}").is_symlink())
            assert is_ours(bare, first)
        assert not is_ours(bare, f"{bin_dirs[0]}/macvlan")
        assert json.loads(bare.path(f"{conf_dir}/10-simple.conflist").read_text())["cniVersion"] == version
    assert multi.with_name("host-local.distrib").readlink() == Path("../current/bin/cni")
    run(bare, "uninstall")
    assert state(bare) == before


def test_a_node_without_runtimes(bare: Machine) -> None:
    """The plugins are installed where runtimes look by default, and that is said."""
    before = bare.path("/etc/cni/net.d").exists()
    lines = run(bare, "install")
    assert "no runtime that uses CNI was found: have yours look into /opt/cni/bin" in lines
    assert is_ours(bare, "/opt/cni/bin/bridge")
    assert bare.path("/etc/cni/net.d").exists() == before
    assert bare.run(["slash24", "--version"]).stdout == bare.run([COMMAND, "--version"]).stdout


def test_a_distribution_without_dpkg(bare: Machine) -> None:
    """The plugins of Fedora's package are kept and put back; there is nobody to tell."""
    bare.run(["rm", "/usr/bin/dpkg-divert"])
    write(bare, "/usr/bin/podman", "#!/bin/sh\necho podman version 4.9.4\n", 0o755)
    write(bare, "/usr/libexec/cni/bridge", "Fedora's", 0o755)
    lines = run(bare, "install")
    assert not [line for line in lines if "dpkg" in line]
    assert is_ours(bare, "/usr/libexec/cni/bridge")
    assert bare.path("/usr/libexec/cni/bridge.distrib").read_text() == "Fedora's"
    run(bare, "uninstall")
    assert [path.name for path in bare.path("/usr/libexec/cni").iterdir()] == ["bridge"]
    assert bare.path("/usr/libexec/cni/bridge").read_text() == "Fedora's"


def test_a_file_of_others_is_not_overwritten(debian: Machine) -> None:
    """It stays as it is, and nothing is installed; the sentence says what to do. A file that is edited is tried."""
    edited = EXAMPLE.read_text().replace("10.21.0.0", "10.121.0.0")
    write(debian, f"{NET_D}/10-simple.conflist", edited)
    (line,) = (line for line in run(debian, "install", "--network", "simple", status=exits.FAILED) if "Error" in line)
    assert f"{NET_D}/10-simple.conflist exists with another content, and is not overwritten" in line
    assert not debian.path("/opt/cni/bin/bridge").exists()
    lines = run(debian, "install", "--network", f"{NET_D}/10-simple.conflist")
    assert "simple works: the scratch pod had 10.121.0.2/24, and is gone" in lines
    assert debian.path(f"{NET_D}/10-simple.conflist").read_text() == edited
    write(debian, f"{NET_D}/10-simple.conflist", edited.replace('["1.0.0", "1.1.0"]', "[]").replace("1.0.0", "1.1.0"))
    lines = run(debian, "install", "--network", f"{NET_D}/10-simple.conflist", status=exits.FAILED)
    assert lines[-1].endswith("cniVersion is 1.1.0, and containerd and podman read up to 1.0.0: lower it")
    lines = run(debian, "uninstall")
    assert f"{NET_D}/10-simple.conflist remains: it was edited; delete it if no runtime needs it" in lines


def test_a_file_that_is_first_is_named(debian: Machine) -> None:
    """containerd uses the first file by name; the status says that it is another."""
    write(debian, f"{NET_D}/00-other.conflist", EXAMPLE.read_text())
    lines = run(debian, "install", "--network", "simple", status=exits.FOUND)
    assert f"containerd uses the first file by name, which is {NET_D}/00-other.conflist" in lines[-1]


def test_a_runtime_with_a_network_by_name_is_named(bare: Machine) -> None:
    """CRI-O may be told a name; then it uses no other."""
    write(bare, "/usr/bin/crio", "#!/bin/sh\necho crio version 1.31.0\n", 0o755)
    write(bare, "/etc/crio/crio.conf", '[crio.network]\ncni_default_network="other"')
    lines = run(bare, "install", "--network", "simple", status=exits.FOUND)
    assert lines[-1] == "CRI-O uses the network other, as /etc/crio/crio.conf says: have it name simple"
    write(bare, "/etc/crio/crio.conf", '[crio.network]\ncni_default_network="simple"')
    run(bare, "install", "--network", "simple")


def test_a_dry_run_of_the_script_leaves_nothing(bare: Machine) -> None:
    """Not even the folder in which it unpacks the tarball."""
    bare.run(["rm", "-rf", "/opt/cni"])
    done = bare.run([ROOT / "install.sh", "--dry-run"])
    assert "would install the plugins in /opt/cni/bin" in done.stdout
    assert not bare.path("/opt/cni").exists()


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ("kubenet", "cannot try kubenet with a scratch pod, for containerd, podman: ADD of /usr/lib/cni/kubenet: "),
        ("nonsense", 'no example is named "nonsense": choose one of '),
        ("/etc/passwd", "/etc/passwd is no list of plugins: the name of such a file ends with .conflist"),
        ("/none.conflist", "/none.conflist: cannot be read: No such file or directory"),
    ],
)
def test_a_network_that_does_not_work_is_not_written(debian: Machine, network: str, reason: str) -> None:
    """kubenet knows no subnet here; the others are no network."""
    lines = run(debian, "install", "--network", network, status=exits.FAILED)
    assert lines[-1].startswith(f"Error: {reason}")
    assert [path.name for path in debian.path(NET_D).iterdir()] == ["87-podman-bridge.conflist"]
    assert set(debian.links()) == {"lo"}


def test_a_network_with_pods_stays(debian: Machine) -> None:
    """As the DELs of its pods need it."""
    run(debian, "install", "--network", "simple")
    write(debian, "/var/lib/cni/networks/simple/10.21.0.9", "pod\r\neth0")
    write(debian, f"{NET_D}/10-slash24.conflist", "{}")
    lines = run(debian, "uninstall")
    assert f"{NET_D}/10-simple.conflist remains: pods of its network are on this node" in lines
    assert f"{NET_D}/10-slash24.conflist remains, without its plugins: " in "\n".join(lines)
    assert debian.path(f"{NET_D}/10-simple.conflist").exists()


def test_a_step_that_fails_says_what_to_do(debian: Machine) -> None:
    """The next installation completes it."""
    debian.run(["sh", "-c", "mount --bind /usr/lib/cni /usr/lib/cni; mount -o remount,ro,bind /usr/lib/cni"])
    lines = run(debian, "install", status=exits.FAILED)
    assert lines[-1].startswith("Error: cannot link bandwidth, bridge, ")
    assert "/usr/lib/cni: Read-only file system: /usr/lib/cni/" in lines[-1]
    assert lines[-1].endswith("make that folder writable, or have the runtime look into /opt/cni/bin only")
    debian.run(["umount", "/usr/lib/cni"])
    debian.path("/usr/lib/cni/gone").symlink_to("/opt/cni/bin/gone")  # of a version that had such a plugin
    run(debian, "install")
    assert is_ours(debian, "/usr/lib/cni/bridge")
    assert not debian.path("/usr/lib/cni/gone").is_symlink()


def test_the_agent_is_started_by_systemd(debian: Machine) -> None:
    """Its units are written and enabled; a newer version restarts it; an installation that is whole does not."""
    systemctl = '#!/bin/sh\necho "$*" >>/tmp/called\n[ ! -e /tmp/$1 ] || cat /tmp/$1\n'
    write(debian, "/usr/local/sbin/systemctl", systemctl, 0o755)
    debian.path("/run/systemd/system").mkdir(parents=True)
    units = ["slash24-agent.service", "slash24-agent.socket", "slash24-node.service"]

    def called(*words: str) -> list[str]:
        write(debian, "/tmp/called", "")
        run(debian, *words)
        return [line for line in debian.path("/tmp/called").read_text().splitlines() if not line.startswith("is-")]

    enable = "enable --now slash24-agent.socket slash24-agent.service"
    restart = "try-restart slash24-agent.service slash24-node.service"
    assert called("install") == ["daemon-reload", restart, enable]
    for unit in units:
        assert debian.path(f"/etc/systemd/system/{unit}").read_text() == (ROOT / "deploy" / unit).read_text()
    write(debian, "/tmp/is-active", "active")
    write(debian, "/tmp/is-enabled", "enabled")
    assert called("install") == []
    write(debian, "/opt/cni/bin/bridge", "of another suite", 0o755)
    assert called("install") == [restart]
    disable = "disable --now slash24-agent.socket slash24-agent.service slash24-node.service"
    assert called("uninstall") == [disable, "daemon-reload"]
    assert debian.path("/opt/cni/bin/bridge").read_text() == "of another suite"
    debian.path("/run/systemd/system").rmdir()


def test_only_root_installs(debian: Machine) -> None:
    """Others are told so."""
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", COMMAND]
    for verb in ("install", "uninstall"):
        done = debian.run([*user, verb], check=False)
        assert (done.returncode, done.stderr) == (
            exits.FAILED,
            f"Error: root is needed to {verb}: run the command with sudo\n",
        )


def test_the_packages_of_the_tree_are_there(debian: Machine) -> None:
    """So that the tests above are about Debian's runtimes."""
    lines = run(debian, "install", "--dry-run")
    assert lines[0] == "containerd 1.6.20~ds1 looks for plugins in /usr/lib/cni; for networks in /etc/cni/net.d"
    assert (TREE / "usr/lib/cni/bridge").exists()
