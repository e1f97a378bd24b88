"""Undo: what a failed ADD does on its way out. Attempts: what a DEL and a GC do whatever fails."""

from errno import EMFILE

import pytest

from plugins.failures import Attempts, Undo
from spec.errors import CNIError


def test_failure_walks_back_last_step_first() -> None:
    """On a failure the ways back are taken, the last pushed first."""
    taken = []
    with pytest.raises(CNIError, match="no"), Undo() as undo:
        undo.callback(taken.append, "first")
        undo.callback(taken.append, "second")
        raise CNIError(999, "no")
    assert taken == ["second", "first"]


def test_success_undoes_nothing() -> None:
    """After pop_all() nothing is undone, whatever happens then."""
    taken = []
    with pytest.raises(CNIError, match="no"), Undo() as undo:
        undo.callback(taken.append, "first")
        undo.pop_all()
        raise CNIError(999, "no")
    assert taken == []


def test_a_way_back_that_fails_is_told_and_hides_nothing() -> None:
    """The other ways back are taken all the same, and the error that began it is raised with what is left behind."""
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
def test_a_way_back_that_fails_unexpectedly_hides_nothing(fault: Exception) -> None:
    """Whatever a step back raises: the others are done, and the error is the one that began it."""
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


def test_an_unexpected_exception_is_undone_too() -> None:
    """A failure of any kind walks back."""
    taken = []
    with pytest.raises(ZeroDivisionError), Undo() as undo:
        undo.callback(taken.append, "first")
        raise ZeroDivisionError
    assert taken == ["first"]


@pytest.mark.parametrize("fault", [OSError(5, "x"), CNIError(999, "x"), KeyError("x"), MemoryError()])
def test_every_step_of_a_del_is_tried(fault: Exception) -> None:
    """Whatever a step raises, the next one is done; the first failure is raised, with the others in its details."""
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


def test_a_way_back_waits_for_what_the_node_lacks() -> None:
    """Out of descriptors, a lease is still released: as soon as another call has given back what it had open."""
    tries = []

    def release() -> None:
        tries.append(len(tries))
        if len(tries) < 3:
            raise CNIError(11, "the leases can not be used") from OSError(EMFILE, "Too many open files")

    with pytest.raises(CNIError) as caught, Undo() as undo:
        undo.callback(release)
        raise CNIError(999, "no")
    assert (tries, caught.value.details) == ([0, 1, 2], "")


def test_a_way_back_does_not_wait_for_anything_else() -> None:
    """What is no shortage is tried once, also what says "try again later" for another reason."""
    tries = []

    def release() -> None:
        tries.append(1)
        raise CNIError(11, "the leases are locked by another process")

    with pytest.raises(CNIError, match="no") as caught, Undo() as undo:
        undo.callback(release)
        raise CNIError(999, "no")
    assert (tries, caught.value.details) == ([1], "left behind: the leases are locked by another process")
