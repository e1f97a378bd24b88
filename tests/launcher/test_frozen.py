"""A call that the agent does not serve: the frozen plugin is executed, as if there were no launcher."""

import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.launcher.agent import DECLINED, HELLO, RESULT, Agent, answering, reply, saying
from tests.launcher.launched import CALL, CONF, Folder

GREETINGS = {
    "nothing": b"",
    "half a greeting": HELLO[:5],
    "another magic": b"S24R" + HELLO[4:],
    "an older version": b"S24A\x01\0\0\0" + reply(DECLINED, version=1),
    "a newer version": b"S24A\x03\0\0\0" + HELLO[8:],
    "no time to wait": HELLO[:8] + bytes(4),
    "no version": b"S24A\0\0\0\0" + HELLO[8:],
    "the version in the wrong order": b"S24A\0\0\0\x02" + HELLO[8:],
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


def test_no_socket(home: Folder, tmp_path: Path) -> None:
    """Without an agent on the node."""
    assert home.run(tmp_path / "nothing").was_frozen()


def test_a_socket_that_nobody_listens_on(home: Folder, agent: Agent) -> None:
    """An agent that was killed leaves its socket."""
    dead = agent.folder / "dead"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(dead))
    assert home.run(dead).was_frozen()


@pytest.mark.parametrize("kind", ["a file", "a folder", "too long a path", "a datagram socket"])
def test_something_else_than_a_socket(home: Folder, agent: Agent, kind: str) -> None:
    """SLASH24_SOCKET may name anything."""
    path = agent.folder / "x"
    if kind == "a file":
        path.write_text("")
    elif kind == "a folder":
        path.mkdir()
    elif kind == "too long a path":
        path = agent.folder / ("x" * 200)
    else:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
            bound.bind(str(path))
            assert home.run(path).was_frozen()
        return
    assert home.run(path).was_frozen()


@pytest.mark.parametrize("what", GREETINGS)
def test_an_invalid_greeting(home: Folder, listen: Callable[..., Agent], what: str) -> None:
    """Without a valid greeting the agent has not started the call."""
    assert home.run(listen(saying(GREETINGS[what])).path).was_frozen()


def test_an_agent_that_is_too_late_cannot_send_its_greeting(home: Folder, listen: Callable[..., Agent]) -> None:
    """The agent then does not read the waiting request, so a call is never executed twice."""
    refused = threading.Event()

    def sleepy(_agent: Agent, connection: socket.socket) -> None:
        assert wait_for_end(connection), "the launcher waits for ever"
        with pytest.raises(BrokenPipeError):
            connection.sendall(HELLO)
        refused.set()

    assert home.run(listen(sleepy).path).was_frozen()
    assert refused.wait(10)


def wait_for_end(connection: socket.socket) -> bool:
    """Whether the peer closes its end within 10 s; what it has sent is not read."""
    poll = select.poll()
    poll.register(connection, select.POLLHUP)
    return bool(poll.poll(10_000))


def test_the_request_does_not_wait_for_the_greeting(home: Folder, listen: Callable[..., Agent]) -> None:
    """The request is already there when the agent first reads: one round trip instead of two."""

    def peek(agent: Agent, connection: socket.socket) -> None:
        connection.settimeout(3)
        assert connection.recv(4, socket.MSG_PEEK) == b"S24Q"
        answering(reply(0, RESULT))(agent, connection)

    assert home.run(listen(peek).path).stdout == RESULT


def test_an_agent_that_declines(home: Folder, listen: Callable[..., Agent]) -> None:
    """DECLINED means that the agent did not start the call."""
    agent = listen(answering(reply(DECLINED)))
    assert home.run(agent.path).was_frozen()
    assert len(agent.asked) == 1


def test_an_agent_that_declines_with_output(home: Folder, listen: Callable[..., Agent]) -> None:
    """Output of a declined call is dropped."""
    assert home.run(listen(answering(reply(DECLINED, b"out", b"err"))).path).was_frozen()


def test_an_agent_that_hangs_up_before_it_has_the_request(home: Folder, listen: Callable[..., Agent]) -> None:
    """An agent cannot start a call without the whole request."""

    def leave(_agent: Agent, connection: socket.socket) -> None:
        connection.sendall(HELLO)
        connection.recv(100)

    stdin = b"x" * (16 << 20)  # more than the socket holds
    assert home.run(listen(leave).path, stdin=stdin).was_frozen(stdin=stdin)


def test_an_agent_that_hangs_is_not_waited_for_long(home: Folder, listen: Callable[..., Agent]) -> None:
    """An agent that does not accept, accepts without greeting, or greets without reading costs a few seconds."""

    def mute(_agent: Agent, _connection: socket.socket) -> None:
        time.sleep(20)

    def deaf(_agent: Agent, connection: socket.socket) -> None:
        connection.sendall(HELLO)
        time.sleep(20)

    full = Agent(mute, backlog=0)
    queue = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(8)]
    refused = [waiting.connect_ex(str(full.path)) for waiting in queue]
    assert any(refused), "the queue is not full"
    paths = [full.path, listen(mute).path, listen(deaf).path]
    stdin = b"x" * (8 << 20)
    begun = time.monotonic()
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda path: home.run(path, stdin=stdin), paths))
    assert [answer.was_frozen(stdin=stdin) for answer in answers] == [True] * 3
    assert 4.5 < time.monotonic() - begun < 19
    for waiting in queue:
        waiting.close()
    full.close()


