"""An image of the suite for containers, as an OCI archive, made of dist/bin and of this machine's C library.

It needs neither docker nor a network. The image has no shell and no package manager: only what the executables load.
The same files give the same bytes.

    python -m freeze.image BIN VERSION EPOCH ARCHIVE
"""

import gzip
import hashlib
import io
import json
import os
import platform
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime

HOME = "opt/slash24/bin"
NAME = "localhost/slash24"
"""With this host in its name no runtime asks a registry for the image."""

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
TEXTS = {
    "etc/group": "root:x:0:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
    "etc/passwd": "root:x:0:0:root:/:/nonexistent\n",
}
FOLDERS = {"dev": 0o755, "proc": 0o755, "run": 0o755, "sys": 0o755, "tmp": 0o1777, "var": 0o755}
LINKS = {"var/run": "../run"}  # where Kubernetes mounts the token of the service account
COPYRIGHT = "usr/share/doc/libc6/copyright"
TYPE = "application/vnd.oci.image."


def libraries(folder: str) -> list[str]:
    """The paths of the shared libraries outside `folder` that its files need."""
    files = [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]
    files = sorted(path for path in files if _start(path) == b"\x7fELF")
    bundled = {os.path.basename(path) for path in files}
    listing = subprocess.run(["ldd", *files], capture_output=True, text=True).stdout
    found = dict(re.findall(r"^\s+(\S+) => (.+?)(?: \(0x\w+\))?$", listing, re.MULTILINE))
    found |= {os.path.basename(path): path for path in re.findall(r"^\s+(/\S+) \(0x", listing, re.MULTILINE)}
    needed = sorted(path for name, path in found.items() if name not in bundled)
    missing = [path for path in needed if not os.path.isabs(path)]
    if missing or not needed:
        raise LookupError(f"ldd does not find the libraries that the executables need: {listing}")
    return needed


def _start(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(4)


def contents(folder: str) -> dict[str, str]:
    """What is copied into the image: path there -> path here."""
    found = {
        f"{HOME}/{os.path.relpath(os.path.join(at, name), folder)}": os.path.join(at, name)
        for at, _, names in os.walk(folder)
        for name in names
    }
    return found | {path.lstrip("/"): path for path in libraries(folder)} | {COPYRIGHT: f"/{COPYRIGHT}"}


def layer(folder: str, epoch: int) -> bytes:
    """The tar archive of all files."""
    copied, packed, written = contents(folder), io.BytesIO(), {}
    parents = {os.path.dirname(path) for path in (*copied, *TEXTS, *LINKS)} - {""}
    parents |= {above for path in parents for above in _above(path)}
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, mode in sorted((dict.fromkeys(parents, 0o755) | FOLDERS).items()):
            tar.addfile(_entry(name, mode, epoch, tarfile.DIRTYPE))
        for name, target in sorted(LINKS.items()):
            tar.addfile(_entry(name, 0o777, epoch, tarfile.SYMTYPE, target))
        for name, text in sorted(TEXTS.items()):
            _add(tar, _entry(name, 0o644, epoch), text.encode())
        for name, path in sorted(copied.items()):
            status = os.stat(path)
            first = written.setdefault((status.st_dev, status.st_ino), name)
            mode = 0o755 if status.st_mode & 0o100 else 0o644
            if first != name:
                tar.addfile(_entry(name, mode, epoch, tarfile.LNKTYPE, first))
            else:
                with open(path, "rb") as file:
                    _add(tar, _entry(name, mode, epoch), file.read())
    return packed.getvalue()


def _above(path: str) -> Iterator[str]:
    while path := os.path.dirname(path):
        yield path


def _entry(name: str, mode: int, epoch: int, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.mtime, entry.type, entry.linkname = mode, epoch, kind, target
    return entry


def _add(tar: tarfile.TarFile, entry: tarfile.TarInfo, content: bytes) -> None:
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def archive(folder: str, version: str, epoch: int) -> bytes:
    """The whole archive: an OCI image layout with one image."""
    unpacked = layer(folder, epoch)
    blobs: dict[str, bytes] = {}

    def blob(content: bytes, media_type: str) -> dict[str, object]:
        digest = _digest(content)
        blobs[f"blobs/{digest.replace(':', '/')}"] = content
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    labels = {
        "org.opencontainers.image.title": "slash24",
        "org.opencontainers.image.description": "CNI plugins, their agent, and the daemon that connects nodes",
        "org.opencontainers.image.version": version,
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.created": datetime.fromtimestamp(epoch, UTC).isoformat(),
    }
    config = {
        "created": labels["org.opencontainers.image.created"],
        "architecture": ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": {"Env": [f"PATH=/{HOME}"], "Cmd": ["slash24-node", "--help"], "WorkingDir": "/", "Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [_digest(unpacked)]},
        "history": [{"created": labels["org.opencontainers.image.created"], "created_by": "build.sh --image"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": TYPE + "manifest.v1+json",
        "config": blob(_json(config), TYPE + "config.v1+json"),
        "layers": [blob(gzip.compress(unpacked, mtime=0), TYPE + "layer.v1.tar+gzip")],
        "annotations": labels,
    }
    named = blob(_json(manifest), TYPE + "manifest.v1+json")
    # podman and skopeo read the first name, containerd the second.
    names = dict.fromkeys(("org.opencontainers.image.ref.name", "io.containerd.image.name"), f"{NAME}:{version}")
    index = {"schemaVersion": 2, "mediaType": TYPE + "index.v1+json", "manifests": [named | {"annotations": names}]}
    files = {"index.json": _json(index), "oci-layout": _json({"imageLayoutVersion": "1.0.0"})} | blobs
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in sorted(files.items()):
            _add(tar, _entry(name, 0o644, epoch), content)
    return packed.getvalue()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


if __name__ == "__main__":
    made = archive(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    with open(sys.argv[4], "wb") as out:
        out.write(made)
