"""cli/facts/runtimes.py: which runtimes are on a node, and where each looks, by folders made for the test."""

import os
import socket
from pathlib import Path

import pytest

from cli.facts.paths import BIN, NET_D
from cli.facts.runtimes import Runtime, find_runtimes

EXECUTABLES = {
    "containerd": "/usr/bin/containerd",
    "CRI-O": "/usr/bin/crio",
    "podman": "/usr/bin/podman",
    "cri-dockerd": "/usr/local/bin/cri-dockerd",
    "k3s": "/var/lib/rancher/k3s/data/current/bin/containerd",
    "RKE2": "/var/lib/rancher/rke2/bin/containerd",
    "MicroK8s": "/snap/microk8s/current/bin/containerd",
}
SAYS = {
    "containerd": "containerd github.com/containerd/containerd {} 0123abc",
    "CRI-O": "crio version {}\nVersion:        {}\nGoVersion:  go1.22.1",
    "podman": "podman version {}",
    "cri-dockerd": "cri-dockerd {} (e88b1605)",
}
RANCHER = "/var/lib/rancher/k3s"


class Tree:
    """The files of a made-up node."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file, and the folders that it needs."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def install(self, name: str, version: str) -> None:
        """Write an executable that says this version as the runtime's does."""
        says = SAYS.get(name, SAYS["containerd"]).replace("{}", version)
        self.write(EXECUTABLES[name], f"#!/bin/sh\ncat <<'EOF'\n{says}\nEOF\n", 0o755)

    def runs(self, number: int, path: str, *arguments: str) -> None:
        """Have a process that runs an executable."""
        folder = self.root / "proc" / str(number)
        folder.mkdir(parents=True)
        (folder / "exe").symlink_to(self.root / path.lstrip("/"))
        (folder / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in (path, *arguments)))

    def only(self) -> Runtime:
        """The one runtime of this node."""
        (found,) = find_runtimes(str(self.root))
        return found


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A node without anything."""
    return Tree(tmp_path)


def test_a_node_without_runtimes(tree: Tree) -> None:
    """There are none to find."""
    assert find_runtimes(str(tree.root)) == []


def test_containerd_without_a_configuration(tree: Tree) -> None:
    """It looks where it does by default, and reads the CNI version that its own version knows."""
    tree.install("containerd", "v2.1.4")
    assert tree.only() == Runtime(
        "containerd", version="2.1.4", cni_version="1.1.0", socket="/run/containerd/containerd.sock"
    )


@pytest.mark.parametrize(
    ("text", "bin_dirs", "conf_dir"),
    [
        ('[plugins.cri.cni]\nbin_dir="/a"\nconf_dir="/b"', ("/a",), "/b"),
        ('version=2\n[plugins."io.containerd.grpc.v1.cri".cni]\nbin_dir="/usr/lib/cni"', ("/usr/lib/cni",), NET_D),
        ("version=3\n[plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dir='/c'\nconf_dir='/d'", ("/c",), "/d"),
        ("version=3\n[plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dirs=['/e','/f']", ("/e", "/f"), NET_D),
        ("version=3\n[plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dir=''\nbin_dirs=[]", (BIN,), NET_D),
    ],
)
def test_formats_of_containerd(tree: Tree, text: str, bin_dirs: tuple[str, ...], conf_dir: str) -> None:
    """All three versions of its format."""
    tree.install("containerd", "v2.1.4")
    tree.write("/etc/containerd/config.toml", text)
    found = tree.only()
    assert (found.bin_dirs, found.conf_dir) == (bin_dirs, conf_dir)
    assert (found.config, found.problems) == ("/etc/containerd/config.toml", ())


def test_other_keys_of_containerd(tree: Tree) -> None:
    """Its template, how many networks it uses, its socket."""
    cni = 'conf_template="/etc/containerd/kubenet.template"\nmax_conf_num=0'
    tree.install("containerd", "1.6.20~ds1")
    tree.write(
        "/etc/containerd/config.toml",
        f'version=2\n[grpc]\naddress="/run/c.sock"\n[plugins."io.containerd.grpc.v1.cri".cni]\n{cni}\n',
    )
    found = tree.only()
    assert (found.conf_template, found.max_conf_num) == ("/etc/containerd/kubenet.template", 0)
    assert (found.socket, found.version, found.cni_version) == ("/run/c.sock", "1.6.20~ds1", "1.0.0")


@pytest.mark.parametrize(("version", "bin_dirs"), [("2.2.0", ("/a",)), ("1.7.13", (BIN,))])
def test_imports_of_containerd(tree: Tree, version: str, bin_dirs: tuple[str, ...]) -> None:
    """A later file wins; until containerd 2 with its whole section of a plugin. Circles end."""
    section = '[plugins."io.containerd.grpc.v1.cri".cni]'
    tree.install("containerd", version)
    tree.write(
        "/etc/containerd/config.toml",
        f'version=2\nimports=["conf.d/*.toml", "/etc/containerd/config.toml"]\n{section}\nbin_dir="/a"\nconf_dir="/b"',
    )
    tree.write("/etc/containerd/conf.d/1.toml", f'version=2\n{section}\nconf_dir="/early"')
    tree.write("/etc/containerd/conf.d/2.toml", f'version=2\n{section}\nconf_dir="/late"')
    imports = "/etc/containerd/conf.d/*.toml"
    if version.startswith("1"):  # it takes a pattern as it stands
        text = (tree.root / "etc/containerd/config.toml").read_text()
        tree.write("/etc/containerd/config.toml", text.replace("conf.d/*.toml", imports))
    found = tree.only()
    assert (found.bin_dirs, found.conf_dir) == (bin_dirs, "/late")


def test_containerd_of_docker(tree: Tree) -> None:
    """Docker's package switches the CRI off: no pods come by this containerd."""
    tree.install("containerd", "1.7.13")
    tree.write("/etc/containerd/config.toml", 'disabled_plugins = ["cri"]')
    found = tree.only()
    assert (found.cni_version, found.socket) == ("", "")
    assert found.why_not == "its CRI is switched off by disabled_plugins in /etc/containerd/config.toml"


