"""What administrators and packages have put on a node: files, executables, units, processes.

All of it is foreign: what is too long, of another kind or malformed is a sentence in `problems`, never an exception.
"""

import glob
import os
import re
import shlex
import socket
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import closing
from stat import S_ISREG

_LONGEST_FILE = 1 << 20
_MOST_FILES = 200
_SECONDS = 5
_FOLDERS_OF_EXECUTABLES = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/opt/bin")
_FOLDERS_OF_UNITS = ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib")
_VERSION = re.compile(r"(?<![\w.])v?(\d{1,5}\.\d{1,5}(?:\.\d{1,5})?(?:[-+~][0-9A-Za-z.+~-]{1,40})?)")

Toml = dict[str, object]


class Files:
    """The files below `root`, by their paths on the node.

    `problems`: a sentence about each that could not be read.
    """

    def __init__(self, root: str = "/") -> None:
        self._root = root.rstrip("/")
        self.problems: list[str] = []

    def at(self, path: str) -> str:
        """The path to open, of a path on the node."""
        return self._root + path

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder."""
        return "\0" not in path and os.path.exists(self.at(path))

    def text(self, path: str) -> str | None:
        """The content of a file; None if there is none, or if it cannot be read."""
        try:
            with open(os.open(self.at(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                if not S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise OSError("it is no file")
                content = file.read(_LONGEST_FILE + 1)
            if len(content) > _LONGEST_FILE:
                raise OSError(f"it is longer than {_LONGEST_FILE} bytes")
            return content.decode()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            self._problem(path, error)
            return None

    def toml(self, path: str) -> Toml | None:
        """The document in a file; None if there is none, or if it cannot be read."""
        text = self.text(path)
        if text is None:
            return None
        try:
            return tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            self._problem(path, error)
            return None

    def named(self, pattern: str) -> list[str]:
        """The paths on the node that match a pattern of shells, sorted; of very many the first."""
        try:
            found = sorted(glob.glob(glob.escape(self._root) + pattern))
        except (ValueError, RecursionError, OSError) as error:
            self._problem(pattern, error)
            return []
        if len(found) > _MOST_FILES:
            self.problems.append(f"{pattern} matches {len(found)} files; only the first {_MOST_FILES} were read")
        return [path.removeprefix(self._root) for path in found[:_MOST_FILES]]

    def executable(self, *names: str) -> str:
        """The path of the first of these that is installed; "" if none is. A name without "/" is looked for."""
        for name in names:
            for path in [name] if "/" in name else [f"{folder}/{name}" for folder in _FOLDERS_OF_EXECUTABLES]:
                if os.path.isfile(self.at(path)) and os.access(self.at(path), os.X_OK):
                    return path
        return ""

    def version(self, path: str) -> str:
        """What an executable says when asked for its --version; "" if it does not. `path` may be ""."""
        if not path:
            return ""
        try:
            done = subprocess.run(
                [self.at(path), "--version"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=_SECONDS,
                env={"PATH": ":".join(_FOLDERS_OF_EXECUTABLES), "HOME": "/"},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            self._problem(f"{path} --version", error)
            return ""
        found = _VERSION.search(done.stdout[:4096].decode(errors="replace"))
        if not found:
            self.problems.append(f"{path} --version names no version")
        return found[1] if found else ""

    def answers(self, path: str) -> bool:
        """Whether a process accepts connections on this socket."""
        folder, name = os.path.split(self.at(path))
        try:
            descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except (OSError, ValueError):
            return False
        try:
            with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as made:
                made.settimeout(_SECONDS)
                made.connect(f"/proc/self/fd/{descriptor}/{name}")  # a whole path may be too long for an address
        except (OSError, ValueError):
            return False
        finally:
            os.close(descriptor)
        return True

    def arguments(self, path: str, units: list[str]) -> dict[str, str]:
        """The flags with which an executable runs, else with which the first of these units starts it.

        `path` is where it is installed. Flags are without their dashes; of one without a value the value is "".
        """
        for words in (*self._processes(path), *(self._started(unit, os.path.basename(path)) for unit in units)):
            if words:
                return _flags(words[1:])
        return {}

    def _processes(self, path: str) -> Iterator[list[str]]:
        """The arguments of its owner's processes that run this executable, in the order of their numbers."""
        try:
            wanted = os.stat(self.at(path))
            numbers = sorted(int(name) for name in os.listdir(self.at("/proc")) if name.isdigit())
        except (OSError, ValueError):
            return
        for number in numbers:
            try:
                own = os.stat(self.at(f"/proc/{number}/exe"))
                is_owners = os.stat(self.at(f"/proc/{number}")).st_uid == wanted.st_uid
                if is_owners and (own.st_dev, own.st_ino) == (wanted.st_dev, wanted.st_ino):
                    with open(self.at(f"/proc/{number}/cmdline"), "rb") as file:
                        yield os.fsdecode(file.read(_LONGEST_FILE)).split("\0")[:-1]
            except OSError:
                continue  # it has ended

    def _started(self, unit: str, name: str) -> list[str]:
        """The command by which a unit of systemd starts the executable of this name; [] if there is none."""
        places = [f"{folder}/systemd/system/{unit}" for folder in _FOLDERS_OF_UNITS]
        drop_ins: dict[str, str] = {}
        for place in reversed(places):
            drop_ins |= {os.path.basename(each): each for each in self.named(f"{place}.d/*.conf")}
        command: list[str] = []
        for file in list(filter(self.exists, places))[:1] + [drop_ins[each] for each in sorted(drop_ins)]:
            text = (self.text(file) or "").replace("\\\n", " ")
            for value in re.findall(r"^\s*ExecStart\s*=(.*)$", text, re.MULTILINE):
                try:
                    command = shlex.split(value.strip().lstrip("@-:+!"))
                except ValueError as error:
                    self._problem(file, error)
        return command if command and os.path.basename(command[0]) == name else []

    def _problem(self, what: str, error: Exception) -> None:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if isinstance(error, subprocess.TimeoutExpired):
            reason = f"it did not end within {_SECONDS} s"
        self.problems.append(f"cannot read {what}: {reason}")


def _flags(words: list[str]) -> dict[str, str]:
    """The flags among arguments, as `--name=value`, `--name value` or `--name`."""
    found = {}
    for word, following in zip(words, [*words[1:], "-"], strict=False):
        if word.startswith("-"):
            name, is_whole, value = word.lstrip("-").partition("=")
            found[name] = value if is_whole or following.startswith("-") else following
    return found
