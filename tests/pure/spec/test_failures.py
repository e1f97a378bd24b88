"""Failures: one error document, never a traceback, and nothing left of an ADD whose result the runtime did not get."""

import io
import json
import os
import threading
from errno import EAGAIN, EMFILE, ENFILE, ENOMEM

import pytest

from spec.errors import CNIError
from spec.plugin import serve
from spec.request import Request
from spec.result import Interface, Result
from tests.pure.spec.driver import VARIABLES, Recorder, conf, run

OWN_NETNS = "/proc/self/ns/net"
L2 = Result(interfaces=(Interface("eth0"),))


def raising(error: BaseException) -> Recorder:
    """A plugin all of whose verbs raise `error`."""

    def fail(_: Request) -> None:
        raise error

    return Recorder(**dict.fromkeys(("add", "delete", "check", "gc", "status"), fail))


@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
def test_a_cni_error_reaches_the_runtime_unchanged(verb: str) -> None:
    """Code, message and details."""
    plugin = raising(CNIError(11, "lock held", "by pid 7")).plugin
    answer = run(plugin, verb, conf(**{"cni.dev/valid-attachments": []}))
    assert answer.document == {"cniVersion": "1.1.0", "code": 11, "msg": "lock held", "details": "by pid 7"}
    assert (answer.status, answer.stderr) == (1, "")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
        (ValueError(), "ValueError"),
        (RecursionError("deep"), "RecursionError: deep"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (SystemExit(0), "SystemExit: 0"),
        (ValueError("\udcff"), "ValueError: \ufffd"),
    ],
)
def test_any_other_exception_is_code_999(error: BaseException, message: str) -> None:
    """The message has its type and text; there is no traceback."""
    for verb in ("ADD", "DEL"):
        answer = run(raising(error).plugin, verb)
        assert (answer.error, answer.stderr) == ((999, message), "")


@pytest.mark.parametrize(
    "error", [MemoryError(), *(OSError(number, os.strerror(number)) for number in (EMFILE, ENFILE, ENOMEM, EAGAIN))]
)
def test_a_shortage_on_the_node_is_code_11(error: BaseException) -> None:
    """Memory, descriptors or processes: the runtime may try again, wherever the error was raised."""
    for verb in ("ADD", "DEL"):
        assert run(raising(error).plugin, verb).error[0] == 11


def test_an_error_with_values_that_are_not_strings_is_one_document() -> None:
    """A plugin may pass an exception as message or details."""
    answer = run(raising(CNIError(7, OSError("x"), OSError("y"))).plugin, "ADD")
    assert (answer.error, answer.document["details"]) == ((7, "x"), "y")


def test_slash24_debug_shows_the_traceback() -> None:
    """On stderr; stdout is still one document."""
    answer = run(raising(ZeroDivisionError("x")).plugin, "ADD", SLASH24_DEBUG="1")
    assert answer.error == (999, "ZeroDivisionError: x")
    assert "Traceback" in answer.stderr


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_an_add_whose_result_its_version_cannot_express_is_undone(version: str) -> None:
    """The runtime gets an error, and nothing is left."""
    recorder = Recorder(L2)
    answer = run(recorder.plugin, "ADD", conf(version))
    assert answer.error == (1, "cannot convert: no valid IP addresses")
    assert recorder.verbs == ["ADD", "DEL"]
    assert recorder.requests[1].attachment == recorder.requests[0].attachment
    assert recorder.requests[1].environ["CNI_COMMAND"] == "DEL"


def test_an_add_that_does_not_return_a_result_is_undone() -> None:
    """Error 999: it is a bug of the plugin."""
    recorder = Recorder(result="not a result")
    answer = run(recorder.plugin, "ADD")
    assert answer.error[0] == 999
    assert recorder.verbs == ["ADD", "DEL"]


def test_the_error_of_an_add_is_returned_though_its_undo_fails() -> None:
    """The error of the undo goes to stderr."""

    def fail(_: Request) -> None:
        raise CNIError(5, "disk gone")

    answer = run(Recorder(L2, delete=fail).plugin, "ADD", conf("0.2.0"))
    assert answer.error == (1, "cannot convert: no valid IP addresses")
    assert "disk gone" in answer.stderr


