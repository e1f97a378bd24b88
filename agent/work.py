"""Doing a call: the plugin's own code, with the caller's namespace and time, and an account of how it ended."""

import io
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace

from agent.call import Call
from agent.children import children_of
from agent.record import INFO, NOTICE, WARNING, Log, Outcome
from linux.netns import OWN
from spec import verbs
from spec.errors import Code
from spec.plugin import serve
from spec.suite import Suite, serving


class Worker:
    """Does calls, in any number of threads."""

    def __init__(self, suite: Suite, log: Log, tell: Callable[[Outcome], None]) -> None:
        """`tell` is called with the outcome of every call."""
        self._suite, self._log, self._tell = suite, log, tell
        self._netns = os.stat(OWN)

    def perform(self, call: Call) -> bool:
        """Do the call and answer it. Whether this thread is where it was before. Never raises."""
        try:
            if call.begin():
                with serving(self._suite):
                    self._perform(call)
            return os.path.samestat(os.stat(OWN), self._netns)
        except Exception as error:  # noqa: BLE001  (one call must not take the thread from the next)
            self._log(WARNING, {"event": "call failed in the agent", "error": repr(error)})
            return False

    def _perform(self, call: Call) -> None:
        status, stdout, stderr = self._serve(call, call.verb)
        is_delivered = call.answer(status, stdout, stderr)
        seconds = time.monotonic() - call.arrived
        if not is_delivered and status == 0 and call.verb == "ADD":
            # Nobody knows of this success: the launcher is gone, or was told that time is over.
            self._serve(call, "DEL")
        self._account(call, (status, stdout, stderr), seconds, is_delivered=is_delivered)

    def _serve(self, call: Call, verb: str) -> tuple[int, bytes, bytes]:
        plugin = self._suite.load(call.request.kind)
        children = children_of(call)
        suite = replace(self._suite, netns=call.netns_given, executor=children, on_config=call.on_config)
        stdout, stderr = io.BytesIO(), io.StringIO()
        status = serve(
            plugin,
            environ={**call.request.environ, verbs.COMMAND: verb} if verb else call.request.environ,
            stdin=io.BytesIO(call.request.stdin),
            stdout=stdout,
            stderr=stderr,
            suite=suite,
        )
        return status, stdout.getvalue(), stderr.getvalue().encode(errors="backslashreplace")

    def _account(self, call: Call, reply: tuple[int, bytes, bytes], seconds: float, *, is_delivered: bool) -> None:
        status, stdout, stderr = reply
        network, _, config = call.describe()
        code, message = _error_of(stdout) if status else (0, "")
        if not is_delivered:
            code, message = code or int(Code.TRY_AGAIN_LATER), message or "the caller did not wait for the answer"
        environ = call.request.environ
        container, ifname = environ.get(verbs.CONTAINERID, ""), environ.get(verbs.IFNAME, "")
        outcome = Outcome(call.verb, call.request.kind, network, container, ifname, seconds, code, message, config)
        said = stderr.decode().strip()
        # A plugin that succeeds writes there what somebody should look at, as that a record of a peer is left out.
        priority = WARNING if code else NOTICE if said else INFO
        self._log(priority, outcome.fields() | ({"stderr": said} if said else {}))
        self._tell(outcome)


def _error_of(stdout: bytes) -> tuple[int, str]:
    try:
        document = json.loads(stdout)
        return int(document["code"]), f"{document['msg']} {document.get('details', '')}".strip()
    except (ValueError, TypeError, KeyError):
        return int(Code.INTERNAL), "no error document"
