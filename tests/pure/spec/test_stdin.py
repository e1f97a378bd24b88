"""What may be on stdin."""

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
def test_what_can_not_be_decoded_is_code_6(what: str, verb: str) -> None:
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
def test_the_reason_says_what_is_wrong_with_the_file(data: bytes, reason: str) -> None:
    """In words for its author, who need not know what reads it."""
    assert run(Recorder().plugin, "ADD", data).error == (6, f"error unmarshall network config: {reason}")


def test_a_configuration_costs_a_bounded_amount_of_memory() -> None:
    """Sixteen megabytes of empty objects are refused before any of them is made."""
    data = b'{"name": "n", "x": [' + b"{}," * (STDIN_LIMIT // 3 - 100) + b"0]}"
    tracemalloc.start()
    try:
        assert run(Recorder().plugin, "ADD", data).error[0] == 6
        assert tracemalloc.get_traced_memory()[1] < 3 * STDIN_LIMIT
    finally:
        tracemalloc.stop()


def test_the_largest_useful_configuration_is_read() -> None:
    """Every port there is, published one by one, as runtimes write a range of ports."""
    ports = [{"hostPort": n, "containerPort": n, "protocol": "tcp", "hostIP": ""} for n in range(1, 65536)]
    assert run(Recorder().plugin, "ADD", conf(runtimeConfig={"portMappings": ports})).status == 0


def test_objects_may_be_nested_as_deeply_as_the_limit_says() -> None:
    """And not one deeper: the configuration itself counts as one."""
    for depth, status in ((99, 0), (100, 1)):
        data = b'{"name": "n", "x": ' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"
        assert run(Recorder().plugin, "ADD", data).status == status


def read_deeply(request: Request) -> Result:
    """An ADD that uses its configuration."""
    request.conf.section.integer("mtu")
    return request.conf.prev_result or RESULT


@pytest.mark.parametrize("depth", [*range(0, 1100, 50), *range(960, 1000, 4)])
def test_nesting_is_harmless_or_told_at_any_depth(depth: int) -> None:
    """Also at the edge of what the interpreter's stack takes, and where a value that deep is the wrong one."""
    for key in (b"x", b"mtu", b"prevResult", b"cniVersion"):
        data = b'{"name": "n", "' + key + b'": ' + b"[" * depth + b"1" + b"]" * depth + b"}"
        for verb in ("ADD", "DEL"):
            answer = run(Recorder(add=read_deeply).plugin, verb, data)
            assert answer.status == 0 or answer.error[0] in (6, 7)


def test_more_than_anybody_needs_is_refused() -> None:
    """Memory is bounded: 16 MiB."""
    padding = b" " * STDIN_LIMIT
    assert run(Recorder().plugin, "ADD", padding + json.dumps(conf()).encode()).error[0] == 6


def test_a_stdin_that_can_not_be_read_is_code_5() -> None:
    """For example a closed one."""
    closed, out = io.BytesIO(), io.BytesIO()
    closed.close()
    environ = {"CNI_COMMAND": "ADD", **VARIABLES}
    status = serve(Recorder().plugin, environ=environ, stdin=closed, stdout=out, stderr=io.StringIO())
    document = json.loads(out.getvalue())
    assert (status, document["code"]) == (1, 5)
    assert document["msg"].startswith("error reading from stdin: ")


@pytest.mark.parametrize("name", [{}, {"name": None}, {"name": ""}])
def test_a_network_needs_a_name(name: dict) -> None:
    """null is absent."""
    assert run(Recorder().plugin, "ADD", name).error == (7, "missing network name")


@pytest.mark.parametrize("version", [1, [], {}, True, 1.0])
def test_a_version_that_is_no_string_is_code_6(version: object) -> None:
    """Whatever the verb."""
    for verb in ("ADD", "DEL", "CHECK", "STATUS"):
        code, message = run(Recorder().plugin, verb, {**conf(), "cniVersion": version}).error
        assert code == 6
        assert message.startswith("decoding version from network config: ")


@pytest.mark.parametrize("version", ["9.9.9", "abc", "1.1", "1.1.0.0", "0.1.1", " 1.1.0", "²"])
def test_a_version_the_plugin_does_not_know_is_code_1(version: str) -> None:
    """ADD and DEL compare, they do not parse."""
    for verb in ("ADD", "DEL"):
        answer = run(Recorder().plugin, verb, conf(version))
        assert answer.error == (1, "incompatible CNI versions")


def test_the_mismatch_is_told_in_full() -> None:
    """What the configuration says, and what the plugin can."""
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
def test_verbs_that_came_later_parse_the_version(version: str, error: tuple[int, str] | None) -> None:
    """CHECK, GC and STATUS need to know how old it is."""
    answer = run(Recorder().plugin, "CHECK", conf(version))
    assert answer.error == error if error else answer.error[0] == 6


def test_errors_speak_the_version_of_the_configuration() -> None:
    """The one asked in if the plugin knows it, else the latest."""
    for version, spoken in [("0.3.1", "0.3.1"), ("9.9.9", "1.1.0"), (None, "0.1.0")]:
        document = run(Recorder().plugin, "ADD", {**conf(version), "name": "-"}).document
        assert document["cniVersion"] == spoken
    assert run(Recorder().plugin, "ADD", b"{").document["cniVersion"] == "1.1.0"


def test_an_error_document_has_its_keys_in_the_order_of_the_specification() -> None:
    """cniVersion, code, msg, details; 4 spaces; no newline."""
    expected = '{\n    "cniVersion": "1.1.0",\n    "code": 4,\n    "msg": "invalid characters in containerID",\n'
    expected += '    "details": "\\u003c\\u003e"\n}'
    assert run(Recorder().plugin, "ADD", b"", CNI_CONTAINERID="<>").stdout == expected


def test_keys_match_without_regard_to_case() -> None:
    """As the reference's reader has it."""
    config = {"CNIVERSION": "0.4.0", "Name": "net1", "TYPE": "x", "IPAM": {"Type": "y"}}
    recorder = Recorder()
    assert run(recorder.plugin, "ADD", config).document["cniVersion"] == "0.4.0"
    assert recorder.requests[0].conf.ipam_type == "y"


def test_stdin_is_kept_byte_by_byte() -> None:
    """A delegated plugin gets what we got."""
    recorder = Recorder()
    data = b' { "name" : "net1",\n"cniVersion":"1.1.0"} '
    run(recorder.plugin, "ADD", data)
    assert recorder.requests[0].stdin == data
