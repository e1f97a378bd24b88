"""For any input at most one JSON document is printed, never a traceback, and garbage never succeeds."""

import io
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from spec.config import decode
from spec.errors import CNIError
from spec.plugin import serve
from tests.pure.spec.driver import Answer, Recorder, conf, run

VARIABLE_NAMES = (
    "CNI_COMMAND",
    "CNI_CONTAINERID",
    "CNI_NETNS",
    "CNI_IFNAME",
    "CNI_ARGS",
    "CNI_PATH",
    "CNI_NETNS_OVERRIDE",
)
verbs = st.sampled_from(["ADD", "DEL", "CHECK", "GC", "STATUS"])
# Any bytes but NUL, as a process can get them, decoded by Python with surrogateescape.
variables = st.binary(max_size=40).map(lambda data: data.replace(b"\0", b"").decode(errors="surrogateescape"))
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(
    [
        "cniVersion",
        "NAME",
        "type",
        "ipam",
        "dns",
        "capabilities",
        "prevResult",
        "cni.dev/valid-attachments",
        "args",
        "x",
    ]
)
versions = st.sampled_from(["0.1.0", "0.2.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
modest = settings(max_examples=150)


def assert_well_behaved(answer: Answer, verb: str) -> None:
    """Either one document or none is printed, as the exit status says."""
    assert "Traceback" not in answer.stdout + answer.stderr
    assert answer.status in (0, 1)
    if answer.status == 1:
        assert answer.document["code"] in (1, 4, 5, 6, 7, 8)
        assert {"cniVersion", "msg"} <= answer.document.keys()
    elif verb == "ADD":
        assert isinstance(answer.document, dict)
    else:
        assert answer.stdout == ""


def uses_everything() -> Recorder:
    """A plugin that reads everything that the protocol offers."""
    recorder = Recorder()

    def use(request: object) -> object:
        recorder.record(request)
        assert request.conf.prev_result is None or request.conf.prev_result.ips is not None
        return recorder.result

    recorder.plugin = Recorder(**dict.fromkeys(("add", "delete", "check", "gc", "status"), use)).plugin
    return recorder


@modest
@given(verbs, st.binary(max_size=200))
def test_random_bytes_on_stdin_always_fail(verb: str, data: bytes) -> None:
    """The plugin is not called."""
    recorder = uses_everything()
    answer = run(recorder.plugin, verb, data)
    assert_well_behaved(answer, verb)
    assert (answer.status, recorder.verbs) == (1, [])


@modest
@given(verbs, versions, st.data())
def test_a_damaged_configuration_is_an_error_or_harmless(verb: str, version: str, data: st.DataObject) -> None:
    """One byte of a valid configuration is changed, deleted or inserted."""
    previous = {"ips": [{"address": "10.0.0.1/8", "interface": 0}], "interfaces": [{"name": "eth0"}]}
    good = json.dumps(conf(version, prevResult=previous, ipam={"type": "x"}, dns={"search": ["é"]})).encode()
    position = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.binary(max_size=2))
    answer = run(uses_everything().plugin, verb, good[:position] + byte + good[position + 1 :])
    assert_well_behaved(answer, verb)


@modest
@given(verbs, versions, st.dictionaries(keys, values, max_size=4))
def test_any_json_under_the_common_keys_is_an_error_or_harmless(verb: str, version: str, found: dict) -> None:
    """Any type may be under any key."""
    answer = run(uses_everything().plugin, verb, {"cniVersion": version, "name": "net1", **found})
    assert_well_behaved(answer, verb)


@modest
@given(st.dictionaries(st.sampled_from(VARIABLE_NAMES), variables))
def test_random_bytes_in_all_variables_are_an_error(environ: dict[str, str]) -> None:
    """Any subset of the variables, with any content."""
    recorder = uses_everything()
    out, err = io.BytesIO(), io.StringIO()
    stdin = io.BytesIO(json.dumps(conf()).encode())
    status = serve(recorder.plugin, environ=environ, stdin=stdin, stdout=out, stderr=err)
    answer = Answer(status, out.getvalue().decode(), err.getvalue())
    assert_well_behaved(answer, environ.get("CNI_COMMAND", ""))
    assert bool(answer.status) == bool(environ.get("CNI_COMMAND"))


@modest
@given(verbs, st.sampled_from(VARIABLE_NAMES[1:]), variables)
def test_random_bytes_in_one_variable_are_an_error_or_harmless(verb: str, name: str, value: str) -> None:
    """The other variables are valid."""
    config = conf(**{"cni.dev/valid-attachments": []})
    answer = run(uses_everything().plugin, verb, config, **{name: value})
    assert_well_behaved(answer, verb)


@modest
@given(st.binary(max_size=100) | st.text(max_size=60).map(str.encode))
def test_decoding_gives_an_object_or_code_6(data: bytes) -> None:
    """It raises no other exception."""
    try:
        outcome = decode(data)
    except CNIError as error:
        outcome = error.code
    assert outcome == 6 or isinstance(outcome, dict)
