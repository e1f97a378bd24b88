"""Running a launcher: a folder with it and with a frozen plugin's stand-in, and calls of it."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

FROZEN_STATUS = 7
# Says what it was called as and with, so that nothing else can be taken for it.
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
SECONDS = 60  # nothing takes that long


@dataclass(frozen=True)
class Done:
    """What the caller got."""

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
        """Whether it is the answer of the frozen plugin's stand-in, given `stdin`."""
        expected = f"frozen {command} {arguments}\n".encode() + stdin
        assert b"ERROR" not in self.stderr, self.stderr
        return (self.status, self.stdout) == (FROZEN_STATUS, expected)


@dataclass(frozen=True)
class Folder:
    """An installation: `path`/bridge is the launcher. `emulator` runs executables of another machine."""

    path: Path
    emulator: tuple[str, ...] = ()

    @property
    def bridge(self) -> Path:
        """The executable to call."""
        return self.path / "bridge"

    @property
    def frozen(self) -> Path:
        """Where the frozen plugins are."""
        return self.path / "slash24.d"

    def install(self, launcher: Path) -> "Folder":
        """Put the launcher there, and a stand-in for the frozen plugin."""
        self.frozen.mkdir(parents=True)
        shutil.copy(launcher, self.bridge)
        script = self.frozen / "bridge"
        script.write_text(FROZEN)
        script.chmod(0o755)
        return self

    def skip_if_emulated(self) -> None:
        """For what happens in execve(2) itself: there an emulator is what is executed."""
        if self.emulator:
            pytest.skip("it is the emulator that would be executed")

    def argv(self, *arguments: str, executable: Path | None = None) -> list[str]:
        """The command of a call."""
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
        """One call, to its end; `env` instead of a CHECK's variables. The socket's path is added to them."""
        environ = {**(CALL if env is None else env), "SLASH24_SOCKET": str(socket)}
        argv = self.argv(*arguments, executable=executable)
        done = subprocess.run(argv, input=stdin, env=environ, cwd=cwd, capture_output=True, timeout=SECONDS)
        assert b"Sanitizer" not in done.stderr, done.stderr.decode()
        assert b"runtime error" not in done.stderr, done.stderr.decode()
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, socket: Path | str, *, env: Mapping[str, str] | None = None, **options: object) -> subprocess.Popen:
        """Begin a call; `options` as for subprocess.Popen, all streams being pipes unless they say otherwise."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        environ = {**(CALL if env is None else env), "SLASH24_SOCKET": str(socket)}
        return subprocess.Popen(self.argv(), env=environ, **{**pipes, **options})


def identity(path: str | Path) -> tuple[int, int]:
    """What tells one network namespace from another."""
    found = os.stat(path)
    return found.st_dev, found.st_ino
