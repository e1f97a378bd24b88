"""Delegation to another plugin: called in-process or executed, with the same outcome."""

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
from tests.netns.node import wait_until
from tests.pure.spec.delegation import STRANGER, folder_of_plugins, suite, upper, write_program  # noqa: F401 (a fixture)
from tests.pure.spec.driver import Answer, Recorder, conf, run

ROOT = Path(__file__).resolve().parents[3]
VERBS = ("ADD", "DEL", "CHECK", "GC", "STATUS")


def run_upper(
    folder: Path, verb: str, ipam: dict, *, version: str = "1.1.0", own: bool = False, **variables: str
) -> Answer:
    """One call of the delegating plugin."""
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
def test_both_modes_have_the_same_outcome(folder: Path, tmp_path: Path, verb: str, version: str, ipam: dict) -> None:
    """The result, or the error's code, message and details, are equal; the plugin gets the verb in both modes."""
    answers, logs = [], []
    for own in (False, True):
        log = tmp_path / f"log-{own}"
        answer = run_upper(folder, verb, {**ipam, "log": str(log)}, version=version, own=own, CNI_ARGS="IP=10.0.0.9")
        answers.append((answer.status, answer.stdout, answer.stderr))
        logs.append(log.read_text().splitlines())
    assert answers[0][:2] == answers[1][:2]
    assert logs[0][0] == logs[1][0]
    assert logs[0][0].startswith(f"{verb} {verb} ")


def test_another_plugin_of_the_same_name_is_executed(folder: Path, tmp_path: Path) -> None:
    """Upstream's host-local, earlier in CNI_PATH, is not ours."""
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
    """Even if the delegating plugin requests it."""
    config = conf(version, ipam={"log": str(tmp_path / "log")})
    family = suite(folder) if own else NO_SUITE
    answer = run(upper(verb=verb).plugin, "DEL", config, suite=family, CNI_PATH=str(folder))
    assert answer.error == (1, f"config version does not allow {verb}")
    assert not (tmp_path / "log").exists()


def test_a_child_gets_stdin_and_environment_unchanged(tmp_path: Path) -> None:
    """Except CNI_COMMAND."""
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


def test_a_child_may_leave_its_stdin_unread(tmp_path: Path) -> None:
    """Even if the configuration is larger than the pipe's buffer."""
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
    """The child's error is kept if it printed one; otherwise the error has code 999 and the child's stderr."""
    write_program(tmp_path / "child", f"#!/bin/sh\ncat >/dev/null\n{script}\n")
    answer = run(upper("child").plugin, verb, CNI_PATH=str(tmp_path))
    code, message = answer.error
    assert (code, message[: len(error[1])]) == error
    assert answer.stderr == stderr


@pytest.mark.parametrize("script", [script for script, _, _ in FAILURES])
def test_a_failed_add_of_a_child_is_followed_by_its_del(tmp_path: Path, script: str) -> None:
    """As section 4 of the specification requires. The error of the ADD is returned."""
    text = f"#!/bin/sh\ncat >/dev/null\necho $CNI_COMMAND >> {tmp_path}/log\n"
    text += f'[ "$CNI_COMMAND" = ADD ] || exit 0\n{script}\n'
    write_program(tmp_path / "child", text)
    add = run(upper("child").plugin, "ADD", CNI_PATH=str(tmp_path))
    assert add.status == 1
    assert (tmp_path / "log").read_text().split() == ["ADD", "DEL"]


@pytest.mark.parametrize(
    "output", ["", "hello", "[]", '{"ips": 1}', '{"cniVersion": "7.0.0"}', '{"cniVersion": 1}', "{}{}"]
)
def test_an_exit_status_of_0_without_a_result_fails_the_add(tmp_path: Path, output: str) -> None:
    """The child may have allocated an address, so its DEL follows."""
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
    """Without a cniVersion it is read in the configuration's version; the child's stderr is passed on."""
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


