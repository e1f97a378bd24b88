"""`python -m agent`, frozen `slash24-agent`: builds the agent of its parts, and runs it."""

import os
import signal
import sys
from collections.abc import Callable

from agent import hostroot, memory, options, systemd
from agent.calls import Call, Worker
from agent.listener import InheritedListener, Listener, bind
from agent.log import NOTICE, logger
from agent.options import Options
from agent.scheduler import Scheduler, Turns
from agent.server import Server
from agent.threads import Threads
from linux.rtnl.group_deletion import GroupDeletion
from plugins.__main__ import VERSION, load
from spec import verbs
from spec.errors import CNIError, Code
from spec.plugin import error_text
from spec.suite import Suite
from spec.versions import LATEST

_DELETIONS = 16
"""Threads that delete links; each waits some 20 ms for the kernel."""


def main() -> int:
    """Serve until SIGTERM, or until another agent takes over; the exit status: 0, or 1 if it cannot listen."""
    if os.environ.get(verbs.COMMAND):
        # Executed as a plugin: serving would take the socket from the agent that runs.
        error = CNIError(Code.INVALID_NETWORK_CONFIG, "slash24-agent is not a CNI plugin")
        sys.stdout.write(error_text(error, LATEST))
        sys.stdout.flush()
        return 1
    chosen = options.parse(sys.argv[1:], os.environ)
    memory.prepare(*(("agent.monitoring",) if chosen.listen else ()))
    notify = systemd.Notifier(os.environ).notify
    try:
        if chosen.host_root:
            hostroot.enter(chosen.host_root)
        else:
            os.chdir("/")  # or the folder that it was started in could not be unmounted
    except OSError as error:
        sys.stderr.write(f"slash24-agent: --host-root: {error}\n")
        return 1
    return _serve(chosen, notify)


def _serve(chosen: Options, notify: Callable[[str], None]) -> int:
    log = logger(2, os.environ)
    monitoring = None
    if chosen.listen:
        from agent.monitoring import Monitoring

        monitoring = Monitoring()
        log = monitoring.recent.watch(log)
    threads = Threads(chosen.workers)
    turns: Turns[Call] = Turns(threads)
    suite = Suite(
        home=chosen.home and os.path.realpath(chosen.home),
        load=load,
        version=VERSION,
        released=turns.released,
        delete_links=GroupDeletion(Threads(_DELETIONS).submit, lambda: turns.is_behind).delete,
        on_batch=monitoring.on_batch if monitoring else None,
    )
    worker = Worker(suite, log, monitoring.on_outcome if monitoring else lambda _outcome: None)
    scheduler = Scheduler(turns, worker.perform)
    try:
        server = Server(_listen(chosen), suite, scheduler, log, seconds=chosen.deadline)
        close_pages = monitoring.open(chosen.listen, server, scheduler, threads) if monitoring else lambda: None
    except (OSError, ValueError) as error:
        sys.stderr.write(f"slash24-agent: {error}\n")
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    log(NOTICE, {"event": "ready", "version": VERSION, "socket": server.path, "pid": os.getpid()})
    notify("READY=1")

    def on_drain() -> None:
        notify("STOPPING=1")
        close_pages()

    server.run(on_drain)
    log(NOTICE, {"event": "ended", "pid": os.getpid()})
    return 0


def _listen(chosen: Options) -> Listener:
    inherited = systemd.inherited_socket(os.environ)
    if inherited is None:
        return bind(chosen.socket)
    return InheritedListener(inherited, os.fsdecode(inherited.getsockname()))


def _run() -> None:
    status = main()
    sys.stderr.flush()
    os._exit(status)  # at once: a thread may hang in a call that was answered long ago


if __name__ == "__main__":
    _run()
