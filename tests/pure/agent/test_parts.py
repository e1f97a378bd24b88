"""The agent's smaller parts: options, log, systemd, health, leases, threads, and the modules loaded at the start."""

import ast
import os
import socket
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

import pytest
import yaml

from agent import log, memory, options, systemd
from agent.health import Health
from agent.metrics import Networks
from agent.scheduler import Turns
from agent.threads import Threads
from tests.conftest import ROOT
from tests.pure.agent.support import outcome, wait_until


@pytest.mark.parametrize(
    "argv",
    [
        ["--listen", "0.0.0.0:80"],
        ["--listen", "10.0.0.1:80"],
        ["--listen", "127.0.0.1"],
        ["--listen", "127.0.0.1:99999"],
        ["--listen", "[::2]:80"],
        ["--deadline", "0"],
        ["--deadline", "nan"],
        ["--workers", "0"],
        ["--workers", "many"],
        ["--host-root", "/no/such/folder"],
        ["--home", "bin"],
        ["more"],
    ],
)
def test_invalid_options_are_refused(argv: list[str]) -> None:
    """With exit status 2, before anything is done."""
    with pytest.raises(SystemExit) as raised:
        options.parse(argv, {})
    assert raised.value.code == 2


def test_options_and_their_defaults() -> None:
    """The environment names the socket; the command line overrides it."""
    assert options.parse([], {}) == options.Options("/run/slash24/cni.sock", None, "", "", 128, 240.0)
    assert options.parse([], {"SLASH24_SOCKET": "/a"}).socket == "/a"
    assert options.parse(["--socket", "/b", "--listen", "[::1]:0"], {"SLASH24_SOCKET": "/a"}).socket == "/b"
    assert options.split_address("[::1]:80") == (socket.AF_INET6, "::1", 80)


def test_the_daemonset_mounts_the_host_s_root_where_its_agent_looks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it, including later mounts, and not read-only."""
    *_, daemonset = yaml.safe_load_all((ROOT / "deploy/slash24.yaml").read_text())
    pod = daemonset["spec"]["template"]["spec"]
    (agent,) = [each for each in pod["containers"] if each["name"] == "agent"]
    monkeypatch.setattr(os.path, "isdir", lambda _: True)
    chosen = options.parse(agent["command"][1:], {})
    (mount,) = agent["volumeMounts"]
    assert mount == {"name": mount["name"], "mountPath": chosen.host_root, "mountPropagation": "HostToContainer"}
    assert {"name": mount["name"], "hostPath": {"path": "/"}} in pod["volumes"]


@pytest.mark.parametrize("where", ["journal", "elsewhere"])
def test_a_call_is_one_log_line(where: str) -> None:
    """Values that look like other fields or lines are quoted; outside the journal the line has a timestamp."""
    reader, writer = os.pipe()
    found = os.fstat(writer)
    environ = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + (where != 'journal')}"}
    fields = outcome(container='a b="c"\nd', network="", code=7, message="über").fields()
    log.logger(writer, environ)(log.INFO, fields)
    line = os.read(reader, 4096)
    prefix, text = line.split(b"verb=", 1)
    assert text == (
        b'ADD plugin=bridge network="" container="a b=\\"c\\"\\nd" ifname=eth0 duration_ms=4.0 outcome=7 '
        b'msg="\\u00fcber"\n'
    )
    if where == "journal":
        assert prefix == b"<6>"
    else:
        told = datetime.strptime(prefix.decode(), "time=%Y-%m-%dT%H:%M:%S.%fZ ").replace(tzinfo=UTC)
        assert abs(told - datetime.now(UTC)) < timedelta(hours=1)
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_systemd_is_notified(tmp_path: Path, kind: str) -> None:
    """Through a socket file or an abstract socket; a missing socket is not an error."""
    name = str(tmp_path / "notify") if kind == "path" else f"\0slash24-{os.getpid()}"
    environ = {"NOTIFY_SOCKET": name.replace("\0", "@")}
    systemd.Notifier({}).notify("READY=1")
    with closing(systemd.Notifier(environ)) as nobody:
        nobody.notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name)
        listener.settimeout(2)
        with closing(systemd.Notifier(environ)) as notifier:
            if kind == "path":
                os.rename(name, f"{name}.moved")
            notifier.notify("READY=1")
        assert listener.recv(100) == b"READY=1"


def test_only_a_socket_passed_to_this_process_is_taken() -> None:
    """With another LISTEN_PID the variables were inherited from a parent."""
    assert systemd.inherited_socket({}) is None
    assert systemd.inherited_socket({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) is None
    with pytest.raises(ValueError, match="2 sockets"):
        systemd.inherited_socket({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"})


def test_a_failure_of_the_node_counts_until_the_verb_succeeds() -> None:
    """Codes 5, 11 and 50 are such failures; errors of a single pod neither add one nor clear it."""
    health = Health()
    assert health.failing() == []
    for code in (5, 11, 50):
        health.on_outcome(outcome(code=code, message="no disk space"))
        health.on_outcome(outcome(verb="DEL"))
        health.on_outcome(outcome(code=7))
        health.on_outcome(outcome(code=999))
        assert health.failing() == ["ADD"]
        assert health.describe()["ADD"]["msg"] == "no disk space"
        health.on_outcome(outcome())
        assert health.failing() == []


@pytest.mark.parametrize("verb", ["ADD", "DEL", "GC", "STATUS"])
def test_an_error_of_one_pod_is_not_a_failure_of_the_node(verb: str) -> None:
    """A taken address or port, an invalid key, an interface that exists, an IPAM plugin's own error."""
    health = Health()
    for code in (1, 2, 3, 4, 6, 7, 8, 99, 100, 999):
        health.on_outcome(outcome(verb=verb, code=code))
    assert health.failing() == []