@pytest.mark.parametrize("env", [{}, {"CNI_COMMAND": ""}, {"CNI_ARGS": "x"}])
def test_without_a_command_stdin_is_left_alone(home: Folder, agent: Agent, env: dict[str, str]) -> None:
    """Without CNI_COMMAND it is not a CNI call: the frozen plugin prints its usage, for a user on a terminal."""
    with home.start(agent.path, env={**env, "PATH": CALL["PATH"]}) as process:
        assert process.stdout.readline() == b"frozen  \n"  # while stdin is open
    assert agent.connections == 0


def test_version_is_answered_without_an_agent_and_without_stdin(home: Folder, tmp_path: Path) -> None:
    """The frozen plugin gets the original stdin, not a copy."""
    with home.start(tmp_path / "nothing", env={**CALL, "CNI_COMMAND": "VERSION"}) as process:
        assert process.stdout.readline() == b"frozen VERSION \n"
        assert process.communicate(b"later")[0] == b"later"


@pytest.mark.parametrize("size", [0, 1, 1 << 16, 16 << 20])
def test_stdin_is_replayed_to_the_byte(home: Folder, tmp_path: Path, size: int) -> None:
    """The frozen plugin gets stdin byte for byte, whatever it contains."""
    stdin = os.urandom(size)
    assert home.run(tmp_path / "nothing", stdin=stdin).was_frozen(stdin=stdin)


def test_arguments_environment_and_signals_are_the_callers(home: Folder, tmp_path: Path) -> None:
    """argv[0] is the path of the frozen plugin, no descriptor of the launcher stays open, and stdin is seekable."""
    (home.frozen / "bridge").unlink()
    (home.frozen / "bridge").symlink_to(Path(sys.executable).resolve())
    script = """if 1:
        import os, signal, sys
        print(sys.orig_argv)
        print(sorted(open("/proc/self/environ", "rb").read().split(b"\\0")))
        print(sorted(os.listdir("/proc/self/fd")))
        print(open("/proc/self/status").read().partition("SigIgn:")[2].split()[0])
        print(os.lseek(0, 0, os.SEEK_CUR), os.lseek(0, 0, os.SEEK_END))
    """
    env = {**CALL, "HOME": "/x", "CNI_ARGS": "", "EMPTY": ""}
    arguments = ["-I", "-S", "-c", script, "last"]
    direct = [str(home.frozen / "bridge"), *arguments]
    environ = {**env, "SLASH24_SOCKET": str(tmp_path / "nothing")}
    # From a file, because a pipe's end cannot be sought; the restored signals are those of any child.
    (tmp_path / "stdin").write_bytes(CONF)
    with open(tmp_path / "stdin", "rb") as stdin:
        expected = subprocess.run(direct, stdin=stdin, env=environ, capture_output=True)
    done = home.run(tmp_path / "nothing", env=env, arguments=arguments)
    assert done.status == 0, done.stderr
    assert done.stdout.decode() == expected.stdout.decode()
    assert str([str(home.frozen / "bridge"), *arguments]) in done.stdout.decode()


def test_a_missing_frozen_plugin_is_an_error(home: Folder, tmp_path: Path) -> None:
    """Code 5, with the path that was tried and the reason."""
    (home.frozen / "bridge").unlink()
    details = f"No such file or directory: {home.frozen}/bridge"
    message = "no agent serves this call, and the plugin cannot be executed"
    assert home.run(tmp_path / "nothing").error == (5, message, details, "1.0.0")


def test_a_frozen_plugin_that_cannot_be_executed_is_an_error(home: Folder, tmp_path: Path) -> None:
    """Code 5, with the path that was tried and the reason."""
    (home.frozen / "bridge").write_text("no executable")
    (home.frozen / "bridge").chmod(0o644)
    assert home.run(tmp_path / "nothing").error[2].startswith("Permission denied: ")


def test_a_name_too_long_for_any_plugin_is_not_sent(home: Folder, agent: Agent) -> None:
    """The protocol allows 64 bytes."""
    for length, asked in ((64, 1), (65, 0)):
        executable = home.path / ("x" * length)
        executable.hardlink_to(home.bridge)
        agent.asked.clear()
        home.run(agent.path, executable=executable)
        assert len(agent.asked) == asked


@pytest.mark.skipif(os.geteuid() != 0, reason="kernel lacks another user for us")
def test_an_agent_of_another_user_gets_no_request(home: Folder, tmp_path: Path) -> None:
    """An agent of a user other than root and the caller gets no byte of the call, and its greeting is ignored."""
    with socket.socket(socket.AF_UNIX) as listener:
        folder = Path(tempfile.mkdtemp(prefix="agent-"))
        path = folder / "cni.sock"
        listener.bind(str(path))
        folder.chmod(0o755)
        child = os.fork()
        if child == 0:
            os.setuid(65534)
            listener.listen()  # listen(2) determines the user that the launcher sees
            os._exit(0)
        os.waitpid(child, 0)
        listener.settimeout(20)
        with home.start(path) as process:
            process.stdin.write(CONF)
            process.stdin.close()
            with listener.accept()[0] as connection:
                connection.settimeout(20)
                assert connection.recv(100) == b""
            assert process.stdout.read() == b"frozen CHECK \n" + CONF
        shutil.rmtree(folder)