def test_a_del_in_the_plugin_s_own_namespace_gives_the_child_no_namespace(folder: Path, tmp_path: Path) -> None:
    """Otherwise the child would refuse the call, and the address would stay allocated."""
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
def test_a_missing_plugin_is_an_error(kind: str, error: tuple[int, str]) -> None:
    """The message has the folders that were searched. A plugin that delegates to itself would recurse without end."""
    assert run(upper(kind).plugin, "ADD", CNI_PATH="/a:/b").error == error


NO_IPAM = ["bridge", "kubenet", "portmap", "macvlan", "ptp", "flannel", "slash24-agent", "slash24-node"]


@pytest.mark.parametrize("kind", NO_IPAM)
def test_a_plugin_that_is_not_an_ipam_plugin_is_not_executed(tmp_path: Path, kind: str) -> None:
    """Neither by its own name nor by a symbolic link: it could stop the agent, or execute itself for ever."""
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


def test_a_plugin_of_the_suite_that_is_not_an_ipam_plugin_is_refused(folder: Path) -> None:
    """The plugin object decides: a new plugin needs no entry in a list."""
    other = replace(suite(folder), load={"fake-ipam": Recorder().plugin}.get)
    assert run(upper().plugin, "ADD", suite=other, CNI_PATH=str(folder)).error[0] == 7


def test_circular_delegation_ends(tmp_path: Path) -> None:
    """A foreign plugin that executes the plugin that executed it gets an error, instead of processes without end."""
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
    assert (tmp_path / "log").read_text() == "x" * 2  # its ADD and the DEL that follows


DAEMON = "sleep 60 & echo $! > {folder}/daemon; cat >/dev/null; echo note >&2; echo '{{\"ips\": []}}'"


def test_the_output_is_complete_when_the_plugin_exits(tmp_path: Path) -> None:
    """A background process that holds the plugin's pipes is neither waited for nor killed."""
    write_program(tmp_path / "child", "#!/bin/sh\n" + DAEMON.format(folder=tmp_path))
    answer = run(upper("child").plugin, "ADD", conf(padding="x" * 200_000), CNI_PATH=str(tmp_path))
    daemon = int((tmp_path / "daemon").read_text())
    try:
        assert (answer.document, answer.stderr) == ({"cniVersion": "1.1.0"}, "note\n")
        # The shell's child may not have executed sleep yet.
        assert wait_until(lambda: "sleep" in Path(f"/proc/{daemon}/cmdline").read_text())
    finally:
        os.kill(daemon, 9)


def test_only_the_end_of_a_long_stderr_is_kept(tmp_path: Path) -> None:
    """A plugin may print any amount on stderr and succeed."""
    text = "#!/bin/sh\nyes 0123456789 | head -c 3000000 >&2; echo the end >&2; echo {}"
    write_program(tmp_path / "child", text)
    answer = run(upper("child").plugin, "ADD", CNI_PATH=str(tmp_path))
    assert answer.status == 0, answer.stdout
    assert answer.stderr.endswith("the end\n")
    assert len(answer.stderr) < (1 << 20) + 100


def test_a_background_process_may_print_without_end(tmp_path: Path) -> None:
    """Once the plugin has exited, only what is in the pipe is read."""
    write_program(tmp_path / "child", "#!/bin/sh\n(exec yes >&2) & echo $! >$0.pid; echo {}")
    try:
        assert run(upper("child").plugin, "ADD", CNI_PATH=str(tmp_path)).status == 0
    finally:
        os.kill(int((tmp_path / "child.pid").read_text()), 9)


def test_unbounded_output_is_an_error_without_an_agent_too(tmp_path: Path) -> None:
    """The plugin is killed, and its output discarded."""
    write_program(tmp_path / "child", "#!/bin/sh\nexec yes 0123456789012345678901234567890123456789\n")
    code, message = run(upper("child").plugin, "DEL", CNI_PATH=str(tmp_path)).error
    assert (code, message) == (999, f"{tmp_path}/child printed more than {1 << 20} bytes")


