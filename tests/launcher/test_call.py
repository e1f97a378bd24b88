"""A call that the agent serves: the request, and the output that the caller gets."""

import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.launcher.agent import HELLO, RESULT, Agent, Asked, answering, reply
from tests.launcher.launched import CALL, CONF, Done, Folder, identity


def test_request_of_a_call(home: Folder, agent: Agent) -> None:
    """The request has the plugin's name, the configuration byte for byte, and the namespace as a descriptor."""
    assert home.run(agent.path) == Done(0, RESULT, b"")
    (asked,) = agent.asked
    assert asked.environ == CALL
    assert asked == Asked("bridge", asked.variables, CONF, (identity("/proc/self/ns/net"),), identity("/"))


def test_the_agent_gets_all_variables(home: Folder, agent: Agent) -> None:
    """The request has the whole environment, since foreign plugins may need any of it."""
    env = {**CALL, "CNI_ARGS": "A=1;B==", "HOME": "/root", "https_proxy": "http://[::1]:3128", "EMPTY": ""}
    home.run(agent.path, env=env)
    assert agent.asked[0].environ == env


@pytest.mark.parametrize("value", ["", "a b\n\t", "\udcff\udcfe", "ü", "=" * 9, "x" * 50_000])
def test_any_value_arrives_unchanged(home: Folder, agent: Agent, value: str) -> None:
    """Values are not interpreted or decoded."""
    assert home.run(agent.path, env={**CALL, "CNI_ARGS": value}).status == 0
    assert agent.asked[0].environ["CNI_ARGS"] == value


@pytest.mark.parametrize("netns", [None, "", "/no/such/netns", "relative/path", "\udcff"])
def test_without_a_namespace_no_descriptor(home: Folder, agent: Agent, netns: str | None) -> None:
    """Without a valid CNI_NETNS no descriptor is sent; whether that is an error depends on the verb."""
    env = {name: value for name, value in {**CALL, "CNI_NETNS": netns}.items() if value is not None}
    assert home.run(agent.path, env=env).status == 0
    assert agent.asked[0].netns == ()


def test_a_fifo_as_namespace_does_not_block(home: Folder, agent: Agent) -> None:
    """open(2) of a FIFO waits for a writer without O_NONBLOCK."""
    os.mkfifo(home.path / "fifo")
    assert home.run(agent.path, env={**CALL, "CNI_NETNS": str(home.path / "fifo")}).status == 0
    assert agent.asked[0].netns == (identity(home.path / "fifo"),)


@pytest.mark.parametrize("status", [0, 1, 2, 77, 255])
def test_status_and_both_streams_are_the_agents(home: Folder, listen: Callable[..., Agent], status: int) -> None:
    """Exit status, stdout and stderr are the agent's byte for byte, whether JSON or not."""
    agent = listen(answering(reply(status, b"out\0\xff", b"line\nline\n")))
    assert home.run(agent.path) == Done(status, b"out\0\xff", b"line\nline\n")


def test_version_does_not_wait_for_stdin(home: Folder, agent: Agent) -> None:
    """A user may run VERSION on a terminal."""
    with home.start(agent.path, env={"CNI_COMMAND": "VERSION"}) as process:
        assert process.stdout.read() == RESULT  # while stdin is open
    assert agent.asked == [Asked("bridge", ("CNI_COMMAND=VERSION",), b"", (), identity("/"))]


@pytest.mark.parametrize("size", [0, 1, 1 << 16, 1 << 20, 16 << 20])
def test_a_configuration_of_any_allowed_size_arrives_whole(home: Folder, agent: Agent, size: int) -> None:
    """Up to 16 MiB, which no socket takes at once."""
    stdin = os.urandom(size)
    assert home.run(agent.path, stdin=stdin).status == 0
    assert agent.asked[0].stdin == stdin
    assert agent.asked[0].netns == (identity("/proc/self/ns/net"),)


