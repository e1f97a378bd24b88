"""`python -m agent`, frozen `slash24-agent`: put together from its parts, and run."""

import os
import signal
import sys
from collections.abc import Callable
from functools import partial

from agent import hostroot, memory, options, systemd
from agent.dispatcher import Dispatcher
from agent.endpoint import Endpoint, Lent, bind
from agent.options import Options
from agent.pool import Pool
from agent.record import NOTICE, Outcome, logger
from agent.results import Results
from agent.server import Server
from agent.work import Worker
from linux.rtnl.group_deletion import Reaper
from plugins.__main__ import VERSION, load
from spec import verbs
from spec.errors import CNIError, Code
from spec.plugin import error_text
from spec.suite import Suite
from spec.versions import LATEST

_PAGES = ("agent.leases", "agent.metrics", "agent.pages")
"""Only imported where somebody wants to see them: they take 5 MB."""

_REAPERS = 16
"""Threads in which links are deleted: each waits some 20 ms for the kernel, for all that were deleted together."""


def main() -> int:
    """Serve until SIGTERM, or until another agent takes over; the exit status is 0, 1 if it can not listen."""
    if os.environ.get(verbs.COMMAND):
        # A configuration names it as a plugin. Another agent would lose its socket to this one.
        error = CNIError(Code.INVALID_NETWORK_CONFIG, "slash24-agent is no CNI plugin")
        sys.stdout.write(error_text(error, LATEST))
        sys.stdout.flush()
        return 1
    chosen = options.parse(sys.argv[1:], os.environ)
    memory.prepare(*(_PAGES if chosen.listen else ()))
    notify = systemd.Notifier(os.environ).notify
    try:
        if chosen.host_root:
            hostroot.enter(chosen.host_root)
        else:
            os.chdir("/")  # or the folder it was started in could not be unmounted
    except OSError as error:
        sys.stderr.write(f"slash24-agent: --host-root: {error}\n")
        return 1
    log = logger(2, os.environ)
    results = Results()
    listeners: list[Callable[[Outcome], None]] = [results.note]
    batches: list[Callable[[str, int], None]] = []
    suite = Suite(
        home=chosen.home and os.path.realpath(chosen.home),
        load=load,
        version=VERSION,
        released=lambda: dispatcher.pool.aside(),  # noqa: PLW0108 (it is made later)
        delete_links=Reaper(Pool(_REAPERS, _do).submit, lambda: dispatcher.pool.is_behind).delete,
        on_batch=lambda kind, size: [note(kind, size) for note in batches],
    )
    worker = Worker(suite, log, partial(_tell, listeners))
    dispatcher = Dispatcher(worker.perform, workers=chosen.workers)
    try:
        endpoint = _endpoint(chosen)
        server = Server(endpoint, suite, dispatcher, log, seconds=chosen.deadline)
        close_pages = (
            _open_pages(chosen.listen, server, dispatcher, results, listeners, batches) if chosen.listen else None
        )
    except (OSError, ValueError) as error:
        sys.stderr.write(f"slash24-agent: {error}\n")
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    log(NOTICE, {"event": "ready", "version": VERSION, "socket": endpoint.path, "pid": os.getpid()})
    notify("READY=1")
    server.run(partial(_end, notify, close_pages))
    log(NOTICE, {"event": "ended", "pid": os.getpid()})
    return 0


def _do(job: Callable[[], None]) -> bool:
    job()
    return True


def _endpoint(chosen: Options) -> Endpoint:
    given = systemd.given_listener(os.environ)
    if given is None:
        return bind(chosen.socket)
    return Lent(given, os.fsdecode(given.getsockname()))


def _tell(listeners: list[Callable[[Outcome], None]], outcome: Outcome) -> None:
    for listener in listeners:
        listener(outcome)


def _end(notify: Callable[[str], None], close_pages: Callable[[], None] | None) -> None:
    notify("STOPPING=1")
    if close_pages:
        close_pages()


def _open_pages(
    where: str,
    server: Server,
    dispatcher: Dispatcher,
    results: Results,
    listeners: list[Callable[[Outcome], None]],
    batches: list[Callable[[str, int], None]],
) -> Callable[[], None]:
    from agent.leases import Networks
    from agent.metrics import CONTENT_TYPE, Metrics
    from agent.pages import Pages, answer_json, greets

    networks = Networks()
    metrics = Metrics(networks)
    metrics.look_up("slash24_workers_busy", "Threads that are doing a call", lambda: dispatcher.pool.busy)
    metrics.look_up("slash24_workers_limit", "Threads there may be", lambda: dispatcher.pool.limit)
    metrics.look_up("slash24_calls_under_way", "Calls not yet answered", lambda: dispatcher.under_way)
    metrics.look_up("slash24_requests_declined", "Requests that launchers had to do otherwise", lambda: server.declined)
    metrics.look_up("slash24_requests_malformed", "Requests that no launcher sends", lambda: server.refused)
    listeners += [networks.note, metrics.note]
    batches.append(metrics.note_batch)

    def healthz() -> tuple[int, str, bytes]:
        problem = greets(server.path)
        return answer_json(503 if problem else 200, {"problem": problem} if problem else {"ok": True})

    def readyz() -> tuple[int, str, bytes]:
        problems = [problem for problem in (greets(server.path),) if problem]
        problems += [f"the last {verb} failed" for verb in results.failing()]
        problems += [] if server.is_listening else ["ending"]
        document = {"ready": not problems, "problems": problems, "last": results.describe()}
        return answer_json(503 if problems else 200, document)

    pages = {"/healthz": healthz, "/readyz": readyz, "/metrics": lambda: (200, CONTENT_TYPE, metrics.text())}
    return Pages(where, pages).close


def _run() -> None:
    status = main()
    sys.stderr.flush()
    os._exit(status)  # at once: a thread that hangs in a call that was answered long ago keeps nobody


if __name__ == "__main__":
    _run()
