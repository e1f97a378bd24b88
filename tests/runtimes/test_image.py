"""The image of `./build.sh --image` runs in containers of Debian's podman and containerd."""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from plugins.__main__ import VERSION
from tests.conftest import ROOT
from tests.runtimes.engines import Containerd, Podman
from tests.runtimes.machine import Machine

IMAGE = f"localhost/slash24:{VERSION}"
ARCHIVE = ROOT / "dist" / f"slash24-{VERSION}-linux-amd64.oci.tar"
LARGEST = 40_000_000


def test_podman_runs_the_image(machine: Machine, podman: Podman) -> None:
    """`podman load` knows it by its name."""
    assert IMAGE in machine.run(["podman", "load", "--input", ARCHIVE]).stdout
    done = machine.run(["podman", "run", "--rm", "--network=none", IMAGE, "slash24-agent", "--version"])
    assert done.stdout.strip() == VERSION


def test_a_container_installs_the_plugins_on_its_host(machine: Machine, podman: Podman) -> None:
    """As the manifest's init container does, with a read-only root; a plugin then runs without the container."""
    machine.run(["podman", "load", "--input", ARCHIVE])
    machine.run(["mkdir", "-p", "/tmp/bin"])
    options = ["--rm", "--read-only", "--privileged", "--network=none", "--volume=/tmp/bin:/host/opt/cni/bin"]
    for _ in range(2):
        machine.run(["podman", "run", *options, IMAGE, "slash24-node", "--install=/host/opt/cni/bin"])
    expected = {path.name for path in (ROOT / "dist" / "bin").iterdir()}
    installed = {path.name for path in machine.path("/tmp/bin").iterdir()}
    assert {name for name in installed if not name.startswith("slash24.d.")} == expected
    done = machine.run(["env", "CNI_COMMAND=VERSION", "/tmp/bin/bridge"], stdin='{"cniVersion": "1.0.0"}')
    assert "1.1.0" in json.loads(done.stdout)["supportedVersions"]


def test_containerd_runs_the_image(machine: Machine, containerd: Containerd) -> None:
    """`ctr images import` knows it by its name, as the kubelet asks for it."""
    machine.run(["ctr", "-n", "k8s.io", "images", "import", ARCHIVE])
    options = ["--rm", "--read-only", "--runc-binary=/tmp/runc"]
    done = machine.run(["ctr", "-n", "k8s.io", "run", *options, IMAGE, "try", "slash24-node", "--version"])
    assert done.stdout.strip() == VERSION


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's files."""
    folder = tmp_path_factory.mktemp("image")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder / "layout", filter="data")
    (manifest,) = json.loads((folder / "layout" / "index.json").read_text())["manifests"]
    (layer,) = json.loads(blob(folder / "layout", manifest).read_text())["layers"]
    with tarfile.open(blob(folder / "layout", layer)) as files:
        files.extractall(folder / "root", filter="fully_trusted")
    return folder / "root"


def blob(layout: Path, descriptor: dict) -> Path:
    """The file of a descriptor, whose digest and size are right."""
    path = layout / "blobs" / descriptor["digest"].replace(":", "/")
    content = path.read_bytes()
    assert descriptor["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert descriptor["size"] == len(content)
    return path


def test_the_image_has_what_dist_has_and_no_shell(unpacked: Path) -> None:
    """The executables with their hard links, the C library with its licence, and files that libraries read."""
    assert subprocess.run(["diff", "-r", ROOT / "dist" / "bin", unpacked / "opt/slash24/bin"]).returncode == 0
    private = unpacked / "opt/slash24/bin/slash24.d"
    assert (private / "bridge").stat().st_ino == (private / "vxlan").stat().st_ino
    files = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    others = {path for path in files if not path.startswith(("opt/", "lib"))}
    assert others == {"etc/group", "etc/nsswitch.conf", "etc/passwd", "usr/share/doc/libc6/copyright"}
    assert os.readlink(unpacked / "var/run") == "../run"
    assert (unpacked / "tmp").stat().st_mode & 0o7777 == 0o1777


def test_two_builds_give_the_same_archive_of_less_than_40_megabytes(tmp_path: Path) -> None:
    """Whatever the times of files are, and in whichever order folders list them."""
    copy = tmp_path / "bin"
    subprocess.run(["cp", "--recursive", "--preserve=links,mode", ROOT / "dist" / "bin", copy], check=True)
    with tarfile.open(ARCHIVE) as archive:
        epoch = archive.getmember("index.json").mtime  # that of the commit
    argv = [sys.executable, "-m", "freeze.image", copy, VERSION, str(int(epoch)), tmp_path / "image.tar"]
    subprocess.run(argv, cwd=ROOT, check=True)
    assert (tmp_path / "image.tar").read_bytes() == ARCHIVE.read_bytes()
    assert ARCHIVE.stat().st_size < LARGEST
