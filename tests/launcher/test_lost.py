"""An agent that is lost during a call: error 11, and the frozen plugin is never executed."""

import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from spec.versions import LATEST, SUPPORTED
from tests.launcher.agent import HELLO, RESULT, Agent, answering, reply
from tests.launcher.launched import Done, Folder

MESSAGE = "the agent was lost in the middle of the call"
WHOLE = reply(0, RESULT, b"said\n")
GARBAGE = {
    "another magic": b"S24A" + WHOLE[4:],
    "another version": reply(0, RESULT, version=1),
    "a status over 255": reply(256, RESULT),
    "a status that is nearly declined": reply(0xFFFFFFFE),
    "text": b"HTTP/1.1 500 Internal Server Error\r\n\r\n",
}


@pytest.mark.parametrize("first", range(0, len(WHOLE), 9))
def test_a_reply_that_ends_at_any_byte(home: Folder, listen: Callable[..., Agent], first: int) -> None:
    """No part of an incomplete reply is printed: stdout is one document."""
    ends = range(first, min(first + 9, len(WHOLE)))
    agents = [listen(answering(WHOLE[:end])) for end in ends]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda agent: home.run(agent.path), agents))
    why = ["it hung up without an answer" if end < 20 else "it hung up in the middle of its answer" for end in ends]
    assert [answer.error for answer in answers] == [(11, MESSAGE, reason, "1.0.0") for reason in why]
    assert {answer.stderr for answer in answers} == {b""}


@pytest.mark.parametrize("what", GARBAGE)
def test_an_invalid_reply(home: Folder, listen: Callable[..., Agent], what: str) -> None:
    """The agent may have executed part of the call before."""
    agent = listen(answering(GARBAGE[what]))
    assert home.run(agent.path).error == (11, MESSAGE, "its answer is malformed", "1.0.0")


@pytest.mark.parametrize("lengths", [(64 << 20, 1), (0, (64 << 20) + 1), (0xFFFFFFFF, 0xFFFFFFFF), (1, 0xFFFFFFFF)])
def test_a_reply_that_is_too_long(home: Folder, listen: Callable[..., Agent], lengths: tuple[int, int]) -> None:
    """The limit is 64 MiB; no memory is allocated beyond it."""
    header = WHOLE[:12] + b"".join(length.to_bytes(4, "little") for length in lengths)
    agent = listen(answering(header + b"x" * 1000))
    assert home.run(agent.path).error == (11, MESSAGE, "its answer exceeds 67108864 bytes", "1.0.0")


def test_an_agent_that_is_killed_during_the_call(home: Folder, listen: Callable[..., Agent]) -> None:
    """Data is left unread in its socket, so the kernel reports a reset instead of an end of file."""

    def die(_agent: Agent, connection: socket.socket) -> None:
        connection.sendall(HELLO)
        connection.recv(1)
        threading.Event().wait(0.1)

    assert home.run(listen(die).path).error == (11, MESSAGE, "it hung up without an answer", "1.0.0")


@pytest.mark.parametrize("said", [b"", WHOLE[:7], WHOLE[:30]])
def test_an_agent_that_is_stopped_during_the_call(home: Folder, listen: Callable[..., Agent], said: bytes) -> None:
    """Stopped after its greeting or in the middle of its reply, it is waited for as long as the greeting announced."""
    ended = threading.Event()

    def stand(agent: Agent, connection: socket.socket) -> None:
        connection.sendall(HELLO[:8] + struct.pack("<I", 1))
        agent.read(connection)
        connection.sendall(said)
        ended.wait(30)

    agent = listen(stand)
    assert home.run(agent.path).error == (11, MESSAGE, "it did not answer in time", "1.0.0")
    ended.set()


VERSIONS = {f'{{"cniVersion": "{version}", "name": "n"}}': version for version in SUPPORTED} | {
    '{"name": "n"}': "0.1.0",
    '{"cniVersion": "9.9.9"}': LATEST,
    '{"cniVersion": ""}': "0.1.0",
    '{"cniVersion": 1}': LATEST,
    '{"cniVersion": ["0.4.0"]}': LATEST,
    '{"CNIVersion"\n:\t"0.4.0"}': "0.4.0",
    '{"cniVersion": "0.3.0", "cniVersion": "0.4.0"}': "0.4.0",
    '{"x": {"cniVersion": "0.3.0"}, "cniVersion": "1.0.0", "y": ["cniVersion", "0.4.0"]}': "1.0.0",
    '{"x": "\\"cniVersion\\": \\"0.3.0\\"", "cniVersion": "0.3.1"}': "0.3.1",
    '{"x": "\\"", "cniVersion": "0.4.0"}': "0.4.0",
    '{"x": "cniVersion", "y": "0.3.0", "cniVersion": "0.4.0"}': "0.4.0",
    '{"x": "\\\\", "cniVersion": "0.4.0"}': "0.4.0",
    '{"prevResult": {"cniVersion": "0.3.0"}}': "0.1.0",
    "": LATEST,
    "{": LATEST,
    '{"': LATEST,
    '{"\\': LATEST,
    '"cniVersion": "0.4.0"': LATEST,
    "[]": LATEST,
    "}}}": LATEST,
}


@pytest.mark.parametrize("stdin", VERSIONS)
def test_an_error_has_the_version_of_the_configuration(home: Folder, listen: Callable[..., Agent], stdin: str) -> None:
    """Found without a JSON parser; the newest version if the configuration is unreadable, as for the plugins."""
    done = home.run(listen(answering(b"")).path, stdin=stdin.encode())
    assert done.error[3] == VERSIONS[stdin]


def test_an_error_has_the_format_of_the_plugins(home: Folder, listen: Callable[..., Agent]) -> None:
    """Byte for byte: indented by four spaces, without a newline at the end."""
    lines = ['    "cniVersion": "1.0.0"', '    "code": 11', f'    "msg": "{MESSAGE}"']
    lines.append('    "details": "it hung up without an answer"')
    document = "{\n" + ",\n".join(lines) + "\n}"
    assert home.run(listen(answering(b"")).path) == Done(1, document.encode(), b"")
