"""The executables in dist/bin need nothing from the host, run from any path, and do only what the call requires."""

import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import coldstart
from freeze.bare import PACKAGES
from plugins.__main__ import TYPES
from tests.conftest import ROOT
from tests.netns.cni import CNI
from tests.netns.node import Node, wait_until

PRIVATE, AGENT, NODE, COMMAND = "slash24.d", "slash24-agent", "slash24-node", "slash24"
IPAM = {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd00:9::/64"}]]}
CONF = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "b0", "isDefaultGateway": True, "ipam": IPAM}
FULL = CONF | {"ipMasq": True, "macspoofchk": True, "mtu": 1400}
STRACE = ["strace", "-f", "-qq", "-o", "/run/trace"]


def environ(node: Node, verb: str, folder: Path | str, **more: str) -> dict[str, str]:
    """Return an environment with only the variables of a call; creates the pod if necessary."""
    if not node.path("/run/netns/pod").exists():
        node.pod("pod")
    env = {"CNI_COMMAND": verb, "CNI_CONTAINERID": "pod", "CNI_NETNS": "/run/netns/pod", "CNI_IFNAME": "eth0"}
    return env | {"CNI_PATH": str(folder)} | more


def add_and_delete(node: Node, folder: Path | str, executable: Path | str) -> None:
    """Run ADD, CHECK and DEL with `folder` as CNI_PATH and only the CNI variables in the environment."""
    added = json.loads(node.run([executable], env=environ(node, "ADD", folder), stdin=json.dumps(FULL)).stdout)
    assert [ip["address"] for ip in added["ips"]] == ["10.9.0.2/24", "fd00:9::2/64"]
    conf = json.dumps(FULL | {"prevResult": added})
    for verb in ("CHECK", "DEL"):
        done = node.run([executable], env=environ(node, verb, folder), stdin=conf)
        assert (done.stdout, done.stderr) == ("", "")


def copied(node: Node, bin_dir: Path) -> tuple[str, str]:
    """A copy of the folder at another path."""
    node.run(["cp", "-r", bin_dir, "/run/elsewhere"])
    return "/run/elsewhere", "/run/elsewhere/bridge"


def linked(node: Node, bin_dir: Path) -> tuple[str, str]:
    """A folder with symbolic links to the executables only."""
    node.run(["sh", "-c", f"mkdir /run/links && ln -s {bin_dir}/bridge {bin_dir}/host-local /run/links"])
    return "/run/links", "/run/links/bridge"


def link_of_links(node: Node, bin_dir: Path) -> tuple[str, str]:
    """A symbolic link, with a relative target, to a folder of symbolic links."""
    linked(node, bin_dir)
    node.run(["ln", "-s", "links", "/run/again"])
    return "/run/again", "/run/again/bridge"


def unpacked(node: Node, bin_dir: Path) -> tuple[str, str]:
    """The unpacked tarball."""
    (tarball,) = (ROOT / "dist").glob("slash24-*-linux-*.tgz")
    node.run(["sh", "-c", f"mkdir -p /run/opt/cni/bin && tar -xzf {tarball} -C /run/opt/cni/bin"])
    return "/run/opt/cni/bin", "/run/opt/cni/bin/bridge"


def as_built(_node: Node, bin_dir: Path) -> tuple[Path, Path]:
    """The build folder itself, by absolute path."""
    return bin_dir, bin_dir / "bridge"


@pytest.mark.parametrize("place", [as_built, copied, linked, link_of_links, unpacked])
def test_runs_from_anywhere(node: Node, bin_dir: Path, place: Callable) -> None:
    """The folder may be copied, unpacked from the tarball or reached through links; the environment may be empty."""
    add_and_delete(node, *place(node, bin_dir))


def bare_host(node: Node, bin_dir: Path) -> str:
    """Prepare a read-only root with the C library, the plugins and the paths a call writes to; the pod is /run/pod."""
    private = bin_dir / PRIVATE
    listing = node.run(["ldd", private / "bridge", *private.rglob("*.so"), *private.rglob("*.so.*")]).stdout
    libraries = set(re.findall(r"(/\S*/(?:ld-linux|lib(?:c|m|dl|rt|util|pthread))[-.]\S+) \(0x", listing))
    mounts = {str(bin_dir): "/opt/cni/bin"} | {path: path for path in ("/proc", "/sys", "/var/lib/cni")}
    folders = {f"/run/host{path}" for path in ("/run", *mounts.values(), *(str(Path(lib).parent) for lib in libraries))}
    node.run(["mkdir", "-p", *sorted(folders)])
    for library in libraries:
        node.run(["cp", "-L", library, f"/run/host{library}"])
    node.run(["touch", "/run/host/run/pod"])
    node.run(["mount", "--bind", "/run/host", "/run/host"])
    for what, where in {**mounts, "/run/netns/pod": "/run/pod"}.items():
        node.run(["mount", "--bind", what, f"/run/host{where}"])
    for where in ("", "/opt/cni/bin"):
        node.run(["mount", "-o", "remount,bind,ro", f"/run/host{where}"])
    assert node.run(["touch", "/run/host/x"], check=False).returncode != 0, "the test's root is not read-only"
    return "/run/host"


