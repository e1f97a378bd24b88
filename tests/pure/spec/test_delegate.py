"""Delegation: another plugin does a part of the work, called in-process or executed, and nobody can tell which."""

import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from spec.delegate import HERE, delegate, find
from spec.errors import CNIError
from spec.plugin import NO_SUITE
from spec.request import Request
from spec.result import IPConfig, Result
from tests.pure.spec.delegation import STRANGER, folder_of_plugins, suite, upper, write_program  # noqa: F401 (a fixture)
from tests.pure.spec.driver import Answer, Recorder, conf, run

ROOT = Path(__file__).resolve().parents[3]
VERBS = ("ADD", "DEL", "CHECK", "GC", "STATUS")


def run_upper(
    folder: Path, verb: str, ipam: dict, *, version: str = "1.1.0", own: bool = False, **variables: str
) -> Answer:
    """A call of the delegating plugin."""
    config = conf(version, ipam={"type": "fake-ipam", **ipam}, **{"cni.dev/valid-attachments": []})
    family = suite(folder) if own else NO_SUITE
    return run(upper().plugin, verb, config, suite=family, CNI_PATH=str(folder), **variables)


@pytest.mark.parametrize(
    ("verb", "version", "ipam"),
    [
        *((verb, "1.1.0", {}) for verb in VERBS),
        *((verb, "1.1.0", {"fail": 42}) for verb in VERBS),
        ("ADD", "1.1.0", {"addresses": ["10.0.0.1/24", "fd00::1/64"]}),
        ("ADD", "0.4.0", {"addresses": ["10.0.0.1/24", "fd00::1/64"]}),
        ("ADD", "0.1.0", {"addresses": ["10.0.0.1/24", "fd00::1/64"]}),
        ("ADD", "0.2.0", {"addresses": []}),
        ("DEL", "0.1.0", {}),
        ("CHECK", "0.4.0", {"fail": 1}),
        ("STATUS", "1.1.0", {"fail": 50}),
        ("ADD", "1.1.0", {"crash": True}),
        ("ADD", "1.1.0", {"fail": "x"}),
    ],
)
def test_both_ways_give_the_same_answer(folder: Path, tmp_path: Path, verb: str, version: str, ipam: dict) -> None:
    """Result, error code, message and details; and the same verb reaches the plugin."""
    answers, logs = [], []
    for own in (False, True):
        log = tmp_path / f"log-{own}"
        answer = run_upper(folder, verb, {**ipam, "log": str(log)}, version=version, own=own, CNI_ARGS="IP=10.0.0.9")
        answers.append((answer.status, answer.stdout, answer.stderr))
        logs.append(log.read_text().splitlines())
    assert answers[0][:2] == answers[1][:2]
    assert logs[0][0] == logs[1][0]
    assert logs[0][0].startswith(f"{verb} {verb} ")


def test_a_namesake_elsewhere_is_executed(folder: Path, tmp_path: Path) -> None:
    """Upstream's host-local earlier in CNI_PATH is not ours."""
    other = tmp_path / "upstream"
    other.mkdir()
    write_program(other / "fake-ipam", STRANGER)
    answer = run(upper().plugin, "ADD", conf(), suite=suite(folder), CNI_PATH=f"{other}:{folder}")
    assert answer.document["ips"] == [{"address": "10.9.9.9/32"}]


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("verb", "version"), [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "0.4.0")])
def test_no_plugin_gets_a_verb_its_configuration_s_version_does_not_have(
    folder: Path, tmp_path: Path, verb: str, version: str, own: bool
) -> None:
    """Not even when the upper plugin asks for it."""
    config = conf(version, ipam={"log": str(tmp_path / "log")})
    family = suite(folder) if own else NO_SUITE
    answer = run(upper(verb=verb).plugin, "DEL", config, suite=family, CNI_PATH=str(folder))
    assert answer.error == (1, f"config version does not allow {verb}")
    assert not (tmp_path / "log").exists()


def test_a_child_gets_stdin_and_environment_as_they_are(tmp_path: Path) -> None:
    """But for CNI_COMMAND."""
    script = f"#!/bin/sh\ncat > {tmp_path}/stdin\nenv > {tmp_path}/env\n"
    write_program(tmp_path / "child", script)
    data = b' {"name":"net1" , "cniVersion": "1.1.0"}\n'
    variables = {"CNI_PATH": str(tmp_path), "CNI_ARGS": "IP=1", "OTHER": "thing"}
    run(upper("child", verb="DEL").plugin, "ADD", data, **variables)
    environ = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert (tmp_path / "stdin").read_bytes() == data
    assert environ["CNI_COMMAND"] == "DEL"
    assert environ["CNI_CONTAINERID"] == "pod-1"
    assert {name: environ[name] for name in variables} == variables