def test_flags_of_the_process_and_of_the_unit(tree: Tree) -> None:
    """The process' flags win over those of the unit, of which drop-ins win; a namesake's process does not count."""
    tree.install("containerd", "2.1.4")
    tree.write("/usr/lib/systemd/system/containerd.service", "[Service]\nExecStart=/usr/bin/containerd\n")
    drop_in = "[Service]\nExecStart=\nExecStart=-/usr/bin/containerd \\\n  --config /etc/other.toml\n"
    tree.write("/etc/systemd/system/containerd.service.d/config.conf", drop_in)
    tree.write("/etc/other.toml", '[grpc]\naddress="/run/unit.sock"\n')
    assert tree.only().socket == "/run/unit.sock"
    tree.write("/etc/third.toml", '[grpc]\naddress="/run/process.sock"\n')
    tree.write("/pod/containerd", "", 0o755)
    tree.runs(70, "/pod/containerd", "--config=/pod/config.toml")
    assert tree.only().socket == "/run/unit.sock"
    tree.runs(71, "/usr/bin/containerd", "--log-level", "--config=/etc/third.toml")
    assert tree.only().socket == "/run/process.sock"
    assert tree.only().config == "/etc/third.toml"


def test_a_runtime_that_runs(tree: Tree) -> None:
    """It answers on its socket; a socket that nobody listens on any more is none."""
    tree.install("containerd", "2.1.4")
    assert not tree.only().running
    (tree.root / "run/containerd").mkdir(parents=True)
    before = os.getcwd()
    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(tree.root / "run/containerd")
        listening.bind("containerd.sock")
        os.chdir(before)
        assert not tree.only().running
        listening.listen()
        assert tree.only().running
    assert not tree.only().running


@pytest.mark.parametrize(("version", "cni"), [("1.37.0", "1.1.0"), ("1.30.2", "1.0.0"), ("1.22.0", "0.4.0")])
def test_crio(tree: Tree, version: str, cni: str) -> None:
    """Without a configuration."""
    tree.install("CRI-O", version)
    socket_path = "/var/run/crio/crio.sock"
    assert tree.only() == Runtime("CRI-O", version=version, cni_version=cni, socket=socket_path)


def test_configuration_of_crio(tree: Tree) -> None:
    """Its file, then each of crio.conf.d; the old plugin_dir is looked into last."""
    tree.install("CRI-O", "1.31.0")
    tree.write("/etc/crio/crio.conf", '[crio.network]\nnetwork_dir="/a/"\nplugin_dir="/opt/cni/bin"\n')
    tree.write("/etc/crio/crio.conf.d/10-crio.conf", '[crio.network]\nplugin_dirs=["/usr/libexec/cni/"]\n')
    tree.write(
        "/etc/crio/crio.conf.d/20.conf",
        '[crio.api]\nlisten="unix:///run/c.sock"\n[crio.network]\ncni_default_network="pods"\n',
    )
    found = tree.only()
    assert (found.bin_dirs, found.conf_dir) == (("/usr/libexec/cni", "/opt/cni/bin"), "/a")
    assert (found.network, found.socket) == ("pods", "/run/c.sock")