class FullPipe(io.BytesIO):
    """A stdout whose reader has closed its end."""

    def write(self, _: bytes) -> int:
        """Fail as the kernel does."""
        raise BrokenPipeError(32, "Broken pipe")


def test_an_add_whose_result_cannot_be_printed_is_undone() -> None:
    """The runtime has exited and will not learn of the result."""
    recorder = Recorder()
    answer = run(recorder.plugin, "ADD", stdout=FullPipe())
    assert answer.status == 1
    assert recorder.verbs == ["ADD", "DEL"]
    assert "Broken pipe" in answer.stderr


def test_an_error_that_cannot_be_printed_goes_to_stderr() -> None:
    """The exit status is 1 as well."""
    answer = run(raising(CNIError(7, "bad thing")).plugin, "ADD", stdout=FullPipe())
    assert answer.status == 1
    assert "bad thing" in answer.stderr


def test_a_closed_stderr_changes_nothing() -> None:
    """Python's sys.stderr is None if it was closed at the start."""
    for stderr in (None, io.StringIO()):
        if stderr:
            stderr.close()
        out = io.BytesIO()
        environ = {"CNI_COMMAND": "GC", **VARIABLES}
        stdin = io.BytesIO(json.dumps(conf()).encode())
        assert serve(Recorder().plugin, environ=environ, stdin=stdin, stdout=out, stderr=stderr) == 0
        assert serve(Recorder().plugin, environ={}, stdin=stdin, stdout=out, stderr=stderr) == 0


@pytest.mark.parametrize("verb", ["ADD", "CHECK"])
def test_add_and_check_in_the_plugin_s_own_namespace_are_refused(verb: str) -> None:
    """Error 8, and the plugin is not called."""
    recorder = Recorder()
    answer = run(recorder.plugin, verb, CNI_NETNS=OWN_NETNS)
    assert answer.error == (8, "plugin's netns and netns from CNI_NETNS should not be the same")
    assert recorder.verbs == []


def test_a_del_in_the_plugin_s_own_namespace_runs_without_a_namespace() -> None:
    """Leases are released, but the host's links are never looked at; delegated plugins get no CNI_NETNS either."""
    recorder = Recorder()
    answer = run(recorder.plugin, "DEL", CNI_NETNS=OWN_NETNS)
    assert (answer.status, answer.stdout) == (0, "")
    (request,) = recorder.requests
    assert (request.netns, request.environ["CNI_NETNS"]) == ("", "")


@pytest.mark.parametrize("override", ["1", "true", "TRUE"])
def test_cni_netns_override_disables_the_check(override: str) -> None:
    """As in the reference."""
    recorder = Recorder()
    assert run(recorder.plugin, "ADD", CNI_NETNS=OWN_NETNS, CNI_NETNS_OVERRIDE=override).status == 0
    assert recorder.requests[0].netns == OWN_NETNS
    assert run(recorder.plugin, "ADD", CNI_NETNS=OWN_NETNS, CNI_NETNS_OVERRIDE="yes").error[0] == 8


@pytest.mark.parametrize("netns", ["/no/such/path", "/proc/self/ns/mnt", "/etc/passwd"])
def test_any_other_path_is_left_to_the_plugin(netns: str) -> None:
    """A path that cannot be opened is not the plugin's own namespace."""
    assert run(Recorder().plugin, "ADD", CNI_NETNS=netns).status == 0


def test_concurrent_calls_in_one_process() -> None:
    """All input is passed as arguments: each thread gets the result of its own call."""
    answers = {}

    def one(number: int) -> None:
        plugin = Recorder(add=lambda request: Result(interfaces=(Interface(request.container_id),))).plugin
        answers[number] = run(plugin, "ADD", CNI_CONTAINERID=f"pod{number}").document["interfaces"][0]["name"]

    threads = [threading.Thread(target=one, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: f"pod{number}" for number in range(16)}