def test_runs_on_a_read_only_host_with_nothing_but_the_c_library(node: Node, bin_dir: Path) -> None:
    """Without Python, nft, iptables or a shell; the only files a call can change are leases and sysctls."""
    env = environ(node, "ADD", "/opt/cni/bin", CNI_NETNS="/run/pod")
    chroot = ["/usr/sbin/chroot", bare_host(node, bin_dir), "/opt/cni/bin/bridge"]
    added = json.loads(node.run(chroot, env=env, stdin=json.dumps(FULL)).stdout)
    leases = node.path("/var/lib/cni/networks/net")
    assert (leases / "10.9.0.2").exists()
    for verb in ("CHECK", "DEL"):
        node.run(chroot, env=env | {"CNI_COMMAND": verb}, stdin=json.dumps(FULL | {"prevResult": added}))
    assert not (leases / "10.9.0.2").exists()


@pytest.mark.cold(reason="watches what the plugin's own process does")
def test_an_add_with_host_local_is_one_process(node: Node, bin_dir: Path) -> None:
    """No process is forked: without an agent the launcher execs the frozen plugin, which re-executes itself once."""
    argv = [*STRACE, "-e", "trace=execve,execveat,clone,clone3,fork,vfork", bin_dir / "bridge"]
    for verb in ("ADD", "DEL"):
        node.run(argv, env=environ(node, verb, bin_dir), stdin=json.dumps(FULL))
        trace = node.path("/run/trace").read_text().splitlines()
        calls = [line.split(maxsplit=1)[1] for line in trace if "CLONE_THREAD" not in line]
        executed = [re.match(r'execve\("([^"]*)", ', call)[1] for call in calls]
        assert executed == [f"{bin_dir}/bridge", *2 * [f"{bin_dir}/{PRIVATE}/bridge"]]


@pytest.mark.cold(reason="watches what the plugin's own process does")
def test_a_call_writes_only_leases_and_sysctls(node: Node, bin_dir: Path) -> None:
    """The only files that a call changes are its leases and sysctls below /proc/sys/net."""
    changing = "open,creat,mkdir,rename,renameat2,link,symlink,unlink,truncate,chmod,chown,mknod,utimensat,"
    changing += "openat,openat2,mkdirat,renameat,linkat,symlinkat,unlinkat,fchmodat,fchownat,mknodat"
    argv = [*STRACE, "-e", f"trace={changing}", bin_dir / "bridge"]
    for verb in ("ADD", "DEL"):
        node.run(argv, env=environ(node, verb, bin_dir), stdin=json.dumps(FULL))
        lines = [line for line in node.path("/run/trace").read_text().splitlines() if " = -1 " not in line]
        writing = [line for line in lines if "open" not in line or re.search("O_WRONLY|O_RDWR|O_CREAT", line)]
        paths = {path for line in writing for path in re.findall(r'"([^"]*)"', line)}
        assert {path for path in paths if path.startswith("/var/lib/cni/networks/net")}, "the trace shows no lease"
        assert {path for path in paths if path.startswith("/") and not _may_change(path)} == set()


def _may_change(path: str) -> bool:
    return path.startswith(("/var/lib/cni/networks", "/proc/sys/net/")) or path == "/var/lib/cni"


@pytest.mark.parametrize("theirs", [{}, {"LD_LIBRARY_PATH": "/theirs", "HOME": "/root"}])
def test_a_foreign_plugin_gets_the_environment_of_the_runtime(
    node: Node, bin_dir: Path, theirs: dict[str, str]
) -> None:
    """It gets no variable of our bootloader, none that would load our libraries, and one that marks the delegation."""
    foreign = node.path("/run/foreign")
    foreign.mkdir()
    (foreign / "foreign-ipam").write_text('#!/bin/sh\n/usr/bin/env >/run/env\necho \'{"cniVersion": "1.1.0"}\'\n')
    (foreign / "foreign-ipam").chmod(0o755)
    env = environ(node, "DEL", f"/run/foreign:{bin_dir}", **theirs)
    node.run([bin_dir / "bridge"], env=env, stdin=json.dumps(CONF | {"ipam": {"type": "foreign-ipam"}}))
    seen = dict(line.split("=", 1) for line in node.path("/run/env").read_text().splitlines())
    of_tests = {"PWD", "_", "SHLVL", "OLDPWD", "SLASH24_SOCKET"}
    ours = {"SLASH24_DELEGATED": "1"}
    assert {name: value for name, value in seen.items() if name not in of_tests} == env | ours


