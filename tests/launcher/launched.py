"""A folder with a launcher and a stand-in for the frozen plugin, and calls of that launcher."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

FROZEN_STATUS = 7
# Prints the command and its arguments, so that its output cannot be mistaken for another's.
FROZEN = f"""#!/bin/sh
echo "frozen $CNI_COMMAND $*"
cat
exit {FROZEN_STATUS}
"""
CONF = b'{"cniVersion": "1.0.0", "name": "net", "type": "bridge"}'
CALL = {
    "CNI_COMMAND": "CHECK",
    "CNI_CONTAINERID": "pod",
    "CNI_IFNAME": "eth0",
    "CNI_NETNS": "/proc/self/ns/net",
    "CNI_PATH": "/nowhere",
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
}
SECONDS = 60  # more than anything takes


@dataclass(frozen=True)
class Done:
    """Exit status and output of a call."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def error(self) -> tuple[int, str, str, str]:
        """The error document: code, message, details, version. Fails if stdout is anything else."""
        document = json.loads(self.stdout)
        assert self.status == 1, self
        assert list(document) == ["cniVersion", "code", "msg", "details"][: len(document)], document
        return document["code"], document["msg"], document.get("details", ""), document["cniVersion"]

    def was_frozen(self, *, stdin: bytes = CONF, command: str = "CHECK", arguments: str = "") -> bool:
        """Whether it is the output of the frozen plugin's stand-in, given `stdin`."""
        expected = f"frozen {command} {arguments}\n".encode() + stdin
        assert b"ERROR" not in self.stderr, self.stderr
        return (self.status, self.stdout) == (FROZEN_STATUS, expected)


@dataclass(frozen=True)
class Folder:
    """An installation: `path`/bridge is the launcher. `emulator` runs executables of another architecture."""

    path: Path
    emulator: tuple[str, ...] = ()

    @property
    def bridge(self) -> Path:
        """The executable to call."""
        return self.path / "bridge"

    @property
    def frozen(self) -> Path:
        """The folder of the frozen plugins."""
        return self.path / "slash24.d"

    def install(self, launcher: Path) -> "Folder":
        """Install the launcher and a stand-in for the frozen plugin."""
        self.frozen.mkdir(parents=True)
        shutil.copy(launcher, self.bridge)
        script = self.frozen / "bridge"
        script.write_text(FROZEN)
        script.chmod(0o755)
        return self

    def skip_if_emulated(self) -> None:
        """For tests of execve(2) itself: under an emulator, the emulator is what is executed."""
        if self.emulator:
            pytest.skip("it is the emulator that would be executed")

    def argv(self, *arguments: str, executable: Path | None = None) -> list[str]:
        """The command line of a call."""
        return [*self.emulator, str(executable or self.bridge), *arguments]

    def run(
        self,
        socket: Path | str,
        *,
        stdin: bytes = CONF,
        env: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        executable: Path | None = None,
        cwd: Path | None = None,
    ) -> Done:
        """Run one call to its end; `env` replaces the variables of CHECK. The socket's path is added to them."""
        environ = {**(CALL if env is None else env), "SLASH24_SOCKET": str(socket)}
        argv = self.argv(*arguments, executable=executable)
        done = subprocess.run(argv, input=stdin, env=environ, cwd=cwd, capture_output=True, timeout=SECONDS)
        assert b"Sanitizer" not in done.stderr, done.stderr.decode()
        assert b"runtime error" not in done.stderr, done.stderr.decode()
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, socket: Path | str, *, env: Mapping[str, str] | None = None, **options: object) -> subprocess.Popen:
        """Start a call; `options` as for subprocess.Popen, with all streams pipes unless they say otherwise."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        environ = {**(CALL if env is None else env), "SLASH24_SOCKET": str(socket)}
        return subprocess.Popen(self.argv(), env=environ, **{**pipes, **options})


def identity(path: str | Path) -> tuple[int, int]:
    """Device and inode, which identify a network namespace."""
    found = os.stat(path)
    return found.st_dev, found.st_ino
