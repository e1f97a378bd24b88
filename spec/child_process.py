"""Communication with an executed plugin, as subprocess.Popen.communicate, with a limit on the output."""

import os
import selectors
import time
from contextlib import suppress

from spec.errors import CNIError, Code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from subprocess import Popen

OUTPUT_LIMIT = 1 << 20
"""Bytes of stdout, which is one result; decoding takes 30 times as much memory. Of stderr, the end is kept."""

_CHUNK = 1 << 16
_PIPE_READS = OUTPUT_LIMIT // _CHUNK
"""Reads that empty any pipe (pipe(7))."""


def communicate(child: "Popen[bytes]", stdin: bytes, executable: str, end: float | None = None) -> tuple[bytes, bytes]:
    """Write `stdin` to the child, and return what it printed on stdout and stderr when it has ended.

    Waits for the child, not for the end of its pipes, which a process that it left behind may hold open. `child` has
    pipes for all three streams. `end`: the deadline, in time.monotonic(); then TimeoutError is raised. Raises CNIError
    999 for more than OUTPUT_LIMIT bytes on stdout. The caller still has to wait for the child.
    """
    outputs = {child.stdout: bytearray(), child.stderr: bytearray()}
    rest = memoryview(stdin)
    exited = os.pidfd_open(child.pid)
    try:
        with selectors.DefaultSelector() as selector:
            for stream in (child.stdin, *outputs):
                os.set_blocking(stream.fileno(), False)
                selector.register(stream, selectors.EVENT_WRITE if stream is child.stdin else selectors.EVENT_READ)
            selector.register(exited, selectors.EVENT_READ)
            while exited not in (ready := _ready(selector, end)):
                for stream in ready:
                    if stream is child.stdin:
                        rest = _feed(stream, rest)
                        is_over = not rest
                    else:
                        is_over = not _read(stream, outputs[stream])
                        _bound(outputs, child, executable)
                    if is_over:
                        selector.unregister(stream)
                        with suppress(OSError):
                            stream.close()
    finally:
        os.close(exited)
    for stream, output in outputs.items():
        with suppress(BlockingIOError):
            for _ in range(_PIPE_READS):  # processes left behind may go on printing
                if stream.closed or not _read(stream, output):
                    break
                _bound(outputs, child, executable)
    return bytes(outputs[child.stdout]), bytes(outputs[child.stderr])


def _ready(selector: selectors.BaseSelector, end: float | None) -> list[object]:
    ready = selector.select(None if end is None else max(0.0, end - time.monotonic()))
    if not ready and end is not None and time.monotonic() >= end:
        raise TimeoutError
    return [key.fileobj for key, _ in ready]


def _feed(stream: object, rest: memoryview) -> memoryview:
    """Write as much as the pipe takes; returns the rest, or nothing if the child has closed it."""
    try:
        return rest[os.write(stream.fileno(), rest[:_CHUNK]) :]
    except BlockingIOError:
        return rest
    except BrokenPipeError:
        return rest[:0]


def _read(stream: object, output: bytearray) -> bool:
    """Append what can be read to `output`; False at the end. Raises BlockingIOError if there is nothing yet."""
    data = os.read(stream.fileno(), _CHUNK)
    output += data
    return bool(data)


def _bound(outputs: dict[object, bytearray], child: "Popen[bytes]", executable: str) -> None:
    if len(outputs[child.stdout]) > OUTPUT_LIMIT:
        raise CNIError(Code.INTERNAL, f"{executable} printed more than {OUTPUT_LIMIT} bytes")
    del outputs[child.stderr][:-OUTPUT_LIMIT]