@pytest.mark.cold(reason="about the interpreter that a call starts")
@pytest.mark.parametrize("variable", ["PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONOPTIMIZE", "PYTHONINSPECT"])
def test_python_variables_of_the_caller_are_ignored(node: Node, bin_dir: Path, variable: str) -> None:
    """The embedded interpreter ignores them."""
    env = environ(node, "VERSION", bin_dir) | {variable: "/nowhere"}
    assert "supportedVersions" in node.run([bin_dir / "bridge"], env=env, stdin='{"cniVersion": "1.0.0"}').stdout


@pytest.mark.cold(reason="watches what the plugin's own process does")
def test_a_plugin_does_not_load_openssl(node: Node, bin_dir: Path) -> None:
    """It is in the private folder for the daemon; loading it would take longer than the rest of a call."""
    argv = [*STRACE, "-e", "trace=openat", bin_dir / "bridge"]
    node.run(argv, env=environ(node, "ADD", bin_dir), stdin=json.dumps(FULL))
    opened = re.findall(r'"[^"]*/([^"/]+)"', node.path("/run/trace").read_text())
    assert {"libssl.so.3", "libcrypto.so.3"} < {path.name for path in (bin_dir / PRIVATE).iterdir()}
    assert "base_library.zip" in opened
    assert [name for name in opened if name.startswith(("libssl", "libcrypto", "_ssl", "_hashlib"))] == []


@pytest.mark.parametrize("locale", [{}, {"LC_ALL": "C"}, {"LC_ALL": "de_DE.ISO-8859-1"}])
def test_text_is_utf8_whatever_the_locale(cni: CNI, locale: dict[str, str]) -> None:
    """A name that is not ASCII is unchanged in the error."""
    env = environ(cni.node, "ADD", cni.folder, **locale)
    done = cni.raw("bridge", env, json.dumps(CONF | {"name": "Brücke"}, ensure_ascii=False))
    answer = json.loads(done.stdout)
    assert "Brücke" in answer["msg"] + answer.get("details", "")


def test_an_executable_with_an_unknown_name_is_an_error(node: Node, bin_dir: Path) -> None:
    """The name selects the plugin; a copy under an unknown name is an error."""
    copied(node, bin_dir)
    for folder in ("/run/elsewhere", f"/run/elsewhere/{PRIVATE}"):
        node.run(["mv", f"{folder}/bridge", f"{folder}/bride"])
    done = node.run(["/run/elsewhere/bride"], env=environ(node, "VERSION", "/run/elsewhere"), check=False)
    assert done.returncode == 1
    assert "bride" in done.stdout + done.stderr
    assert "host-local" in done.stdout + done.stderr


def test_a_launcher_without_its_frozen_plugin_names_the_missing_path(node: Node, bin_dir: Path) -> None:
    """An executable copied alone fails with an error that names the missing path."""
    node.run(["cp", bin_dir / "bridge", "/run/bridge"])
    done = node.run(["/run/bridge"], env=environ(node, "VERSION", "/run"), check=False)
    assert done.returncode == 1
    assert f"/run/{PRIVATE}/bridge" in json.loads(done.stdout)["details"]


def test_the_frozen_bundle_is_one_file(bin_dir: Path) -> None:
    """An additional plugin adds a name, not another copy of the bundle."""
    assert len({(bin_dir / PRIVATE / kind).stat().st_ino for kind in TYPES}) == 1


def test_a_launcher_can_be_copied_over_without_changing_the_others(bin_dir: Path) -> None:
    """The launchers are equal but separate files: cp(1) writes into an existing file, which hard links would share."""
    assert len({(bin_dir / kind).read_bytes() for kind in TYPES}) == 1
    assert {(bin_dir / kind).stat().st_nlink for kind in TYPES} == {1}


def test_dist_has_an_executable_for_every_plugin_of_the_table_each_program_and_one_folder(bin_dir: Path) -> None:
    """A new line in the table of plugins/__main__.py adds an executable."""
    assert {path.name for path in bin_dir.iterdir()} == {*TYPES, AGENT, NODE, COMMAND, PRIVATE}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_launcher_is_compiled_for_every_machine(machine: str) -> None:
    """The launcher is a static executable for the machine (its number in the ELF header)."""
    header = (ROOT / "dist" / "launcher" / machine / "launcher").read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert int.from_bytes(header[18:20], "little") == {"x86_64": 62, "aarch64": 183}[machine]


