"""Undo: the cleanup after a failed ADD. Attempts: the steps of a DEL or GC, all of which are tried."""

from errno import EMFILE

import pytest

from plugins.failures import Attempts, Undo
from spec.errors import CNIError


def test_callbacks_run_in_reverse_order_on_a_failure() -> None:
    """The last one that was registered runs first."""
    taken = []
    with pytest.raises(CNIError, match="no"), Undo() as undo:
        undo.callback(taken.append, "first")
        undo.callback(taken.append, "second")
        raise CNIError(999, "no")
    assert taken == ["second", "first"]


def test_success_undoes_nothing() -> None:
    """After pop_all() no callback runs, whatever fails later."""
    taken = []
    with pytest.raises(CNIError, match="no"), Undo() as undo:
        undo.callback(taken.append, "first")
        undo.pop_all()
        raise CNIError(999, "no")
    assert taken == []


def test_a_failed_callback_is_reported_in_the_details() -> None:
    """The other callbacks run, and the original error is raised with what is left behind."""
    taken = []

    def fail() -> None:
        raise OSError(5, "disk on fire")

    with pytest.raises(CNIError) as caught, Undo() as undo:
        undo.callback(taken.append, "first")
        undo.callback(fail)
        raise CNIError(999, "no", "because")
    assert taken == ["first"]
    assert caught.value.msg == "no"
    assert caught.value.details == "because; left behind: [Errno 5] disk on fire"


@pytest.mark.parametrize("fault", [KeyError("x"), ValueError("x"), MemoryError(), RuntimeError("x")])
def test_an_exception_in_a_callback_does_not_replace_the_error(fault: Exception) -> None:
    """Whatever a callback raises, the others run and the original error is raised."""
    taken = []

    def fail() -> None:
        raise fault

    with pytest.raises(CNIError) as caught, Undo() as undo:
        undo.callback(taken.append, "first")
        undo.callback(fail)
        raise CNIError(7, "no")
    assert taken == ["first"]
    assert (caught.value.code, caught.value.msg) == (7, "no")
    assert f"left behind: {type(fault).__name__}" in caught.value.details


def test_callbacks_run_after_any_exception() -> None:
    """Not only after a CNIError."""
    taken = []
    with pytest.raises(ZeroDivisionError), Undo() as undo:
        undo.callback(taken.append, "first")
        raise ZeroDivisionError
    assert taken == ["first"]


@pytest.mark.parametrize("fault", [OSError(5, "x"), CNIError(999, "x"), KeyError("x"), MemoryError()])
def test_every_step_of_a_del_is_tried(fault: Exception) -> None:
    """The steps after a failed one run; the first failure is raised, with the others in its details."""
    done = []

    def fail() -> None:
        raise fault

    def fail_otherwise() -> None:
        raise ValueError("later")

    attempts = Attempts()
    attempts.run("do this", fail)
    attempts.run("do that", fail_otherwise)
    attempts.run("do the rest", lambda: done.append("rest"))
    with pytest.raises(CNIError) as caught:
        attempts.finish()
    assert done == ["rest"]
    assert "later" not in caught.value.msg
    assert "ValueError: later" in caught.value.details


def test_a_callback_is_retried_on_a_shortage() -> None:
    """Without free descriptors the lease is still released, once another call has closed some."""
    tries = []

    def release() -> None:
        tries.append(len(tries))
        if len(tries) < 3:
            raise CNIError(11, "the leases can not be used") from OSError(EMFILE, "Too many open files")

    with pytest.raises(CNIError) as caught, Undo() as undo:
        undo.callback(release)
        raise CNIError(999, "no")
    assert (tries, caught.value.details) == ([0, 1, 2], "")


def test_a_callback_is_not_retried_for_another_reason() -> None:
    """Even if its error has code 11, "try again later"."""
    tries = []

    def release() -> None:
        tries.append(1)
        raise CNIError(11, "the leases are locked by another process")

    with pytest.raises(CNIError, match="no") as caught, Undo() as undo:
        undo.callback(release)
        raise CNIError(999, "no")
    assert (tries, caught.value.details) == ([1], "left behind: the leases are locked by another process")