def test_a_failed_check_does_not_make_the_node_not_ready() -> None:
    """Runtimes send no CHECK on their own, so no later one would clear the failure."""
    health = Health()
    for code in (5, 11, 50, 999):
        health.on_outcome(outcome(verb="CHECK", code=code))
    assert (health.failing(), health.describe()) == ([], {})


def test_a_failure_expires_after_five_minutes() -> None:
    """Without another call of that verb: a node that is avoided because of the failure would get none."""
    now = [1000.0]
    health = Health(lambda: now[0])
    health.on_outcome(outcome(verb="GC", code=11))
    now[0] += 299
    assert health.failing() == ["GC"]
    now[0] += 2
    assert health.failing() == []


def test_used_and_free_leases(tmp_path: Path) -> None:
    """The files named by addresses are the used ones; the gateway's address is neither used nor free."""
    networks = Networks()
    ipam = {"type": "host-local", "dataDir": str(tmp_path), "ranges": [[{"subnet": "10.1.2.0/24"}]]}
    networks.on_outcome(outcome(config={"ipam": ipam}, verb="DEL"))
    networks.on_outcome(outcome(config={"ipam": {"type": "static"}}, network="static"))
    networks.on_outcome(outcome(config={"ipam": ipam}, code=11))
    networks.on_outcome(outcome(config={"ipam": "host-local"}))
    assert list(networks.count()) == []
    networks.on_outcome(outcome(config={"ipam": ipam}))
    assert list(networks.count()) == []  # its folder cannot be read
    (tmp_path / "net").mkdir()
    for name in ("10.1.2.2", "10.1.2.3", "lock", "last_reserved_ip.0"):
        (tmp_path / "net" / name).touch()
    assert list(networks.count()) == [("net", 2, 251)]
    for index in range(300):
        (tmp_path / f"net{index}").mkdir()
        networks.on_outcome(outcome(config={"ipam": ipam}, network=f"net{index}"))
    assert [network for network, _, _ in networks.count()] == [f"net{index}" for index in range(44, 300)]


def test_threads_start_on_demand_and_end_when_idle() -> None:
    """Never more than the limit, however many jobs wait; after a pause all of them start again."""
    let_go, seen, threads = Event(), [], Threads(3, idle=0.2)
    turns = Turns(threads)

    def work(job: int) -> None:
        seen.append(job)
        with turns.released(), turns.released():
            let_go.wait(5)

    before = len(os.listdir("/proc/self/task"))
    for job in range(5):
        turns.submit(work, job)
    assert wait_until(lambda: len(seen) == 3)
    assert threads.busy == 3
    assert turns.is_behind
    assert turns.take_back(0.0) == [3, 4]
    let_go.set()
    assert wait_until(lambda: threads.busy == 0)
    for job in (13, 14, 15):
        turns.submit(work, job)
    assert wait_until(lambda: len(seen) == 6)
    assert wait_until(lambda: len(os.listdir("/proc/self/task")) <= before)


def test_a_thread_that_has_waited_resumes_before_the_next_job() -> None:
    """Its call began earlier, and may hold a lock."""
    waits, may_end, order, turns = Event(), Event(), [], Turns(Threads(4))

    def first(_job: None) -> None:
        with turns.released():
            waits.wait(5)
        order.append("first")

    def second(_job: None) -> None:
        waits.set()
        time.sleep(0.01)
        order.append("second")

    turns.submit(first, None)
    turns.submit(second, None)
    turns.submit(lambda _: order.append("third") or may_end.set(), None)
    assert may_end.wait(5)
    assert order.index("first") < order.index("third")


def test_a_stalled_job_is_overtaken() -> None:
    """By one job at first; the more jobs have stalled, the more are started at a time."""
    end, seen, threads = Event(), [], Threads(16, idle=0.2)
    turns = Turns(threads)

    def stall(job: int) -> None:
        seen.append(job)
        end.wait(10)

    for job in range(12):
        turns.submit(stall, job)
    assert wait_until(lambda: len(seen) == 1)
    times = 0
    while len(seen) < 12:
        time.sleep(0.03)
        turns.overtake()
        times += 1
        assert wait_until(lambda times=times: len(seen) > times)
    assert times < 11
    end.set()
    assert wait_until(lambda: threads.busy == 0)


def test_all_modules_are_loaded_at_the_start() -> None:
    """A call imports nothing: neither our modules, nor those that our functions import."""
    program = "import sys; from agent import memory; memory.prepare(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    rooms = ("spec", "state", "ipam", "linux", "rules", "plugins")
    files = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files}
    assert {name for name in names if not name.endswith(".__main__")} <= loaded
    assert set().union(*map(imported_late, files)) <= loaded
    assert memory.resident() > 1 << 20


def imported_late(path: Path) -> set[str]:
    """The modules that the functions of a file import."""
    functions = [each for each in ast.walk(ast.parse(path.read_text())) if isinstance(each, ast.FunctionDef)]
    nodes = [node for function in functions for node in ast.walk(function)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
