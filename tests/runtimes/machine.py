"""A Debian node for tests, with containerd and podman as Debian's packages install them.

Its root is an overlay: the machine's tree, the unpacked packages, and memory for writes. It has its own process,
network, mount and UTS namespaces, and all of it disappears with the process that holds it.
"""

import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.conftest import ROOT
from tests.netns.node import Host, Pod, wait_until

TREE = ROOT / "build" / "runtimes" / "tree"
IMAGE = "localhost/pause:1"
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"

# A folder inside the lower tree cannot be a layer over it, so it is copied; runtimes cannot store in an overlay. The
# node has a control group of its own as the root of a cgroup2 hierarchy, which every runtime can use.
_HOLD = """
set -e
mount -t tmpfs node "$2"
cd "$2"
mkdir upper work root group
mount -t cgroup2 node group
mkdir group/$3
echo 0 >group/$3/cgroup.procs
cp -a "$1/." upper
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work node root
cd root
for folder in run tmp var/lib/containerd var/lib/containers var/lib/cni; do
    mkdir -p $folder
    mount -t tmpfs node $folder
done
mkdir -p run/netns
mount -t proc proc proc
mount --rbind /dev dev
mount --rbind /sys sys
ip link set lo up
exec unshare --cgroup sh -ec 'mount -t cgroup2 node sys/fs/cgroup; exec chroot . sh -c "echo ready; exec cat"'
"""
_LASTING = ("/var/lib/cni", "/var/lib/containerd")
_NEW_BOOT_ID = (
    "cat /proc/sys/kernel/random/uuid >/run/boot_id; mount --bind /run/boot_id /proc/sys/kernel/random/boot_id"
)
_REMOVE_GROUP = 'mount -t cgroup2 node "$1"; find "$1/$2" -depth -type d -exec rmdir {} +'


class Machine(Host):
    """The node; `tree`: a folder with the packages that are installed on it."""

    def __init__(self, tree: Path = TREE) -> None:
        self._top = tempfile.mkdtemp()
        flags = ["--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--propagation", "private"]
        self._group = f"slash24-{os.path.basename(self._top)}"
        argv = ["unshare", *flags, "--", "sh", "-c", _HOLD, "sh", str(tree), self._top, self._group]
        self._holder = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout.readline() == "ready\n", f"no node: has tests/runtimes/fetch.sh made {tree}?"
        holder = self._holder.pid
        self.pid = int(Path(f"/proc/{holder}/task/{holder}/children").read_text())
        super().__init__(self.pid, f"/proc/{self.pid}/ns/net")
        flags = ["--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--root", "--wdns=/"]
        self._enter = ["nsenter", f"--target={self.pid}", *flags, "--", "env", "-i", f"PATH={PATH}", "HOME=/root"]

    def path(self, absolute: str) -> Path:
        """The path of a file of the node in the test's file system."""
        return Path(f"/proc/{self.pid}/root{absolute}")

    def pod(self, name: str) -> Pod:
        """Create an empty network namespace /run/netns/NAME."""
        self.run(["ip", "netns", "add", name])
        return Pod(self, name)

    def netns(self, path: str) -> Host:
        """A pod that a runtime has created, by the path of its network namespace."""
        real = path.replace("/var/run/", "/run/", 1)  # /var/run is a link, which would be followed on this machine
        return Host(self.pid, f"/proc/{self.pid}/root{real}")

    def image(self) -> str:
        """The path on the node of an archive of the pods' image, whose command sleeps."""
        self.path("/tmp/image.tar").write_bytes(sleeping_image())
        return "/tmp/image.tar"

    def rebooted(self) -> "Machine":
        """The node after its power was cut: another boot with the leases and containerd's notes, and nothing else.

        This one is closed. The plugins and the network are to be installed again.
        """
        new = Machine()
        new.run(["sh", "-ec", _NEW_BOOT_ID])
        self.run(["sh", "-c", "kill -KILL -1"])
        for folder in _LASTING:
            subprocess.run(["cp", "-a", self.path(folder), new.path(folder).parent], check=True)
        self.close()
        return new

    def close(self) -> None:
        """End the holding process, and with it every process of the node."""
        self._holder.stdin.close()
        self._holder.wait(timeout=20)
        self._holder.stdout.close()
        script = ["sh", "-ec", _REMOVE_GROUP, "sh", self._top, self._group]
        assert wait_until(lambda: subprocess.run(["unshare", "--mount", *script], capture_output=True).returncode == 0)
        os.rmdir(self._top)


def sleeping_image() -> bytes:
    """A docker archive of IMAGE, whose command sleeps."""
    return image(IMAGE, ["/bin/sleep", "1000000"], {"bin/sleep": (TREE / "usr/bin/busybox").read_bytes()})


def image(name: str, command: Sequence[str], files: Mapping[str, bytes]) -> bytes:
    """A docker archive of an image with this name, command and executables."""
    layer = archive(files)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": list(command)},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    texts = {"config.json": config, "manifest.json": manifest}
    return archive({"layer.tar": layer} | {file: json.dumps(value).encode() for file, value in texts.items()})


def archive(files: Mapping[str, bytes]) -> bytes:
    """A tar archive of executables."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
