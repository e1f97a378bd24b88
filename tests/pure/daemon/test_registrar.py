"""What this node asks of a registry and tells it, and what is repeated."""

import pytest

from daemon.registrar import Registrar
from nodes.registry import Grant, Readiness, RegistryError, Wish
from tests.pure.daemon.test_records import Clock, Woken, record

READY = Readiness(is_ready=True, reason="RoutesInPlace", message="all is well")
WISH = Wish(("10.244.0.0/16",), (24,))


class FakeRegistry:
    """Records calls; `failing`: the methods that fail, and how."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []
        self.failing: dict[str, Exception] = {}
        self.grant = Grant(("10.244.1.0/24",))

    def _call(self, name: str, argument: object) -> None:
        self.calls.append((name, argument))
        if name in self.failing:
            raise self.failing[name]

    def lease(self, wish: Wish) -> Grant:
        self._call("lease", wish)
        return self.grant

    def publish(self, node: object) -> None:
        self._call("publish", node)

    def tell(self, readiness: Readiness) -> None:
        self._call("tell", readiness)


class Case:
    """A registrar whose jobs a test runs, in place of its thread."""

    def __init__(self) -> None:
        self.registry, self.clock, self.woken, self.log = FakeRegistry(), Clock(), Woken(), Woken()
        self.registrar = Registrar(self.registry, lambda: WISH, self.woken, self.log, self.clock)

    def run_due(self) -> list[str]:
        """Run all jobs that are due; the names of those that were."""
        done = []
        while name := min(
            ((job.due, name) for name, job in self.registrar._jobs.items() if (job.due or 1e9) <= self.clock.now),
            default=(0, ""),
        )[1]:
            self.registrar._jobs[name].due = None
            self.registrar._try(name)
            done.append(name)
        return done


@pytest.fixture(name="case")
def new_case() -> Case:
    """A registrar with a registry, neither of which has done anything."""
    return Case()


def test_the_lease_is_asked_for_at_the_start(case: Case) -> None:
    """And whoever waits for it is woken."""
    assert case.run_due() == ["lease"]
    assert case.registrar.grant == Grant(("10.244.1.0/24",))
    assert case.registry.calls == [("lease", WISH)]
    assert case.woken.calls == [()]
    assert case.run_due() == []


def test_failures_are_repeated_with_a_growing_pause(case: Case) -> None:
    """And logged once, until they are over."""
    case.registry.failing["lease"] = RegistryError("connection refused")
    pauses = []
    for _ in range(12):
        assert case.run_due() == ["lease"]
        pauses.append(case.registrar._jobs["lease"].pause)
        case.clock.now += 1.3 * pauses[-1]
    assert pauses[:4] == [0.5, 1.0, 2.0, 4.0]
    assert pauses[-1] == 60.0
    assert len(case.log.calls) == 1
    assert case.registrar.problem("lease") == "connection refused"
    case.registry.failing.clear()
    case.run_due()
    assert case.registrar.problem("lease") == ""
    assert case.registrar.grant is not None


def test_a_mistake_in_a_registry_is_a_failure(case: Case) -> None:
    """It does not end the thread."""
    case.registry.failing["lease"] = KeyError("spec")
    case.run_due()
    assert case.registrar.problem("lease") == "KeyError: 'spec'"


def test_only_what_is_new_is_published_and_told(case: Case) -> None:
    """The same record or readiness again is not sent."""
    case.run_due()
    for _ in range(2):
        case.registrar.publish(record(1))
        case.registrar.tell(READY)
        case.run_due()
    assert [name for name, _ in case.registry.calls] == ["lease", "publish", "tell"]
    assert case.registrar.published == record(1)


def test_the_readiness_is_told_again_every_minute(case: Case) -> None:
    """The registry knows whether somebody has overwritten it. A change does not wait."""
    case.run_due()
    case.registrar.tell(READY)
    assert case.run_due() == ["tell"]
    assert case.run_due() == []
    case.clock.now += 61
    assert case.run_due() == ["tell"]
    case.registrar.tell(Readiness(is_ready=False, reason="NoSubnet", message="no subnet"))
    assert case.run_due() == ["tell"]


def test_the_newest_record_is_published_after_a_failure(case: Case) -> None:
    """Not the one that could not be, and not before the pause is over."""
    case.run_due()
    case.registry.failing["publish"] = RegistryError("no leader")
    case.registrar.publish(record(1))
    case.run_due()
    case.registrar.publish(record(1, zone="b"))
    assert case.run_due() == []
    case.registry.failing.clear()
    case.clock.now += 1
    assert case.run_due() == ["publish"]
    assert case.registry.calls[-1] == ("publish", record(1, zone="b"))


def test_a_record_that_others_overwrite_is_published_again(case: Case) -> None:
    """And the lease is looked at, as it may be what has changed."""
    case.run_due()
    case.registrar.publish(record(1))
    case.run_due()
    case.registrar.on_own(record(1))
    assert case.run_due() == ["lease"]
    case.registrar.on_own(None)
    assert case.run_due() == ["lease", "publish"]


def test_a_record_that_was_overwritten_unseen_is_published_again(case: Case) -> None:
    """What was published and overwritten at once never came from the registry, only the same foreign record twice."""
    case.run_due()
    case.registrar.on_own(record(2))
    case.run_due()
    case.registrar.publish(record(1))
    case.run_due()
    case.registrar.on_own(record(2))
    assert case.run_due() == ["lease", "publish"]
    case.registrar.on_own(record(1))
    case.run_due()
    case.registrar.on_own(record(1))
    assert case.run_due() == []


def test_a_record_with_new_subnets_is_not_overwritten(case: Case) -> None:
    """What is published next comes from whoever is woken by the new lease."""
    case.run_due()
    case.registrar.publish(record(1))
    case.run_due()
    case.registry.grant = Grant(("10.244.9.0/24",))
    case.registrar.on_own(record(9))
    assert case.run_due() == ["lease"]
    assert case.registrar.grant == Grant(("10.244.9.0/24",))


def test_two_nodes_with_one_name_do_not_write_without_end(case: Case) -> None:
    """Each pause is longer than the one before, and the log says what it looks like."""
    case.run_due()
    case.registrar.publish(record(1))
    case.run_due()
    written = []
    while case.clock.now < 1300:
        case.registrar.on_own(record(2))
        written += [case.clock.now for name in case.run_due() if name == "publish"]
        case.clock.now += 0.25
    assert 10 < len(written) < 40
    assert "another one have its name" in case.log.calls[-1][1]["msg"]
    case.clock.now += 1000
    assert case.run_due() == ["publish"]
    case.clock.now += 1000
    case.registrar.on_own(record(2))
    assert case.run_due() == ["lease", "publish"]
