"""Executing plugins of others: no longer than the call may last, with no more output than can be an answer."""

import fcntl
import os
import selectors
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from signal import SIGKILL

from agent.call import Call
from linux import waiting
from spec import delegate
from spec.errors import CNIError, Code
from spec.suite import Children

_OUTPUT_LIMIT = 16 << 20  # bytes, of stdout and stderr each
_CHUNK = 1 << 16
_LONGEST_WAIT = 5.0


def children_of(call: Call) -> Children:
    """How `call` executes plugins."""
    return Children(delegate.resolve, partial(_run, call))


def _run(call: Call, executable: str, stdin: bytes, environ: Mapping[str, str]) -> tuple[int, bytes, bytes]:
    """As spec.suite.Children has it; what runs when time is over is killed, with all that it started.

    After the deadline, what undoes the call's work has until the call's very end; after that nothing is begun, for the
    caller has been told that the call failed.
    """
    now = time.monotonic()
    end = call.deadline if now < call.deadline else call.last
    if now >= end:
        raise CNIError(Code.TRY_AGAIN_LATER, "the call ran out of time", f"{executable} was not executed")
    with waiting.aside():
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
            stdout, stderr = _converse(child, stdin, end, executable)
            child.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired as error:
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


def _converse(child: subprocess.Popen, stdin: bytes, end: float, executable: str) -> tuple[bytes, bytes]:
    """Give it its stdin and take all its output. Raises CNIError 11 when time is over, 999 for too much."""
    outputs = {child.stdout: bytearray(), child.stderr: bytearray()}
    rest = memoryview(stdin)
    with selectors.DefaultSelector() as selector:
        for stream in outputs:
            selector.register(stream, selectors.EVENT_READ)
        os.set_blocking(child.stdin.fileno(), False)
        selector.register(child.stdin, selectors.EVENT_WRITE)
        while selector.get_map():
            ready = selector.select(max(0.0, end - time.monotonic()))
            if not ready and time.monotonic() >= end:
                raise _late(executable)
            for key, _ in ready:
                if key.fileobj is child.stdin:
                    rest = _feed(child.stdin, rest)
                    is_over = not rest
                else:
                    is_over = not _read(key.fileobj, outputs[key.fileobj], executable)
                if is_over:
                    selector.unregister(key.fileobj)
                    with suppress(OSError):
                        key.fileobj.close()
    return bytes(outputs[child.stdout]), bytes(outputs[child.stderr])


def _feed(stream: object, rest: memoryview) -> memoryview:
    """Write what the pipe takes; the rest, nothing if nobody reads it."""
    try:
        return rest[os.write(stream.fileno(), rest[:_CHUNK]) :]
    except BlockingIOError:
        return rest
    except BrokenPipeError:
        return rest[:0]


def _read(stream: object, output: bytearray, executable: str) -> bool:
    """Take in what is there; False at the end."""
    data = os.read(stream.fileno(), _CHUNK)
    output += data
    if len(output) > _OUTPUT_LIMIT:
        raise CNIError(Code.INTERNAL, f"{executable} printed more than {_OUTPUT_LIMIT} bytes")
    return bool(data)


def _late(executable: str) -> CNIError:
    return CNIError(Code.TRY_AGAIN_LATER, "the call ran out of time", f"{executable} was still running, and was killed")
