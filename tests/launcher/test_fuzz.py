"""Arbitrary input from agent and runtime: no crash, no partial output, no call that is executed twice."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.launcher.agent import HELLO, RESULT, Agent, answering, reply, saying
from tests.launcher.launched import CALL, Done, Folder

SECONDS = int(os.environ.get("FUZZ_SECONDS", "5"))
bounded = settings(max_examples=60)
# An environment can hold any bytes but NUL.
texts = st.binary(max_size=40).map(lambda data: os.fsdecode(data.replace(b"\0", b"")))
names = st.sampled_from(["CNI_COMMAND", "CNI_NETNS", "CNI_ARGS", "CNI_", "CNI_X", "PATH", "SLASH24_SOCKET"])
WHOLE = HELLO + reply(0, RESULT, b"said")


@st.composite
def nearly(draw: st.DrawFn) -> bytes:
    """A valid agent's bytes, with a few of them changed, removed or inserted."""
    data = bytearray(WHOLE)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


@pytest.fixture(scope="module")
def checked(sanitized: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    """An installation of the launcher with the sanitizers."""
    return Folder(tmp_path_factory.mktemp("fuzz") / "bin").install(sanitized / "launcher")


def test_the_parser_with_libfuzzer(sanitized: Path) -> None:
    """Mutated replies and configurations, thousands per second; the printed seed repeats them."""
    done = subprocess.run([sanitized / "fuzz", str(SECONDS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    inputs, _, _, _, answers, *_ = done.stdout.splitlines()[-1].split()
    assert int(inputs) > 1000
    assert int(answers.removesuffix(",")) > 0


@bounded
@given(data=st.binary(max_size=64) | nearly())
@example(data=WHOLE)
def test_arbitrary_bytes_from_the_agent(checked: Folder, data: bytes) -> None:
    """The frozen plugin, an error, or the agent's reply, depending only on the bytes received."""
    agent = Agent(saying(data)).start()
    done = checked.run(agent.path)
    agent.close()
    if data[:8] != HELLO[:8] or not any(data[8:12]) or data[12:24] == b"S24R\x02\0\0\0\xff\xff\xff\xff":
        assert done.was_frozen()
    elif done.stdout.startswith(b'{\n    "cniVersion"'):
        assert done.error[0] == 11
    else:
        out, err = (int.from_bytes(data[at : at + 4], "little") for at in (24, 28))
        assert done == Done(data[20], data[32 : 32 + out], data[32 + out : 32 + out + err])


@bounded
@given(stdin=st.binary(max_size=300), more=st.dictionaries(names, texts, max_size=4))
@example(stdin=b'{"cniVersion": "\\', more={})
@example(stdin=b"", more={"CNI_": "", "CNI_NETNS": "/"})
def test_arbitrary_bytes_from_the_runtime(checked: Folder, stdin: bytes, more: dict[str, str]) -> None:
    """With an agent that closes the connection: the frozen plugin if it is not a CNI call, else an error in JSON."""
    agent = Agent(answering(b"")).start()
    env = {**CALL, **more}
    done = checked.run(agent.path, stdin=stdin, env=env)
    agent.close()
    if not env["CNI_COMMAND"]:
        assert done.status != 1  # that of the stand-in, or of the shell if PATH has no cat
        return
    assert done.error[0] == 11
    document = json.loads(done.stdout)
    assert document["details"] == "it hung up without an answer"
    assert agent.asked[0].environ == {name: value for name, value in env.items() if name != "SLASH24_SOCKET"}
    assert agent.asked[0].stdin == (b"" if env["CNI_COMMAND"] == "VERSION" else stdin)