def test_a_child_that_does_not_read_its_stdin_does_no_harm(tmp_path: Path) -> None:
    """Even when there is more of it than a pipe holds."""
    write_program(tmp_path / "child", "#!/bin/sh\nexit 0\n")
    big = conf(padding="x" * 1_000_000)
    assert run(upper("child").plugin, "DEL", big, CNI_PATH=str(tmp_path)).status == 0


FAILURES = [
    ('echo \'{"code": 3, "msg": "m", "details": "d"}\'; exit 1', (3, "m"), ""),
    ('echo \'{"CODE": 3, "msg": "m"}\'; echo noise >&2; exit 7', (3, "m"), "noise\n"),
    ('echo \'{"code": 0, "msg": "m"}\'; exit 1', (999, "m"), ""),
    ('echo \'{"msg": "m"}\'; exit 1', (999, "m"), ""),
    ('echo "dead <battery>" >&2; exit 1', (999, 'netplugin failed: "dead \\u003cbattery\\u003e"'), ""),
    ("exit 3", (999, "netplugin failed with no error message: exit status 3"), ""),
    ("kill -9 $$", (999, "netplugin failed with no error message: signal 9"), ""),
    ("echo; exit 1", (999, "netplugin failed with no error message: exit status 1"), ""),
    ("echo oops; exit 1", (999, 'netplugin failed but error parsing its diagnostic message "oops\\n": '), ""),
    ("echo '[]'; exit 1", (999, 'netplugin failed but error parsing its diagnostic message "[]\\n": '), ""),
    ('echo \'{"code": "x"}\'; exit 1', (999, "netplugin failed but error parsing its diagnostic message "), ""),
    ("printf '\\377'; exit 1", (999, "netplugin failed but error parsing its diagnostic message "), ""),
]


@pytest.mark.parametrize(("script", "error", "stderr"), FAILURES)
@pytest.mark.parametrize("verb", ["DEL", "CHECK"])
def test_a_child_s_failure_is_passed_on(tmp_path: Path, verb: str, script: str, error: tuple, stderr: str) -> None:
    """Its own words if it has any; a mute child is code 999 with what it said on stderr."""
    write_program(tmp_path / "child", f"#!/bin/sh\ncat >/dev/null\n{script}\n")
    answer = run(upper("child").plugin, verb, CNI_PATH=str(tmp_path))
    code, message = answer.error
    assert (code, message[: len(error[1])]) == error
    assert answer.stderr == stderr


@pytest.mark.parametrize("script", [script for script, _, _ in FAILURES])
def test_a_failed_add_of_a_child_is_followed_by_its_del(tmp_path: Path, script: str) -> None:
    """Spec section 4. The ADD's error is the one that is told."""
    text = f"#!/bin/sh\ncat >/dev/null\necho $CNI_COMMAND >> {tmp_path}/log\n"
    text += f'[ "$CNI_COMMAND" = ADD ] || exit 0\n{script}\n'
    write_program(tmp_path / "child", text)
    add = run(upper("child").plugin, "ADD", CNI_PATH=str(tmp_path))
    assert add.status == 1
    assert (tmp_path / "log").read_text().split() == ["ADD", "DEL"]


@pytest.mark.parametrize(
    "output", ["", "hello", "[]", '{"ips": 1}', '{"cniVersion": "7.0.0"}', '{"cniVersion": 1}', "{}{}"]
)
def test_a_success_without_a_result_is_a_failed_add(tmp_path: Path, output: str) -> None:
    """The child may have taken an address: it is told to give it back."""
    text = f"#!/bin/sh\ncat >/dev/null\necho $CNI_COMMAND >> {tmp_path}/log\nprintf '%s' '{output}'\n"
    write_program(tmp_path / "child", text)
    answer = run(upper("child").plugin, "ADD", CNI_PATH=str(tmp_path))
    assert answer.status == 1
    assert answer.error[0] in (1, 6, 7)
    assert (tmp_path / "log").read_text().split() == ["ADD", "DEL"]


