"""Which verb is served when, and what is printed."""

import pytest

from spec.verbs import VERBS
from spec.versions import SUPPORTED
from tests.pure.spec.driver import VARIABLES, Recorder, conf, run

HANDLED = ("ADD", "DEL", "CHECK", "GC", "STATUS")


@pytest.mark.parametrize("version", [None, "", *SUPPORTED])
@pytest.mark.parametrize("verb", HANDLED)
def test_a_verb_is_served_from_its_version_on(verb: str, version: str | None) -> None:
    """In older versions it is refused with code 1; a configuration without a version has 0.1.0."""
    recorder = Recorder()
    answer = run(recorder.plugin, verb, conf(version, **{"cni.dev/valid-attachments": []}))
    exists = SUPPORTED.index(version or "0.1.0") >= SUPPORTED.index(VERBS[verb].since)
    if exists:
        assert answer.status == 0
        assert recorder.verbs == [verb]
    else:
        assert answer.error == (1, f"config version does not allow {verb}")
        assert recorder.verbs == []


@pytest.mark.parametrize("verb", ["DEL", "CHECK", "GC", "STATUS"])
def test_only_add_prints(verb: str) -> None:
    """Every other verb succeeds without output."""
    answer = run(Recorder().plugin, verb, conf(**{"cni.dev/valid-attachments": []}))
    assert (answer.status, answer.stdout, answer.stderr) == (0, "", "")


@pytest.mark.parametrize("version", SUPPORTED)
def test_an_add_answers_in_the_configuration_s_version(version: str) -> None:
    """The result has the configuration's cniVersion, is indented by 4 spaces, and has no trailing newline."""
    answer = run(Recorder().plugin, "ADD", conf(version))
    assert answer.document["cniVersion"] == version
    assert answer.stdout.startswith('{\n    "cniVersion": ')
    assert answer.stdout.endswith("}")


def test_version_is_one_line_and_does_not_read_stdin() -> None:
    """VERSION prints compact JSON and a newline, whatever is on stdin."""
    expected = '{"cniVersion":"1.1.0","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}\n'
    unset = dict.fromkeys(VARIABLES)
    assert run(Recorder().plugin, "VERSION", b"\xff not json", **unset).stdout == expected


def test_version_lists_the_versions_that_the_plugin_supports() -> None:
    """A plugin that needs newer versions lists only these."""
    plugin = Recorder(versions=("1.0.0", "1.1.0")).plugin
    assert run(plugin, "VERSION").document["supportedVersions"] == ["1.0.0", "1.1.0"]


@pytest.mark.parametrize("command", ["", None])
def test_without_a_command_the_about_text_is_printed(command: str | None) -> None:
    """On stderr, for a person who starts the executable; the exit status is 0."""
    answer = run(Recorder().plugin, "", b"", CNI_COMMAND=command)
    assert (answer.status, answer.stdout) == (0, "")
    name, versions = answer.stderr.splitlines()
    assert name.startswith("CNI recorder plugin ")
    assert versions == "CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"


@pytest.mark.parametrize("verb", ["DEL", "CHECK", "GC", "STATUS"])
def test_a_verb_that_the_plugin_does_not_implement_succeeds(verb: str) -> None:
    """But only in a version that has the verb."""
    handler = {VERBS[verb].handler: None}
    answer = run(Recorder(**handler).plugin, verb, conf(**{"cni.dev/valid-attachments": []}))
    assert (answer.status, answer.stdout) == (0, "")
    assert run(Recorder(**handler).plugin, verb, conf("9.9.9")).status == 1


def test_a_plugin_without_add_passes_the_previous_result_on() -> None:
    """Converted to the configuration's version."""
    previous = {"cniVersion": "0.3.0", "ips": [{"version": "4", "address": "10.0.0.1/8"}]}
    answer = run(Recorder(add=None).plugin, "ADD", conf("0.4.0", prevResult=previous))
    assert answer.document == {"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.0.0.1/8"}], "dns": {}}


def test_gc_without_the_list_of_valid_attachments_removes_nothing() -> None:
    """Any attachment might be valid: the plugin is not called, and stderr says so."""
    recorder = Recorder()
    answer = run(recorder.plugin, "GC", conf())
    assert (answer.status, answer.stdout, recorder.verbs) == (0, "", [])
    assert "cni.dev/valid-attachments" in answer.stderr


def test_gc_with_null_has_no_valid_attachments() -> None:
    """libcni writes an empty list as null."""
    recorder = Recorder()
    run(recorder.plugin, "GC", conf(**{"cni.dev/valid-attachments": None}))
    assert recorder.requests[0].valid_attachments == frozenset()


def test_gc_gets_the_attachments_of_its_network() -> None:
    """Each has its network, container and interface."""
    recorder = Recorder()
    alive = [{"containerID": "pod-1", "ifname": "eth0"}, {"containerID": "pod-1", "ifname": "eth1"}]
    run(recorder.plugin, "GC", conf(**{"cni.dev/valid-attachments": alive, "cni.dev/attachments": []}))
    found = {(a.network, a.container_id, a.ifname) for a in recorder.requests[0].valid_attachments}
    assert found == {("net1", "pod-1", "eth0"), ("net1", "pod-1", "eth1")}


@pytest.mark.parametrize("alive", [{}, [1], [{"containerID": "a"}], [{"containerID": "", "ifname": "eth0"}], ["a"]])
def test_gc_with_an_invalid_list_is_refused(alive: object) -> None:
    """A guess might release the address of a running pod."""
    recorder = Recorder()
    answer = run(recorder.plugin, "GC", conf(**{"cni.dev/valid-attachments": alive}))
    assert answer.error[0] == 7
    assert "cni.dev/valid-attachments" in answer.error[1]
    assert recorder.verbs == []


def test_verbs_are_case_sensitive() -> None:
    """`add` is not a verb."""
    assert run(Recorder().plugin, "add").error == (4, "unknown CNI_COMMAND: add")
