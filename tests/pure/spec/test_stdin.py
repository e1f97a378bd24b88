"""The configuration on stdin: what is accepted, what is refused, and with which error."""

import io
import json
import tracemalloc

import pytest

from spec.plugin import serve
from spec.request import STDIN_LIMIT, Request
from spec.result import Result
from tests.pure.spec.driver import RESULT, VARIABLES, Recorder, conf, run

UNDECODABLE = {
    "nothing": b"",
    "no json": b"hello",
    "half an object": b'{"name": "n"',
    "trailing data": b'{"name": "n"} x',
    "two documents": b'{"name": "n"}{"name": "n"}',
    "a list": b"[]",
    "null": b"null",
    "a string": b'"x"',
    "a name that is no string": b'{"name": 1}',
    "NaN": b'{"name": "n", "mtu": NaN}',
    "Infinity": b'{"name": "n", "mtu": -Infinity}',
    "invalid UTF-8": b'{"name": "n\xff"}',
    "UTF-16": '{"name": "n"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"name": "n"}',
    "half a surrogate pair": b'{"name": "n", "x": [{"y": "\\ud800"}]}',
    "half a surrogate pair in a key": b'{"name": "n", "\\uDfff": 1}',
    "deep nesting": b'{"name": "n", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a giant integer": b'{"name": "n", "mtu": ' + b"9" * 100_000 + b"}",
    "a raw control character": b'{"name": "n", "x": "a\nb"}',
    "single quotes": b"{'name': 'n'}",
    "a comment": b'{"name": "n"} // x',
}


@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
@pytest.mark.parametrize("what", UNDECODABLE)
def test_an_undecodable_configuration_is_code_6(what: str, verb: str) -> None:
    """One error document, no traceback, and the plugin is not called."""
    recorder = Recorder()
    answer = run(recorder.plugin, verb, UNDECODABLE[what])
    assert answer.error[0] == 6
    assert answer.error[1].startswith("error unmarshall network config: ")
    assert (answer.stderr, recorder.verbs) == ("", [])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (UNDECODABLE["a byte order mark"], "begins with a byte order mark: save it as UTF-8 without one"),
        (UNDECODABLE["UTF-16"], "not UTF-8: byte 0xff at offset 0"),
        (UNDECODABLE["invalid UTF-8"], "not UTF-8: byte 0xff at offset 11"),
        (UNDECODABLE["a giant integer"], "a number of 100000 digits"),
        (b'{"name": "n", "mtu": 1e999}', "1e999 is too large a number"),
        (UNDECODABLE["deep nesting"], "nested too deeply: more than 100 levels of lists and objects"),
        (
            b'{"name": "n", "x": [' + b"{}," * 500_000 + b"0]}",
            "more than 500000 values (its commas and opening brackets)",
        ),
    ],
)
def test_the_reason_describes_the_file(data: bytes, reason: str) -> None:
    """It is written for the file's author, who need not know which program reads it."""
    assert run(Recorder().plugin, "ADD", data).error == (6, f"error unmarshall network config: {reason}")