def test_podman(tree: Tree) -> None:
    """Debian 12's: no configuration, and no netavark; it is always there."""
    tree.install("podman", "4.3.1")
    found = tree.only()
    assert (found.cni_version, found.running, found.socket, found.network) == ("1.0.0", True, "", "podman")
    assert found.bin_dirs[-2:] == ("/usr/lib/cni", "/opt/cni/bin")


def test_the_chain_of_containers_conf(tree: Tree) -> None:
    """A later file wins, key by key."""
    tree.install("podman", "4.9.0")
    tree.write("/usr/share/containers/containers.conf", '[network]\nnetwork_backend="netavark"\n')
    tree.write("/etc/containers/containers.conf", '[network]\ncni_plugin_dirs=["/a"]\nnetwork_config_dir="/b"\n')
    assert tree.only().why_not == "its network_backend is netavark"
    tree.write("/etc/containers/containers.conf.d/1.conf", '[network]\nnetwork_backend="cni"\n')
    found = tree.only()
    assert (found.why_not, found.cni_version, found.bin_dirs, found.conf_dir) == ("", "1.0.0", ("/a",), "/b")
    assert found.config == "/etc/containers/containers.conf.d/1.conf"


def test_podman_with_netavark(tree: Tree) -> None:
    """It uses it if it finds it, unless it began with CNI; podman 5 has nothing else."""
    tree.install("podman", "4.9.0")
    tree.write("/usr/lib/podman/netavark", "", 0o755)
    assert tree.only().cni_version == ""
    tree.write("/var/lib/containers/storage/defaultNetworkBackend", "cni")
    assert tree.only().cni_version == "1.0.0"
    tree.install("podman", "5.4.1")
    assert (tree.only().cni_version, tree.only().why_not) == ("", "podman 5 and later have no CNI")


def test_cri_dockerd(tree: Tree) -> None:
    """Docker's pods come by cri-dockerd, whose flags say where it looks."""
    tree.install("cri-dockerd", "0.3.4")
    unit = "[Service]\nExecStart=/usr/bin/cri-dockerd --container-runtime-endpoint fd://"
    tree.write("/lib/systemd/system/cri-docker.service", unit)
    expected = Runtime("cri-dockerd", version="0.3.4", cni_version="1.0.0", socket="/run/cri-dockerd.sock")
    assert tree.only() == expected
    tree.write("/lib/systemd/system/cri-docker.service", f"{unit} --cni-bin-dir=/a,/b --cni-conf-dir=/c")
    assert (tree.only().bin_dirs, tree.only().conf_dir) == (("/a", "/b"), "/c")
    tree.write("/lib/systemd/system/cri-docker.service", f"{unit} --network-plugin=kubenet")
    assert (tree.only().cni_version, tree.only().why_not) == ("", "it was started with --network-plugin=kubenet")


def test_k3s(tree: Tree) -> None:
    """Its folder of plugins is the release's own, and a fixed one in newer releases; then as its file says."""
    tree.write("/usr/local/bin/k3s", "", 0o755)
    tree.install("k3s", "v1.7.23-k3s2")
    found = tree.only()
    assert (found.version, found.cni_version) == ("1.7.23-k3s2", "1.0.0")
    assert (found.bin_dirs, found.conf_dir) == ((f"{RANCHER}/data/current/bin",), f"{RANCHER}/agent/etc/cni/net.d")
    (tree.root / RANCHER[1:] / "data/cni").mkdir()
    assert tree.only().bin_dirs == (f"{RANCHER}/data/cni",)
    section = f"[plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dir='{RANCHER}/data/cni'\nconf_dir='/n'\n"
    tree.write(f"{RANCHER}/agent/etc/containerd/config.toml", f"version=3\n{section}")
    found = tree.only()
    assert (found.bin_dirs, found.conf_dir) == ((f"{RANCHER}/data/cni",), "/n")
    assert found.socket == "/run/k3s/containerd/containerd.sock"


