"""A Debian package of the suite, made of dist/bin by dpkg-deb.

The files are in /usr/lib/slash24; the package's scripts call `slash24 install` and `slash24 uninstall`, which copy them
to /opt/cni/bin and link them where runtimes look, so that no call fails during an upgrade. The same files give the same
bytes.

    python -m freeze.deb BIN VERSION EPOCH PACKAGE
"""

import gzip
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from tempfile import TemporaryDirectory

FILES = os.path.join(os.path.dirname(__file__), "debian")
MAINTAINER = "slash24 <packages@slash24.dev>"
HOME = "usr/lib/slash24"
SHARED = {
    "systemd": "usr/lib/systemd/system",
    "man": "usr/share/man/man1",
    "completion/bash": "usr/share/bash-completion/completions",
    "completion/zsh": "usr/share/zsh/vendor-completions",
    "completion/fish": "usr/share/fish/vendor_completions.d",
}
"""Where the system looks for what is in these folders of slash24.d/share."""
SCRIPTS = ("postinst", "postrm", "prerm")
CONTROL = """\
Package: slash24
Version: {version}
Architecture: {architecture}
Maintainer: {maintainer}
Installed-Size: {size}
Depends: libc6 (>= {libc})
Suggests: containerd, podman
Section: net
Priority: optional
Description: CNI plugins, their agent, and a command for who looks after them
 Network plugins for containerd, CRI-O, podman and the other container runtimes
 that use the Container Network Interface: bridge, host-local, portmap,
 bandwidth, firewall, tuning, static and loopback, compatible with those of the
 package containernetworking-plugins; kubenet and vxlan for Kubernetes nodes
 with a subnet each.
 .
 An agent makes them fast. A daemon for each node has the nodes find each other
 and puts network policies in force. The command slash24 installs all this where
 the runtimes of the node look, and tells how it is.
"""
CHANGELOG = """\
slash24 ({version}) unstable; urgency=medium

  * See CHANGELOG.md in the sources.

 -- {maintainer}  {date}
"""


def fill(root: str, folder: str, version: str, date: str) -> None:
    """Copy the files to where they belong below `root`."""
    os.makedirs(os.path.dirname(os.path.join(root, HOME)))
    subprocess.run(["cp", "-a", folder, os.path.join(root, HOME)], check=True)  # with its hard links
    for name, place in SHARED.items():
        shutil.copytree(os.path.join(folder, "slash24.d", "share", name), os.path.join(root, place))
    os.makedirs(os.path.join(root, "usr/bin"))
    os.symlink("../lib/slash24/slash24", os.path.join(root, "usr/bin/slash24"))
    documents = os.path.join(root, "usr/share/doc/slash24")
    os.makedirs(documents)
    shutil.copyfile(os.path.join(FILES, "copyright"), os.path.join(documents, "copyright"))
    text = CHANGELOG.format(version=version, maintainer=MAINTAINER, date=date).encode()
    pack(os.path.join(documents, "changelog.gz"), text)
    overrides = os.path.join(root, "usr/share/lintian/overrides")
    os.makedirs(overrides)
    shutil.copyfile(os.path.join(FILES, "overrides"), os.path.join(overrides, "slash24"))
    pages = os.path.join(root, SHARED["man"])
    for name in os.listdir(pages):
        with open(os.path.join(pages, name), "rb") as file:
            pack(os.path.join(pages, f"{name}.gz"), file.read())
        os.unlink(os.path.join(pages, name))


def pack(path: str, content: bytes) -> None:
    """Write a compressed file, without a name or a time in it."""
    with open(path, "wb") as file:
        file.write(gzip.compress(content, 9, mtime=0))


def files(root: str) -> Iterator[str]:
    """The paths of all files below `root`, relative to it and in order."""
    found = [os.path.join(at, name) for at, _, names in os.walk(root) for name in names]
    yield from sorted(os.path.relpath(path, root) for path in found)


def control(root: str, version: str) -> str:
    """The package's description."""
    paths = [os.path.join(root, path) for path in files(root)]
    architecture = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout
    sizes = {status.st_ino: status.st_size for status in map(os.lstat, paths)}
    return CONTROL.format(
        version=version,
        architecture=architecture.strip(),
        maintainer=MAINTAINER,
        size=sum(-(-size // 1024) for size in sizes.values()),
        libc=libc([path for path in paths if os.path.isfile(path) and not os.path.islink(path)]),
    )


def libc(paths: list[str]) -> str:
    """The oldest version of the C library that has all that these files need of it."""
    ours = [path for path in paths if _start(path) == b"\x7fELF"]
    symbols = subprocess.run(["objdump", "-T", *ours], capture_output=True, text=True).stdout
    return ".".join(map(str, max((int(a), int(b)) for a, b in re.findall(r"\bGLIBC_(\d+)\.(\d+)", symbols))))


def _start(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(4)


def describe(root: str, version: str) -> None:
    """Write the package's control files."""
    text, paths = control(root, version), list(files(root))
    folder = os.path.join(root, "DEBIAN")
    os.mkdir(folder)
    with open(os.path.join(folder, "control"), "w", encoding="utf-8") as file:
        file.write(text)
    real = [path for path in paths if not os.path.islink(os.path.join(root, path))]
    with open(os.path.join(folder, "md5sums"), "w", encoding="utf-8") as file:
        subprocess.run(["md5sum", *real], cwd=root, stdout=file, check=True)
    for name in SCRIPTS:
        shutil.copyfile(os.path.join(FILES, name), os.path.join(folder, name))
        os.chmod(os.path.join(folder, name), 0o755)


def main() -> None:
    """Make PACKAGE."""
    folder, version, epoch, package = sys.argv[1:]
    date = datetime.fromtimestamp(int(epoch), UTC).strftime("%a, %d %b %Y %H:%M:%S +0000")
    with TemporaryDirectory() as root:
        os.chmod(root, 0o755)
        fill(root, folder, version, date)
        describe(root, version)
        for at, folders, names in os.walk(root):
            for path in [at, *(os.path.join(at, name) for name in (*folders, *names))]:
                os.utime(path, (int(epoch), int(epoch)), follow_symlinks=False)
        argv = ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", root, package]
        subprocess.run(argv, env=os.environ | {"SOURCE_DATE_EPOCH": epoch}, stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    main()
