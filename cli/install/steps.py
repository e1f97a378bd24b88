"""A step of an installation."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cli.exits import Failure
from state.files import read_file

ADVICE = "mend that, and run the command again"
_SECONDS = 120


@dataclass(frozen=True)
class Step:
    """What is to be done, in words; `do` does it, and raises OSError or Failure; `advice`: what to do if it does."""

    text: str
    do: Callable[[], None] = field(repr=False)
    advice: str = ADVICE

    def carry_out(self) -> None:
        """Raises Failure, with the whole sentence."""
        with explained(self.text, self.advice):
            self.do()


@contextmanager
def explained(what: str, advice: str = ADVICE) -> Iterator[None]:
    """Make a sentence of an OSError or Failure of the body, which continues "cannot". Raises Failure."""
    try:
        yield
    except Failure as failure:
        raise Failure(f"cannot {what}: {failure.message}; {advice}") from failure
    except OSError as error:
        where = f": {os.fsdecode(error.filename)}" if error.filename else ""
        raise Failure(f"cannot {what}: {error.strerror or error}{where}; {advice}") from error


@contextmanager
def planned(what: str) -> Iterator[None]:
    """The same for a body that looks for steps and carries them out: its Failures are whole sentences."""
    try:
        yield
    except OSError as error:
        with explained(what):
            raise error


def run(*argv: str, may_fail: bool = False) -> str:
    """What a program of the system prints. Raises Failure, with what it says; OSError if there is none.

    `may_fail`: its exit status is part of the answer.
    """
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise Failure(f"{' '.join(argv)} did not end within {_SECONDS} s") from None
    if done.returncode and not may_fail:
        raise Failure(f"{' '.join(argv)}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return done.stdout


def write(path: str, content: bytes, mode: int = 0o644) -> None:
    """Write a file atomically, with the folders that it needs. Raises OSError."""
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    new = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.new")
    with open(new, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)


def content_of(path: str) -> bytes | None:
    """The content of a regular file; None if there is none. Raises OSError."""
    try:
        return read_file(path)
    except FileNotFoundError:
        return None
