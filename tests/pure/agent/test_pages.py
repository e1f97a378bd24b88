"""The pages of an agent: whoever can connect to them can not keep others from them."""

import http.client
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from threading import Event

import pytest

from agent.pages import AT_ONCE, Pages, json_page
from tests.pure.agent.support import wait_until


@pytest.fixture
def seconds() -> float:
    """How long a connection has for its request."""
    return 2.0


@pytest.fixture(params=["tcp", "unix"])
def served(request: pytest.FixtureRequest, tmp_path: Path, seconds: float) -> Iterator[Pages]:
    """Pages /ok, and /slow, which waits for `hold`."""
    where = "127.0.0.1:0" if request.param == "tcp" else str(tmp_path / "http.sock")
    hold, entered = Event(), []

    def slow() -> tuple[int, str, bytes]:
        entered.append(1)
        hold.wait(20)
        return json_page(200, {})

    made = Pages(where, {"/ok": lambda: json_page(200, {"ok": True}), "/slow": slow}, seconds=seconds)
    made.hold, made.entered = hold, entered
    yield made
    hold.set()
    made.close()


def connect(served: Pages) -> socket.socket:
    """A connection."""
    address = served.address
    caller = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    caller.settimeout(20)
    caller.connect(address)
    return caller


def get(served: Pages, page: str = "/ok") -> int:
    """The status of a page."""
    with closing(http.client.HTTPConnection("localhost")) as connection:
        connection.sock = connect(served)
        connection.request("GET", page)
        return connection.getresponse().status


def test_callers_that_send_nothing_or_little_keep_nobody_out(served: Pages) -> None:
    """However many: a page is there while all of them are still connected."""
    with ExitStack() as stack:
        callers = [stack.enter_context(connect(served)) for _ in range(3 * AT_ONCE)]
        for caller in callers[::2]:
            with suppress(OSError):  # the oldest were hung up on
                caller.sendall(b"GET /")
        assert [get(served) for _ in range(3)] == [200] * 3


@pytest.mark.parametrize("seconds", [0.3])
def test_a_byte_now_and_then_does_not_make_it_wait_longer(served: Pages) -> None:
    """The time is that of the whole request."""
    with connect(served) as caller:
        caller.settimeout(0.05)
        for _ in range(200):
            try:
                caller.sendall(b"G")
                if caller.recv(1000) == b"":
                    return
            except TimeoutError:
                continue
            except OSError:
                return
    pytest.fail("it still listens after 10 seconds")


def test_pages_that_take_long_are_few(served: Pages) -> None:
    """Beyond that a caller is hung up on; those that wait for a page get it."""
    with ExitStack() as stack:
        waiting = [stack.enter_context(connect(served)) for _ in range(AT_ONCE)]
        for caller in waiting:
            caller.sendall(b"GET /slow HTTP/1.0\r\n\r\n")
        assert wait_until(lambda: len(served.entered) == len(waiting))
        with pytest.raises((OSError, http.client.HTTPException)):
            get(served)
        served.hold.set()
        assert all(caller.recv(15) == b"HTTP/1.0 200 OK" for caller in waiting)
    assert get(served) == 200