def test_k3s_without_flannel_and_elsewhere(tree: Tree) -> None:
    """Without flannel its containerd looks where any does. Its folder may be elsewhere."""
    tree.write("/usr/local/bin/k3s", "", 0o755)
    tree.write("/etc/rancher/k3s/config.yaml", 'flannel-backend: none\ndata-dir: "/srv/k3s"\n')
    tree.write("/srv/k3s/agent/etc/containerd/config.toml", "version=3\n")
    found = tree.only()
    assert (found.name, found.bin_dirs, found.conf_dir) == ("k3s", (BIN,), NET_D)
    assert found.config == "/srv/k3s/agent/etc/containerd/config.toml"


def test_rke2(tree: Tree) -> None:
    """It has a containerd of its own, which looks where any does."""
    tree.install("RKE2", "v2.0.5-k3s1")
    tree.write("/var/lib/rancher/rke2/agent/etc/containerd/config.toml", "version=3\n")
    found = tree.only()
    assert (found.name, found.cni_version, found.bin_dirs, found.conf_dir) == ("RKE2", "1.1.0", (BIN,), NET_D)


def test_microk8s(tree: Tree) -> None:
    """The snap has folders of its own."""
    data = "/var/snap/microk8s/current"
    tree.install("MicroK8s", "v1.6.36")
    section = '[plugins."io.containerd.grpc.v1.cri".cni]\nbin_dir="/var/snap/microk8s/8511/opt/cni/bin"\n'
    tree.write(f"{data}/args/containerd.toml", f"version=2\n{section}")
    found = tree.only()
    assert found.bin_dirs == ("/var/snap/microk8s/8511/opt/cni/bin",)
    assert found.conf_dir == f"{data}/args/cni-network"
    assert found.socket == "/var/snap/microk8s/common/run/containerd.sock"


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "x = " + "[" * 100_000,
        "version = 'two'\nplugins = 3\ngrpc = []\nimports = [1, '\\u0000', 'a\\u0000*']\ndisabled_plugins = 'cri'",
        "[plugins.cri]\ncni = [[]]",
        "[plugins.cri.cni]\nbin_dirs = [1, {}]\nconf_dir = 3\nmax_conf_num = -1\nbin_dir = '\\u0000'",
        "[crio]\nnetwork = 1\napi = 'x'",
        "[crio.network]\nplugin_dirs = 'x'\nnetwork_dir = []\nplugin_dir = 1",
        "[network]\nnetwork_backend = 3\ncni_plugin_dirs = {}\ndefault_network = []",
        "# " + "x" * (2 << 20),
    ],
)
def test_hostile_files(tree: Tree, text: str) -> None:
    """Whatever the files contain, all runtimes are found, with what is known of them without."""
    for name in EXECUTABLES:
        tree.install(name, "2.1.0")
    (tree.root / "var/snap/microk8s/current").mkdir(parents=True)
    tree.write("/usr/local/bin/k3s", "", 0o755)
    files = ["/etc/containerd/config.toml", "/etc/crio/crio.conf", "/etc/containers/containers.conf"]
    files += [f"{RANCHER}/agent/etc/containerd/config.toml", "/var/snap/microk8s/current/args/containerd.toml"]
    units = ["containerd.service", "crio.service", "cri-docker.service"]
    for file in [*files, *(f"/etc/systemd/system/{unit}" for unit in units)]:
        tree.write(file, text)
    found = find_runtimes(str(tree.root))
    assert [runtime.name for runtime in found] == list(EXECUTABLES)
    assert all(runtime.bin_dirs and runtime.conf_dir for runtime in found)


def test_what_cannot_be_read_is_said(tree: Tree) -> None:
    """A malformed file, a folder in its place, bytes that are no text, an executable that says nothing."""
    tree.write("/usr/bin/containerd", "#!/bin/sh\n", 0o755)
    tree.write("/usr/bin/crio", "no program", 0o755)
    tree.write("/etc/containerd/config.toml", "imports = ['/etc/folder', '/etc/bytes']")
    (tree.root / "etc/folder").mkdir()
    (tree.root / "etc/bytes").write_bytes(b"\xff\xfe")
    tree.write("/etc/crio/crio.conf", "= 3")
    containerd, crio = find_runtimes(str(tree.root))
    assert containerd.problems[0] == "/usr/bin/containerd --version names no version"
    assert containerd.problems[1].startswith("cannot read /etc/folder: ")
    assert containerd.problems[2].startswith("cannot read /etc/bytes: ")
    assert [problem.partition(": ")[0] for problem in crio.problems] == [
        "cannot read /etc/crio/crio.conf",
        "cannot read /usr/bin/crio --version",
    ]
    assert (containerd.version, containerd.cni_version) == ("", "1.0.0")