@pytest.mark.parametrize("code", ["9" * 401, "-1", "1.5", "4294967296", "true", '"7"', "[]", "1e400"])
def test_an_error_code_that_is_not_an_unsigned_integer_becomes_999(tmp_path: Path, code: str) -> None:
    """A runtime could not decode it, and would lose the whole error."""
    write_program(tmp_path / "child", f'#!/bin/sh\necho \'{{"code": {code}, "msg": "m"}}\'; exit 1\n')
    answer = run(upper("child").plugin, "CHECK", CNI_PATH=str(tmp_path))
    assert answer.error[0] == 999
    assert answer.error[1].startswith("netplugin failed but error parsing its diagnostic message ")


@pytest.mark.parametrize("script", ['echo \'{"code": 3, "msg": "\'$x\'"}\'', "echo $x", "echo $x >&2"])
def test_messages_of_a_child_are_truncated(tmp_path: Path, script: str) -> None:
    """To 4096 characters: a message of megabytes fits neither an event nor an RPC."""
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
def test_an_invalid_result_is_a_short_error(tmp_path: Path, output: str) -> None:
    """The error names the plugin or the key, and quotes only the beginning of the value."""
    (tmp_path / "result").write_text(output)
    write_program(tmp_path / "child", f"#!/bin/sh\ncat >/dev/null\n[ $CNI_COMMAND = DEL ] || cat {tmp_path}/result\n")
    code, message = run(upper("child").plugin, "ADD", CNI_PATH=str(tmp_path)).error
    assert code in (1, 6, 7)
    assert len(message) < 300
    assert "python" not in message.lower()
    assert "utf-8-sig" not in message


def test_status_has_its_own_code_for_a_missing_plugin() -> None:
    """50: the plugin is not available."""
    assert run(upper("gone").plugin, "STATUS", CNI_PATH="/a").error[0] == 50


def test_the_first_regular_file_in_the_path_is_the_plugin(tmp_path: Path) -> None:
    """A folder of that name is skipped; whether the file is executable is not checked here."""
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
def test_a_plugin_that_cannot_be_executed_is_an_error(tmp_path: Path, text: str, mode: int) -> None:
    """Code 999, the kernel's reason, and the file's path."""
    write_program(tmp_path / "child", text).chmod(mode)
    answer = run(upper("child").plugin, "DEL", CNI_PATH=str(tmp_path))
    assert answer.error[0] == 999
    assert answer.error[1].startswith('failed to run plugin "child": ')
    assert answer.document["details"] == str(tmp_path / "child")


def test_execution_waits_for_an_installation_in_progress(tmp_path: Path) -> None:
    """While another process has the file open for writing, the kernel returns ETXTBSY."""
    child = write_program(tmp_path / "child", "#!/bin/sh\nexit 0\n")
    writer = os.open(child, os.O_WRONLY)
    timer = threading.Timer(0.3, os.close, [writer])
    timer.start()
    begin = time.monotonic()
    assert run(upper("child").plugin, "DEL", CNI_PATH=str(tmp_path)).status == 0
    assert time.monotonic() - begin >= 0.3
    timer.join()


def test_a_child_without_the_verb_in_its_version_is_not_started(tmp_path: Path) -> None:
    """The verb is refused before the plugin is searched."""
    write_program(tmp_path / "child", f"#!/bin/sh\ntouch {tmp_path}/started\n")
    answer = run(upper("child", verb="CHECK").plugin, "DEL", conf("0.3.1"), CNI_PATH=str(tmp_path))
    assert answer.error == (1, "config version does not allow CHECK")
    assert not (tmp_path / "started").exists()


def test_an_undo_reads_its_request_as_a_del() -> None:
    """An invalid prevResult, an error for an ADD, is ignored by a DEL."""
    recorder = Recorder()
    run(recorder.plugin, "ADD", conf(prevResult={"ips": 1}))
    assert recorder.requests[0].with_verb("DEL").conf.prev_result is None
    with pytest.raises(CNIError, match='"prevResult.ips"'):
        _ = recorder.requests[0].conf.prev_result
