"""The agent's HTTP pages: a client cannot block others."""

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
    """The time that a connection has for its request."""
    return 2.0


@pytest.fixture(params=["tcp", "unix"])
def served(request: pytest.FixtureRequest, tmp_path: Path, seconds: float) -> Iterator[Pages]:
    """The pages /ok, and /slow, which blocks until `hold` is set."""
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
    """A connection to the pages."""
    address = served.address
    caller = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    caller.settimeout(20)
    caller.connect(address)
    return caller


def get(served: Pages, page: str = "/ok") -> int:
    """The HTTP status of a page."""
    with closing(http.client.HTTPConnection("localhost")) as connection:
        connection.sock = connect(served)
        connection.request("GET", page)
        return connection.getresponse().status


def test_silent_and_slow_clients_do_not_block_others(served: Pages) -> None:
    """However many they are: a page is served while all of them are still connected."""
    with ExitStack() as stack:
        callers = [stack.enter_context(connect(served)) for _ in range(3 * AT_ONCE)]
        for caller in callers[::2]:
            with suppress(OSError):  # the oldest connections were closed
                caller.sendall(b"GET /")
        assert [get(served) for _ in range(3)] == [200] * 3


@pytest.mark.parametrize("seconds", [0.3])
def test_the_time_limit_holds_for_the_whole_request(served: Pages) -> None:
    """A client that sends a byte now and then does not get more time."""
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


def test_slow_pages_are_served_to_a_bounded_number_of_clients(served: Pages) -> None:
    """A client beyond the limit is disconnected; those that wait for a page get it."""
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