def test_memory_is_bounded() -> None:
    """16 MB of empty objects are refused before any of them is created."""
    data = b'{"name": "n", "x": [' + b"{}," * (STDIN_LIMIT // 3 - 100) + b"0]}"
    tracemalloc.start()
    try:
        assert run(Recorder().plugin, "ADD", data).error[0] == 6
        assert tracemalloc.get_traced_memory()[1] < 3 * STDIN_LIMIT
    finally:
        tracemalloc.stop()


def test_the_largest_useful_configuration_is_accepted() -> None:
    """Every port is published, one by one, as runtimes write a range of ports."""
    ports = [{"hostPort": n, "containerPort": n, "protocol": "tcp", "hostIP": ""} for n in range(1, 65536)]
    assert run(Recorder().plugin, "ADD", conf(runtimeConfig={"portMappings": ports})).status == 0


def test_the_limit_of_nested_objects() -> None:
    """100 levels are accepted and 101 refused; the configuration itself is one."""
    for depth, status in ((99, 0), (100, 1)):
        data = b'{"name": "n", "x": ' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"
        assert run(Recorder().plugin, "ADD", data).status == status


def read_deeply(request: Request) -> Result:
    """An ADD that reads its configuration and its prevResult."""
    request.conf.section.integer("mtu")
    return request.conf.prev_result or RESULT


@pytest.mark.parametrize("depth", [*range(0, 1100, 50), *range(960, 1000, 4)])
def test_nesting_is_an_error_or_harmless_at_any_depth(depth: int) -> None:
    """Also near the interpreter's recursion limit, and where the deep value has the wrong type."""
    for key in (b"x", b"mtu", b"prevResult", b"cniVersion"):
        data = b'{"name": "n", "' + key + b'": ' + b"[" * depth + b"1" + b"]" * depth + b"}"
        for verb in ("ADD", "DEL"):
            answer = run(Recorder(add=read_deeply).plugin, verb, data)
            assert answer.status == 0 or answer.error[0] in (6, 7)


def test_a_configuration_beyond_the_size_limit_is_refused() -> None:
    """The limit is 16 MiB."""
    padding = b" " * STDIN_LIMIT
    assert run(Recorder().plugin, "ADD", padding + json.dumps(conf()).encode()).error[0] == 6


def test_an_unreadable_stdin_is_code_5() -> None:
    """A closed one, for example."""
    closed, out = io.BytesIO(), io.BytesIO()
    closed.close()
    environ = {"CNI_COMMAND": "ADD", **VARIABLES}
    status = serve(Recorder().plugin, environ=environ, stdin=closed, stdout=out, stderr=io.StringIO())
    document = json.loads(out.getvalue())
    assert (status, document["code"]) == (1, 5)
    assert document["msg"].startswith("error reading from stdin: ")


@pytest.mark.parametrize("name", [{}, {"name": None}, {"name": ""}])
def test_a_network_needs_a_name(name: dict) -> None:
    """null and the empty string count as absent."""
    assert run(Recorder().plugin, "ADD", name).error == (7, "missing network name")


@pytest.mark.parametrize("version", [1, [], {}, True, 1.0])
def test_a_version_that_is_not_a_string_is_code_6(version: object) -> None:
    """For every verb."""
    for verb in ("ADD", "DEL", "CHECK", "STATUS"):
        code, message = run(Recorder().plugin, verb, {**conf(), "cniVersion": version}).error
        assert code == 6
        assert message.startswith("decoding version from network config: ")


@pytest.mark.parametrize("version", ["9.9.9", "abc", "1.1", "1.1.0.0", "0.1.1", " 1.1.0", "²"])
def test_an_unsupported_version_is_code_1(version: str) -> None:
    """ADD and DEL compare the text; they do not parse it."""
    for verb in ("ADD", "DEL"):
        answer = run(Recorder().plugin, verb, conf(version))
        assert answer.error == (1, "incompatible CNI versions")


def test_the_details_of_a_version_mismatch() -> None:
    """They have the configuration's version and those that the plugin supports."""
    plugin = Recorder(versions=("0.4.0", "1.0.0", "1.1.0")).plugin
    details = run(plugin, "ADD", conf("0.3.1")).document["details"]
    assert details == 'config is "0.3.1", plugin supports ["0.4.0" "1.0.0" "1.1.0"]'


@pytest.mark.parametrize(
    ("version", "error"),
    [
        ("abc", (6, 'failed to convert major version part "abc": not a number')),
        ("1.x", (6, 'failed to convert minor version part "x": not a number')),
        ("1.1." + "9" * 5000, None),
        ("1.1.0.0", (6, 'invalid version "1.1.0.0": too many parts')),
        ("1.2.0", (1, "plugin version does not allow CHECK")),
        ("1.0", (1, "incompatible CNI versions")),
        ("0.3.9", (1, "config version does not allow CHECK")),
    ],
)
def test_later_verbs_parse_the_version(version: str, error: tuple[int, str] | None) -> None:
    """CHECK, GC and STATUS compare it with the first version that has the verb."""
    answer = run(Recorder().plugin, "CHECK", conf(version))
    assert answer.error == error if error else answer.error[0] == 6


def test_errors_have_the_version_of_the_configuration() -> None:
    """If the plugin supports it; otherwise the latest version."""
    for version, spoken in [("0.3.1", "0.3.1"), ("9.9.9", "1.1.0"), (None, "0.1.0")]:
        document = run(Recorder().plugin, "ADD", {**conf(version), "name": "-"}).document
        assert document["cniVersion"] == spoken
    assert run(Recorder().plugin, "ADD", b"{").document["cniVersion"] == "1.1.0"


def test_the_format_of_an_error_document() -> None:
    """cniVersion, code, msg, details in this order; 4 spaces; no trailing newline."""
    expected = '{\n    "cniVersion": "1.1.0",\n    "code": 4,\n    "msg": "invalid characters in containerID",\n'
    expected += '    "details": "\\u003c\\u003e"\n}'
    assert run(Recorder().plugin, "ADD", b"", CNI_CONTAINERID="<>").stdout == expected


def test_keys_match_in_any_case() -> None:
    """As in the reference."""
    config = {"CNIVERSION": "0.4.0", "Name": "net1", "TYPE": "x", "IPAM": {"Type": "y"}}
    recorder = Recorder()
    assert run(recorder.plugin, "ADD", config).document["cniVersion"] == "0.4.0"
    assert recorder.requests[0].conf.ipam_type == "y"


def test_stdin_is_kept_byte_for_byte() -> None:
    """A delegated plugin gets the same bytes."""
    recorder = Recorder()
    data = b' { "name" : "net1",\n"cniVersion":"1.1.0"} '
    run(recorder.plugin, "ADD", data)
    assert recorder.requests[0].stdin == data
