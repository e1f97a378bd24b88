"""Executing plugins of others: no longer than the call may last, and not longer than this process lives."""

import fcntl
import os
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from signal import SIGKILL

from agent.call import Call
from spec import delegate
from spec.children import converse
from spec.errors import CNIError, Code
from spec.suite import Executor, current

_LONGEST_WAIT = 5.0


def children_of(call: Call) -> Executor:
    """How `call` executes plugins."""
    return Executor(delegate.resolve, partial(_run, call))


def _run(call: Call, executable: str, stdin: bytes, environ: Mapping[str, str]) -> tuple[int, bytes, bytes]:
    """As spec.suite.Executor has it; what runs when time is over is killed, with all that it started.

    After the deadline, what undoes the call's work has until the call's very end; after that nothing is begun, for the
    caller has been told that the call failed.
    """
    now = time.monotonic()
    end = call.deadline if now < call.deadline else call.last
    if now >= end:
        raise CNIError(Code.TRY_AGAIN_LATER, "the call ran out of time", f"{executable} was not executed")
    with current().released():
        return _run_until(end, executable, stdin, dict(environ))


def _run_until(end: float, executable: str, stdin: bytes, environ: dict[str, str]) -> tuple[int, bytes, bytes]:
    pipe = subprocess.PIPE
    with _Leash() as leash:
        # A session of its own, so that there is a group to be killed.
        child = subprocess.Popen(
            [executable],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=environ,
            start_new_session=True,
            pass_fds=[leash.theirs],
        )
        try:
            leash.fasten(child.pid)
            stdout, stderr = converse(child, stdin, executable, end)
            child.wait()
        except TimeoutError as error:
            raise _late(executable) from error
        finally:
            if child.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, SIGKILL)
                with suppress(subprocess.TimeoutExpired):
                    child.wait(_LONGEST_WAIT)  # one that hangs in the kernel is waited for when another is started
            for stream in (child.stdin, child.stdout, child.stderr):
                with suppress(OSError):
                    stream.close()
    return child.returncode, stdout, stderr


class _Leash:
    """Has the kernel kill a group of processes, should this process be killed: nobody would wait for what they do.

    It is a pipe which nobody but us can write to. That it was closed, the kernel tells by a signal: fcntl(2), F_SETOWN.
    """

    def __init__(self) -> None:
        self.theirs, self._ours = os.pipe2(os.O_CLOEXEC)

    def fasten(self, group: int) -> None:
        """From now on. A process of the group has `theirs` open."""
        fcntl.fcntl(self.theirs, fcntl.F_SETOWN, -group)
        fcntl.fcntl(self.theirs, fcntl.F_SETSIG, SIGKILL)
        fcntl.fcntl(self.theirs, fcntl.F_SETFL, os.O_ASYNC)

    def __enter__(self) -> "_Leash":
        return self

    def __exit__(self, *_: object) -> None:
        """What the group has left running is let go."""
        fcntl.fcntl(self.theirs, fcntl.F_SETFL, 0)
        os.close(self._ours)
        os.close(self.theirs)


def _late(executable: str) -> CNIError:
    return CNIError(Code.TRY_AGAIN_LATER, "the call ran out of time", f"{executable} was still running, and was killed")
