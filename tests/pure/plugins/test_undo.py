"""Undo: what a failed ADD does on its way out."""

import pytest

from plugins.undo import Undo
from spec.errors import CNIError


def test_failure_walks_back_last_step_first() -> None:
    """On a failure the ways back are taken, the last pushed first."""
    taken = []
    with pytest.raises(CNIError), Undo() as undo:
        undo.push(lambda: taken.append("first"))
        undo.push(lambda: taken.append("second"))
        raise CNIError(999, "no")
    assert taken == ["second", "first"]


def test_success_undoes_nothing() -> None:
    """After keep() nothing is undone, whatever happens then."""
    taken = []
    with pytest.raises(CNIError), Undo() as undo:
        undo.push(lambda: taken.append("first"))
        undo.keep()
        raise CNIError(999, "no")
    assert taken == []


def test_a_way_back_that_fails_is_told_and_hides_nothing() -> None:
    """The other ways back are taken all the same, and the error that began it is raised with what is left behind."""
    taken = []

    def fail() -> None:
        raise OSError(5, "disk on fire")

    with pytest.raises(CNIError) as caught, Undo() as undo:
        undo.push(lambda: taken.append("first"))
        undo.push(fail)
        raise CNIError(999, "no", "because")
    assert taken == ["first"]
    assert caught.value.msg == "no"
    assert caught.value.details == "because; left behind: [Errno 5] disk on fire"


def test_an_unexpected_exception_is_undone_too() -> None:
    """A failure of any kind walks back."""
    taken = []
    with pytest.raises(ZeroDivisionError), Undo() as undo:
        undo.push(lambda: taken.append("first"))
        raise ZeroDivisionError
    assert taken == ["first"]