def test_every_byte_may_come_alone(home: Folder, listen: Callable[..., Agent]) -> None:
    """Partial reads work in both directions: a stream has no message boundaries."""

    def dribble(agent: Agent, connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for byte in HELLO:
            connection.sendall(bytes([byte]))
        agent.read(connection)
        for byte in reply(3, RESULT, b"said\n"):
            connection.sendall(bytes([byte]))

    agent = listen(dribble)
    assert home.run(agent.path, stdin=CONF * 1000) == Done(3, RESULT, b"said\n")
    assert agent.asked[0].stdin == CONF * 1000


def test_what_follows_a_whole_answer_is_not_looked_at(home: Folder, listen: Callable[..., Agent]) -> None:
    """The reply has a length; bytes after it are ignored."""
    assert home.run(listen(answering(reply(0, RESULT) + b"more")).path) == Done(0, RESULT, b"")


def test_an_answer_may_come_before_all_of_the_request_was_read(home: Folder, listen: Callable[..., Agent]) -> None:
    """An agent refuses a request that is too long without reading it."""

    def refuse(_agent: Agent, connection: socket.socket) -> None:
        connection.sendall(HELLO + reply(1, b"refused"))
        connection.recv(20)

    assert home.run(listen(refuse).path, stdin=b"x" * (16 << 20)) == Done(1, b"refused", b"")


@pytest.mark.parametrize("size", [1 << 20, 64 << 20])
def test_a_long_answer_is_printed_whole(home: Folder, listen: Callable[..., Agent], size: int) -> None:
    """Up to 64 MiB, stdout and stderr together."""
    half = os.urandom(size // 2)
    assert home.run(listen(answering(reply(0, half, half))).path) == Done(0, half, half)


def test_a_descriptor_in_the_answer_is_dropped(home: Folder, listen: Callable[..., Agent]) -> None:
    """A descriptor that comes with the reply is closed."""

    def give(agent: Agent, connection: socket.socket) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", connection.fileno()))]
        connection.sendmsg([HELLO], rights)
        agent.read(connection)
        connection.sendmsg([reply(0, RESULT)], rights)

    assert home.run(listen(give).path) == Done(0, RESULT, b"")


def test_an_answer_is_waited_for_longer_than_a_greeting(home: Folder, listen: Callable[..., Agent]) -> None:
    """A call may take as long as the agent's greeting announces."""

    def think(agent: Agent, connection: socket.socket) -> None:
        connection.sendall(HELLO)
        agent.read(connection)
        threading.Event().wait(6)
        connection.sendall(reply(0, RESULT))

    assert home.run(listen(think).path) == Done(0, RESULT, b"")


def test_being_stopped_and_continued_changes_nothing(home: Folder, listen: Callable[..., Agent]) -> None:
    """Interrupted system calls are resumed: reading stdin, waiting for the greeting, waiting for the reply."""
    greet, go_on = threading.Event(), threading.Event()

    def wait(agent: Agent, connection: socket.socket) -> None:
        greet.wait(10)
        connection.sendall(HELLO)
        agent.read(connection)
        go_on.wait(10)
        connection.sendall(reply(0, RESULT))

    with home.start(listen(wait).path) as process:
        process.stdin.write(CONF[:9])
        process.stdin.flush()
        interrupt(process)
        process.stdin.write(CONF[9:])
        process.stdin.close()
        threading.Event().wait(0.1)
        interrupt(process)
        greet.set()
        interrupt(process)
        go_on.set()
        assert process.stdout.read() == RESULT


def test_a_request_that_is_interrupted_arrives_once(home: Folder, listen: Callable[..., Agent]) -> None:
    """After an interrupted send, bytes and descriptor are sent exactly once."""
    full = threading.Event()

    def wait(agent: Agent, connection: socket.socket) -> None:
        connection.sendall(HELLO)
        full.wait(10)
        agent.read(connection)
        connection.sendall(reply(0, RESULT))

    agent = listen(wait)
    stdin = os.urandom(8 << 20)
    with home.start(agent.path) as process:
        process.stdin.write(stdin)
        process.stdin.close()
        threading.Event().wait(0.2)  # by then it is sending, and the socket is full
        interrupt(process)
        full.set()
        assert process.stdout.read() == RESULT
    assert agent.asked[0].stdin == stdin
    assert len(agent.asked[0].netns) == 1


def interrupt(process: subprocess.Popen) -> None:
    """Stop and continue the process a few times."""
    for _ in range(3):
        for signal in (19, 18):
            process.send_signal(signal)
            threading.Event().wait(0.02)


def test_a_hundred_at_once(home: Folder, listen: Callable[..., Agent]) -> None:
    """A hundred concurrent calls each get their own reply."""

    def echo(agent: Agent, connection: socket.socket) -> None:
        connection.sendall(HELLO)
        connection.sendall(reply(0, agent.read(connection).stdin))

    agent = listen(echo)
    inputs = [f"call {number}".encode() * 100 for number in range(100)]
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda stdin: home.run(agent.path, stdin=stdin), inputs))
    assert answers == [Done(0, stdin, b"") for stdin in inputs]
