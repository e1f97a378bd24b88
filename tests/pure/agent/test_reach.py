"""How a plugin in the agent opens the pod's namespace and runs other executables."""

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from linux.netns import OWN, NoNetns, open_netns
from spec.delegate import delegate
from spec.plugin import Plugin, Suite, serve
from spec.request import Request, is_own_netns
from spec.result import Result
from spec.suite import Executor

ENVIRON = {"CNI_CONTAINERID": "pod", "CNI_NETNS": "/run/netns/elsewhere", "CNI_IFNAME": "eth0", "CNI_PATH": "/host/bin"}


def answer(plugin: Plugin, suite: Suite, verb: str = "ADD", **variables: str) -> tuple[int, dict]:
    """Status and output document of a call."""
    stdout = io.BytesIO()
    stdin = io.BytesIO(json.dumps({"cniVersion": "1.1.0", "name": "net", "type": plugin.type}).encode())
    environ = {**ENVIRON, "CNI_COMMAND": verb, **variables}
    status = serve(plugin, environ=environ, stdin=stdin, stdout=stdout, stderr=io.StringIO(), suite=suite)
    return status, json.loads(stdout.getvalue() or "{}")


def test_the_passed_descriptor_replaces_the_path() -> None:
    """It is duplicated, so that it can be used again; that it is a network namespace is checked as for a path."""
    with open(OWN) as own:
        for _ in range(2):
            fd = open_netns("/no/such/path", own.fileno())
            assert os.path.sameopenfile(fd, own.fileno())
            os.close(fd)
    with open("/dev/null") as other, pytest.raises(NoNetns, match="not a network namespace"):
        open_netns(OWN, other.fileno())


def test_a_path_that_the_caller_could_not_open_is_not_opened() -> None:
    """In the agent's container the same path may lead to something else."""
    with pytest.raises(NoNetns, match="no such network namespace"):
        open_netns(OWN, -1)
    assert is_own_netns(OWN)
    assert not is_own_netns(OWN, -1)
    with open(OWN) as own:
        assert is_own_netns("/no/such/path", own.fileno())


def test_the_plugin_s_own_namespace_is_recognized_by_the_descriptor() -> None:
    """Whatever the path is."""
    plugin = Plugin("upper", add=lambda _request: Result())
    with open(OWN) as own:
        status, document = answer(plugin, Suite(None, lambda _kind: None, netns=own.fileno()))
        assert (status, document["code"]) == (1, 8)
    assert answer(plugin, Suite(None, lambda _kind: None, netns=-1))[0] == 0


def test_the_suite_s_executor_finds_and_runs_other_plugins(tmp_path: Path) -> None:
    """By a path that does not exist for this process, with stdin and all variables, CNI_COMMAND included."""
    runs = []

    def run(executable: str, stdin: bytes, environ: Mapping[str, str]) -> tuple[int, bytes, bytes]:
        runs.append((executable, json.loads(stdin)["name"], environ["CNI_COMMAND"], environ["CNI_NETNS"]))
        return 0, b'{"cniVersion": "1.1.0", "ips": [{"address": "10.1.2.3/24"}]}', b"a remark"

    def add(request: Request) -> Result:
        return delegate(request, "ADD", "foreign")

    executor = Executor(lambda path, _: "/real/foreign" if path == "/host/bin/foreign" else None, run)
    suite = Suite(str(tmp_path), {"foreign": Plugin("foreign")}.get, executor=executor)
    status, document = answer(Plugin("upper", add=add), suite)
    assert (status, document["ips"]) == (0, [{"address": "10.1.2.3/24"}])
    assert runs == [("/host/bin/foreign", "net", "ADD", "/run/netns/elsewhere")]
    status, document = answer(Plugin("upper", add=add), suite, CNI_PATH="/bin")
    assert (status, document["code"]) == (1, 999)
