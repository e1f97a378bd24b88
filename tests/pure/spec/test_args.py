"""CNI_ARGS: the grammar, the accepted keys, and that no value makes a DEL fail."""

from dataclasses import replace

import pytest

from plugins.__main__ import TYPES, load
from spec.errors import CNIError
from spec.request import parse_args
from tests.pure.spec.driver import Recorder, run

GARBAGE = [
    ("IP", 'ARGS: invalid pair "IP"'),
    ("IP=a=b", 'ARGS: invalid pair "IP=a=b"'),
    ("IP=a;", 'ARGS: invalid pair ""'),
    (";", 'ARGS: invalid pair ""'),
    ("mac=x", 'ARGS: unknown args ["mac=x"]'),
    ("A=1;B=2", 'ARGS: unknown args ["A=1" "B=2"]'),
    ("K8S_POD_NAME=p;IgnoreUnknown=0", 'ARGS: unknown args ["K8S_POD_NAME=p"]'),
    (
        "IgnoreUnknown=yes",
        'ARGS: error parsing value of pair "IgnoreUnknown=yes": boolean unmarshal error: invalid input yes',
    ),
]


@pytest.mark.parametrize(("text", "message"), GARBAGE)
def test_add_and_check_refuse_garbage(text: str, message: str) -> None:
    """Error 4; the details name the variable and the values that it may have."""
    for verb in ("ADD", "CHECK"):
        answer = run(Recorder().plugin, verb, CNI_ARGS=text)
        assert answer.error == (4, message)
        assert answer.document["details"].startswith("CNI_ARGS is ")


@pytest.mark.parametrize("text", [text for text, _ in GARBAGE])
def test_garbage_does_not_fail_a_del(text: str) -> None:
    """A DEL must be able to clean up after an ADD that was refused."""
    recorder = Recorder()
    assert run(recorder.plugin, "DEL", CNI_ARGS=text).status == 0
    assert recorder.verbs == ["DEL"]


@pytest.mark.parametrize("text", ["IP=10.0.0.1", "MAC=0a:0b", "GATEWAY=10.0.0.254", "IP=1;MAC=2;GATEWAY=3", "IP="])
def test_every_plugin_accepts_the_conventional_keys(text: str) -> None:
    """A runtime passes them to all plugins of a chain; they need no IgnoreUnknown."""
    assert run(Recorder().plugin, "ADD", CNI_ARGS=text).status == 0


@pytest.mark.parametrize("true", ["1", "true", "True", "TRUE"])
def test_ignore_unknown_accepts_any_key_at_any_position(true: str) -> None:
    """As Kubernetes runtimes pass it."""
    text = f"K8S_POD_NAME=web;IgnoreUnknown={true};K8S_POD_NAMESPACE=default"
    assert parse_args(text, strict=True)["K8S_POD_NAME"] == "web"


def test_the_last_of_duplicate_keys_wins() -> None:
    """As in the reference."""
    assert parse_args("IP=a;IP=b", strict=True) == {"IP": "b"}


def test_lenient_parsing_keeps_the_valid_pairs() -> None:
    """A DEL still gets the pairs that can be parsed."""
    assert parse_args("IP=a;junk;X=1=2;MAC=b", strict=False) == {"IP": "a", "MAC": "b"}


def test_error_messages_are_bounded() -> None:
    """CNI_ARGS may be a megabyte long; the error document stays below 10,000 characters."""
    answer = run(Recorder().plugin, "ADD", CNI_ARGS=";".join(f"K{number}=x" for number in range(20_000)))
    assert answer.error[0] == 4
    assert len(answer.stdout) < 10_000


def test_empty_args_have_no_pairs() -> None:
    """The empty string is valid."""
    assert parse_args("", strict=True) == {}


def test_quotes_in_the_message_are_escaped() -> None:
    """Quotes and backslashes of CNI_ARGS are escaped, so that the message stays readable."""
    with pytest.raises(CNIError) as caught:
        parse_args('"\\', strict=True)
    assert caught.value.msg == 'ARGS: invalid pair "\\"\\\\"'


@pytest.mark.parametrize("text", [text for text, _ in GARBAGE])
def test_a_plugin_that_does_not_read_args_ignores_garbage(text: str) -> None:
    """As in the reference, where only plugins that use CNI_ARGS parse it."""
    plugin = replace(Recorder().plugin, reads_args=False)
    for verb in ("ADD", "CHECK", "DEL"):
        assert run(plugin, verb, CNI_ARGS=text).status == 0


@pytest.mark.parametrize("kind", sorted(TYPES))
def test_which_plugins_read_args(kind: str) -> None:
    """Those that use a MAC, an address or a gateway from it. The others do not fail on a value that they do not use."""
    reads = kind not in ("bandwidth", "firewall", "loopback", "portmap")
    assert load(kind).reads_args is reads
