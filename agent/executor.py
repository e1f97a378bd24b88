"""Executing other plugins, until the call's deadline at most."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from signal import SIGKILL

from spec import delegate
from spec.child_process import communicate
from spec.errors import CNIError, Code
from spec.suite import Executor

_LONGEST_WAIT = 5.0

Released = Callable[[], AbstractContextManager[None]]


def executor(deadline: float, last: float, released: Released) -> Executor:
    """Executes plugins for a call that ends at `deadline`, and is answered at `last`; both of time.monotonic().

    A process that is still running then is killed, with all its children. Between the deadline and `last`, only plugins
    that undo the call may run. After `last` none is started: the caller has the error. `released`: as in Suite.
    """

    def run(executable: str, stdin: bytes, environ: Mapping[str, str]) -> tuple[int, bytes, bytes]:
        now = time.monotonic()
        end = deadline if now < deadline else last
        if now >= end:
            raise CNIError(Code.TRY_AGAIN_LATER, "the call ran out of time", f"{executable} was not executed")
        with released():
            return _run_until(end, executable, stdin, dict(environ))

    return Executor(delegate.resolve, run)


def _run_until(end: float, executable: str, stdin: bytes, environ: dict[str, str]) -> tuple[int, bytes, bytes]:
    pipe = subprocess.PIPE
    # A session of its own, and so a process group that can be killed.
    child = subprocess.Popen([executable], stdin=pipe, stdout=pipe, stderr=pipe, env=environ, start_new_session=True)
    try:
        stdout, stderr = communicate(child, stdin, executable, end)
        child.wait()
    except TimeoutError as error:
        details = f"{executable} was still running, and was killed"
        raise CNIError(Code.TRY_AGAIN_LATER, "the call ran out of time", details) from error
    finally:
        if child.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                child.wait(_LONGEST_WAIT)  # one that hangs in the kernel is reaped when the next is started
        for stream in (child.stdin, child.stdout, child.stderr):
            with suppress(OSError):
                stream.close()
    return child.returncode, stdout, stderr