@pytest.mark.parametrize(
    ("version", "output"),
    [
        ("1.1.0", '{"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.1/8"}}'),
        ("0.4.0", '{"ips": [{"version": "4", "address": "10.0.0.1/8"}]}'),
        ("0.1.0", '{"ip4": {"ip": "10.0.0.1/8"}}'),
        ("0.1.0", '{"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.1/8"}]}'),
    ],
)
def test_a_child_s_result_is_read_in_the_version_it_states(tmp_path: Path, version: str, output: str) -> None:
    """Without one it is the configuration's; what it says on stderr is passed on."""
    write_program(tmp_path / "child", f"#!/bin/sh\ncat >/dev/null\necho note >&2\necho '{output}'\n")
    results = []

    def add(request: Request) -> Result:
        results.append(delegate(request, "ADD", "child"))
        return results[0]

    answer = run(Recorder(add=add).plugin, "ADD", conf(version), CNI_PATH=str(tmp_path))
    assert answer.document["cniVersion"] == version
    assert results == [Result(ips=(IPConfig("10.0.0.1/8"),))]
    assert answer.stderr == "note\n"


def test_null_is_an_empty_result(tmp_path: Path) -> None:
    """As in the reference."""
    write_program(tmp_path / "child", "#!/bin/sh\ncat >/dev/null\necho null\n")
    assert run(upper("child").plugin, "ADD", CNI_PATH=str(tmp_path)).document == {"cniVersion": "1.1.0"}


def test_a_del_in_the_plugin_s_own_namespace_tells_the_child_there_is_none(folder: Path, tmp_path: Path) -> None:
    """Else the child would refuse, and the address would stay taken."""
    answer = run_upper(folder, "DEL", {"log": str(tmp_path / "log")}, CNI_NETNS="/proc/self/ns/net")
    assert answer.status == 0
    assert (tmp_path / "log").read_text() == "DEL DEL  \n"


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("", (7, "no plugin name provided")),
        ("../sh", (7, "invalid plugin name: ../sh")),
        ("gone", (999, 'failed to find plugin "gone" in path [/a /b]')),
        (".", (999, 'failed to find plugin "." in path [/a /b]')),
        ("a\0b", (999, 'failed to find plugin "a\0b" in path [/a /b]')),
        ("recorder", (7, "plugin recorder is configured to delegate to itself")),
    ],
)
def test_a_plugin_that_is_not_there_is_told(kind: str, error: tuple[int, str]) -> None:
    """With the folders that were searched; a plugin that names itself would never come to an end."""
    assert run(upper(kind).plugin, "ADD", CNI_PATH="/a:/b").error == error


NO_IPAM = ["bridge", "kubenet", "portmap", "macvlan", "ptp", "flannel", "slash24-agent"]


@pytest.mark.parametrize("kind", NO_IPAM)
def test_what_gives_no_addresses_is_not_executed(tmp_path: Path, kind: str) -> None:
    """Not under its own name, nor behind a link of another: it could end the agent, or execute itself for ever."""
    write_program(tmp_path / kind, f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "alias").symlink_to(kind)
    for name in (kind, "alias"):
        message = f'"ipam.type": expected an IPAM plugin such as host-local or static, got "{name}"'
        for verb in ("ADD", "CHECK", "STATUS"):
            answer = run(upper(name).plugin, verb, CNI_PATH=str(tmp_path))
            assert answer.error == (7, message.replace("alias", kind))
        for verb in ("DEL", "GC"):
            config = conf(**{"cni.dev/valid-attachments": []})
            answer = run(upper(name).plugin, verb, config, CNI_PATH=str(tmp_path))
            assert (answer.status, answer.stderr) == (0, message.replace("alias", kind) + "\n")
    assert not (tmp_path / "ran").exists()


def test_a_plugin_of_the_suite_that_gives_no_addresses_is_refused(folder: Path) -> None:
    """By what it is: a new one needs no entry in a list."""
    other = replace(suite(folder), load={"fake-ipam": Recorder().plugin}.get)
    assert run(upper().plugin, "ADD", suite=other, CNI_PATH=str(folder)).error[0] == 7


