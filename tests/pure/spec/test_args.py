"""CNI_ARGS: the grammar, the keys that are taken, and that a DEL never fails for them."""

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
def test_garbage_is_refused_by_add_and_check(text: str, message: str) -> None:
    """Code 4, and the details name the variable and what it may hold."""
    for verb in ("ADD", "CHECK"):
        answer = run(Recorder().plugin, verb, CNI_ARGS=text)
        assert answer.error == (4, message)
        assert answer.document["details"].startswith("CNI_ARGS is ")


@pytest.mark.parametrize("text", [text for text, _ in GARBAGE])
def test_garbage_never_fails_a_del(text: str) -> None:
    """What an ADD refused, a DEL must still be able to clean up."""
    recorder = Recorder()
    assert run(recorder.plugin, "DEL", CNI_ARGS=text).status == 0
    assert recorder.verbs == ["DEL"]


@pytest.mark.parametrize("text", ["IP=10.0.0.1", "MAC=0a:0b", "GATEWAY=10.0.0.254", "IP=1;MAC=2;GATEWAY=3", "IP="])
def test_every_plugin_takes_the_conventional_keys(text: str) -> None:
    """A runtime sends them to the whole chain; they need no IgnoreUnknown."""
    assert run(Recorder().plugin, "ADD", CNI_ARGS=text).status == 0


@pytest.mark.parametrize("true", ["1", "true", "True", "TRUE"])
def test_ignore_unknown_lets_any_key_pass_wherever_it_stands(true: str) -> None:
    """As Kubernetes runtimes send it."""
    text = f"K8S_POD_NAME=web;IgnoreUnknown={true};K8S_POD_NAMESPACE=default"
    assert parse_args(text, strict=True)["K8S_POD_NAME"] == "web"


def test_the_last_of_equal_keys_wins() -> None:
    """As in the reference."""
    assert parse_args("IP=a;IP=b", strict=True) == {"IP": "b"}


def test_leniently_what_can_be_read_is_read() -> None:
    """A DEL still learns the good pairs."""
    assert parse_args("IP=a;junk;X=1=2;MAC=b", strict=False) == {"IP": "a", "MAC": "b"}


def test_an_error_is_no_longer_than_a_log_takes() -> None:
    """Whatever it repeats: the environment may have a megabyte."""
    answer = run(Recorder().plugin, "ADD", CNI_ARGS=";".join(f"K{number}=x" for number in range(20_000)))
    assert answer.error[0] == 4
    assert len(answer.stdout) < 10_000


def test_no_args_are_no_pair() -> None:
    """The empty text is fine."""
    assert parse_args("", strict=True) == {}


def test_quotes_in_the_message_are_escaped() -> None:
    """The message stays readable whatever was sent."""
    with pytest.raises(CNIError) as caught:
        parse_args('"\\', strict=True)
    assert caught.value.msg == 'ARGS: invalid pair "\\"\\\\"'


@pytest.mark.parametrize("text", [text for text, _ in GARBAGE])
def test_garbage_is_nothing_to_a_plugin_that_reads_no_args(text: str) -> None:
    """As in the reference, which looks at them only in plugins that have a use for them."""
    plugin = replace(Recorder().plugin, reads_args=False)
    for verb in ("ADD", "CHECK", "DEL"):
        assert run(plugin, verb, CNI_ARGS=text).status == 0


@pytest.mark.parametrize("kind", sorted(TYPES))
def test_which_plugins_read_args(kind: str) -> None:
    """Those that use a MAC, an address or a gateway of it; the others do not stop a pod for what they never use."""
    reads = kind not in ("bandwidth", "firewall", "loopback", "portmap")
    assert load(kind).reads_args is reads