def test_the_tarball_holds_what_dist_holds() -> None:
    """The same files, owned by root, all in one folder; the name of the tarball has the version and the machine."""
    (tarball,) = (ROOT / "dist").glob("slash24-*.tgz")
    machine = subprocess.run(["uname", "-m"], capture_output=True, text=True, check=True).stdout.strip()
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert tarball.name == f"slash24-{version}-linux-{machine}.tgz"
    with tarfile.open(tarball) as archive:
        members = [member for member in archive.getmembers() if not member.isdir()]
    assert {(member.uid, member.gid) for member in members} == {(0, 0)}
    bin_dir = ROOT / "dist" / "bin"
    files = {str(path.relative_to(bin_dir)) for path in bin_dir.rglob("*") if path.is_file()}
    assert {member.name.removeprefix("./") for member in members} == files


def test_the_licences_of_all_bundled_software_are_listed(bin_dir: Path) -> None:
    """Each shared library outside Python, and each Python package, is listed with its licence."""
    text = (bin_dir / PRIVATE / "LICENSES.txt").read_text()
    libraries = {path.name for path in (bin_dir / PRIVATE).glob("lib*") if not path.name.startswith("libpython")}
    assert libraries
    assert [name for name in libraries if name not in text] == []
    for terms in ("Apache License", "Python Software Foundation", "Bootloader Exception", *PACKAGES):
        assert terms.lower() in text.lower()


KUBECONFIG = """{current-context: x, contexts: [{name: x, context: {cluster: x, user: x}}],
users: [{name: x, user: {token: x}}], clusters: [{name: x, cluster: {server: "https://127.0.0.1:1"}}]}"""


ETCD = "etcd://127.0.0.1:1"
REGISTRIES = [
    "file:///run/nodes",
    f"{ETCD}/slash24",
    "kubernetes",
    f"flannel+{ETCD}/coreos.com/network",
    "flannel+kubernetes",
]


@pytest.mark.cold(reason="about the daemon")
@pytest.mark.parametrize("registry", REGISTRIES)
def test_the_daemon_has_the_client_of_every_registry(node: Node, bin_dir: Path, registry: str) -> None:
    """It starts, and lacks no module when it finds that nothing listens there."""
    node.path("/run/kubeconfig").write_text(KUBECONFIG)
    text = f'mode = "kubenet"\ncluster = ["10.2.0.0/16"]\nregistry = "{registry}"\nnode = "a"\n'
    text += '[address]\nips = ["192.0.2.1"]\n'
    text += '[conflist]\npath = "/run/net.d/1.conflist"\n[kubernetes]\nkubeconfig = "/run/kubeconfig"\n'
    node.path("/run/slash24.toml").write_text(text)
    log = node.path("/run/node.log")
    with log.open("w") as stderr:
        daemon = node.start([bin_dir / NODE, "--config", "/run/slash24.toml"], stderr=stderr)
    try:
        assert wait_until(lambda: "event=lease" in log.read_text() or daemon.poll() is not None)
    finally:
        daemon.terminate()
        assert daemon.wait() == 0, log.read_text()
    assert registry.startswith("file") or "Connection refused" in log.read_text()
    assert "No module" not in log.read_text()


@pytest.fixture(scope="module")
def profiled() -> Path:
    """The plugins, frozen with import profiling on."""
    return coldstart.freeze_profiled()


@pytest.mark.cold(reason="watches what the plugin's own process does")
def test_an_add_imports_no_slow_modules(node: Node, bin_dir: Path, profiled: Path) -> None:
    """A frozen ADD with every feature on does not import the modules that slow down a start."""
    done = node.run([profiled / "bridge"], env=environ(node, "ADD", profiled), stdin=json.dumps(FULL))
    imported = coldstart.parse_imports(done.stderr)
    assert "linux.rtnl.links" in imported, f"this shows no imports: {done.stderr}"
    slow = {"argparse", "asyncio", "inspect", "ipaddress", "logging", "multiprocessing", "pathlib", "platform"}
    slow |= {"pprint", "pyroute2.config", "selectors", "ssl", "subprocess", "tempfile", "traceback", "typing"}
    assert slow & imported.keys() == set()


@pytest.mark.cold(reason="the benchmark has nodes of its own")
def test_the_benchmark_reports(tmp_path: Path, bin_dir: Path, reference_bin: Path) -> None:
    """bench/ succeeds, in its own namespaces, and prints its results as a table and as JSON."""
    report = tmp_path / "bench.json"
    argv = [sys.executable, "-m", "bench.cni", "--rounds", "1", "--json", report]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    medians = json.loads(report.read_text())["medians"]
    assert {row["verb"] for row in medians} == {"ADD", "DEL"}
    assert all(row["case"] in done.stdout and row["slash24"] > 0 and row["reference"] > 0 for row in medians)