def test_delegation_in_a_circle_ends(tmp_path: Path) -> None:
    """A stranger that executes the plugin that executed it gets an error instead of a process without an end."""
    circle = f"""
import os, sys
from spec.delegate import delegate
from spec.plugin import Plugin, serve
open({str(tmp_path / "log")!r}, "a").write("x")
plugin = Plugin("circle", add=lambda request: delegate(request, "ADD", "stranger"))
sys.exit(serve(plugin, environ=os.environ, stdin=sys.stdin.buffer, stdout=sys.stdout.buffer, stderr=sys.stderr))
"""
    (tmp_path / "circle.py").write_text(circle)
    write_program(tmp_path / "stranger", f"#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} {tmp_path}/circle.py\n")
    answer = run(upper("stranger").plugin, "ADD", CNI_PATH=str(tmp_path))
    message = 'recorder was executed as an IPAM plugin, and would execute another: "stranger"'
    assert answer.error == (7, message)
    assert (tmp_path / "log").read_text() == "x" * 2  # its ADD, and the DEL after that


DAEMON = "sleep 60 & echo $! > {folder}/daemon; cat >/dev/null; echo note >&2; echo '{{\"ips\": []}}'"


def test_an_answer_is_whole_when_the_plugin_ends(tmp_path: Path) -> None:
    """Whatever it left running holds its pipes, is not waited for, and lives on."""
    write_program(tmp_path / "child", "#!/bin/sh\n" + DAEMON.format(folder=tmp_path))
    answer = run(upper("child").plugin, "ADD", conf(padding="x" * 200_000), CNI_PATH=str(tmp_path))
    daemon = int((tmp_path / "daemon").read_text())
    try:
        assert (answer.document, answer.stderr) == ({"cniVersion": "1.1.0"}, "note\n")
        assert "sleep" in Path(f"/proc/{daemon}/cmdline").read_text()
    finally:
        os.kill(daemon, 9)


def test_of_much_on_stderr_the_end_is_kept(tmp_path: Path) -> None:
    """A plugin may be as talkative as it likes."""
    text = "#!/bin/sh\nyes 0123456789 | head -c 3000000 >&2; echo the end >&2; echo {}"
    write_program(tmp_path / "child", text)
    answer = run(upper("child").plugin, "ADD", CNI_PATH=str(tmp_path))
    assert answer.status == 0, answer.stdout
    assert answer.stderr.endswith("the end\n")
    assert len(answer.stderr) < (1 << 20) + 100


def test_what_a_plugin_leaves_running_may_print_without_end(tmp_path: Path) -> None:
    """It has ended: what is in the pipe then is its answer."""
    write_program(tmp_path / "child", "#!/bin/sh\n(exec yes >&2) & echo $! >$0.pid; echo {}")
    try:
        assert run(upper("child").plugin, "ADD", CNI_PATH=str(tmp_path)).status == 0
    finally:
        os.kill(int((tmp_path / "child.pid").read_text()), 9)


def test_a_flood_of_output_ends_without_an_agent_too(tmp_path: Path) -> None:
    """The plugin is ended, and its output is no answer."""
    write_program(tmp_path / "child", "#!/bin/sh\nexec yes 0123456789012345678901234567890123456789\n")
    code, message = run(upper("child").plugin, "DEL", CNI_PATH=str(tmp_path)).error
    assert (code, message) == (999, f"{tmp_path}/child printed more than {1 << 20} bytes")


@pytest.mark.parametrize("code", ["9" * 401, "-1", "1.5", "4294967296", "true", '"7"', "[]", "1e400"])
def test_a_code_that_no_runtime_could_read_becomes_999(tmp_path: Path, code: str) -> None:
    """A runtime decodes it as an unsigned integer, and would lose the whole error with it."""
    write_program(tmp_path / "child", f'#!/bin/sh\necho \'{{"code": {code}, "msg": "m"}}\'; exit 1\n')
    answer = run(upper("child").plugin, "CHECK", CNI_PATH=str(tmp_path))
    assert answer.error[0] == 999
    assert answer.error[1].startswith("netplugin failed but error parsing its diagnostic message ")


@pytest.mark.parametrize("script", ['echo \'{"code": 3, "msg": "\'$x\'"}\'', "echo $x", "echo $x >&2"])
def test_what_a_child_says_is_cut_to_what_a_log_takes(tmp_path: Path, script: str) -> None:
    """Messages of megabytes fit into no event and no RPC."""
    many = "x=xxxxxxxx; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do x=$x$x; done\n"
    write_program(tmp_path / "child", f"#!/bin/sh\n{many}{script}; exit 1\n")
    _, message = run(upper("child").plugin, "CHECK", CNI_PATH=str(tmp_path)).error
    assert len(message) == 4096 + 1
    assert message.endswith("xxx…")


@pytest.mark.parametrize(
    "output",
    [
        '{"cniVersion": "' + "1" * 5000 + '"}',
        '{"ips": ' + "[" * 5000 + "]" * 5000 + "}",
        '{"ips": [{"address": "10.0.0.1/8", "interface": ' + "1" * 5000 + "}]}",
        '{"ips": [{"address": "10.0.0.1/8", "interface": 1e999}]}',
        '{"routes": [{"dst": "10.0.0.0/8", "mtu": ' + "1" * 401 + "}]}",
        '\ufeff{"ips": []}',
    ],
)
def test_an_odd_result_is_an_error_of_few_words(tmp_path: Path, output: str) -> None:
    """It names the plugin or the key, and repeats no more of the value than helps."""
    (tmp_path / "result").write_text(output)
    write_program(tmp_path / "child", f"#!/bin/sh\ncat >/dev/null\n[ $CNI_COMMAND = DEL ] || cat {tmp_path}/result\n")
    code, message = run(upper("child").plugin, "ADD", CNI_PATH=str(tmp_path)).error
    assert code in (1, 6, 7)
    assert len(message) < 300
    assert "python" not in message.lower()
    assert "utf-8-sig" not in message


def test_status_tells_a_missing_plugin_by_its_own_code() -> None:
    """50: the plugin is not available."""
    assert run(upper("gone").plugin, "STATUS", CNI_PATH="/a").error[0] == 50


def test_the_first_regular_file_in_the_path_is_the_plugin(tmp_path: Path) -> None:
    """A folder of that name is not; whether it can be executed is not asked yet."""
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    (tmp_path / "one" / "child").mkdir()
    (tmp_path / "two" / "child").touch()
    (tmp_path / "three" / "child").touch()
    path = [str(tmp_path / name) for name in ("zero", "one", "two", "three")]
    assert find("child", path, None, HERE)[0] == str(tmp_path / "two" / "child")
    with pytest.raises(CNIError, match='failed to find plugin "other"'):
        find("other", path, None, HERE)


@pytest.mark.parametrize(
    ("text", "mode"), [("#!/bin/sh\n", 0o644), ("no program", 0o755), ("#!/no/such/shell\n", 0o755)]
)
def test_what_can_not_be_started_is_told(tmp_path: Path, text: str, mode: int) -> None:
    """Code 999, the kernel's reason, and which file."""
    write_program(tmp_path / "child", text).chmod(mode)
    answer = run(upper("child").plugin, "DEL", CNI_PATH=str(tmp_path))
    assert answer.error[0] == 999
    assert answer.error[1].startswith('failed to run plugin "child": ')
    assert answer.document["details"] == str(tmp_path / "child")


def test_a_plugin_that_is_just_being_installed_is_waited_for(tmp_path: Path) -> None:
    """While somebody has it open for writing the kernel says ETXTBSY."""
    child = write_program(tmp_path / "child", "#!/bin/sh\nexit 0\n")
    writer = os.open(child, os.O_WRONLY)
    timer = threading.Timer(0.3, os.close, [writer])
    timer.start()
    begin = time.monotonic()
    assert run(upper("child").plugin, "DEL", CNI_PATH=str(tmp_path)).status == 0
    assert time.monotonic() - begin >= 0.3
    timer.join()


def test_a_child_that_checks_no_version_is_not_even_started(tmp_path: Path) -> None:
    """The verb is refused before the search."""
    write_program(tmp_path / "child", f"#!/bin/sh\ntouch {tmp_path}/started\n")
    answer = run(upper("child", verb="CHECK").plugin, "DEL", conf("0.3.1"), CNI_PATH=str(tmp_path))
    assert answer.error == (1, "config version does not allow CHECK")
    assert not (tmp_path / "started").exists()


def test_an_undo_sees_its_request_as_a_del_would() -> None:
    """A previous result that an ADD may not fail to read is none to a DEL."""
    recorder = Recorder()
    run(recorder.plugin, "ADD", conf(prevResult={"ips": 1}))
    assert recorder.requests[0].with_verb("DEL").conf.prev_result is None
    with pytest.raises(CNIError, match='"prevResult.ips"'):
        _ = recorder.requests[0].conf.prev_result
