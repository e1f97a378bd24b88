"""A state machine: any sequence of calls of both plugins, crashes, failures and reboots agrees with a model."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ipam.allocator import allocate
from ipam.store import LeaseStore, State
from spec.attachment import Attachment
from spec.errors import CNIError
from state.boot import Boot
from tests.pure.ipam.support import (
    failing_at,
    killed_at,
    leases_in,
    owner,
    range_sets,
    reference_add,
    reference_delete,
    text_of,
)

SETS = range_sets("10.0.0.0/29", "fd00::/125")
POOL = {f"10.0.0.{number}" for number in range(2, 7)} | {f"fd00::{number}" for number in range(2, 8)}
OWNERS = [owner(container_id, ifname) for container_id in ("a", "b", "c", "d") for ifname in ("eth0", "eth1")]

owners = st.sampled_from(OWNERS)
steps = st.integers(1, 28)


class Model(RuleBasedStateMachine):
    """`live` has the owners of this boot's leases by address, `dead` those of earlier boots' leases.

    `seen` has the number of the boot in which we first saw a lease, or a later one, if a crash leaves that in doubt.
    """

    def __init__(self) -> None:
        super().__init__()
        self.top = Path(tempfile.mkdtemp())
        self.folder = self.top / "net"
        self.boots = 0
        self.live: dict[str, Attachment] = {}
        self.dead: dict[str, Attachment] = {}
        self.seen: dict[str, int] = {}
        self.store = LeaseStore(str(self.folder), self.boot)
        self.store.create()

    def boot(self) -> Boot:
        return Boot("node", f"boot-{self.boots}", 100.0)

    def teardown(self) -> None:
        shutil.rmtree(self.top)

    # What we do

    def do_add(self, holder: Attachment) -> dict[str, Attachment]:
        with self.store.locked(writable=True) as leases:
            return {str(grant.address): holder for grant in allocate(SETS, (), holder, leases)}

    def do_delete(self, holder: Attachment) -> None:
        with self.store.locked(writable=True) as leases:
            leases.release(holder)

    def do_collect(self, valid: frozenset[Attachment]) -> None:
        with self.store.locked(writable=True) as leases:
            leases.retain(valid)

    def can_add(self, holder: Attachment) -> bool:
        with self.store.locked(writable=False) as leases:
            usable = {each for each in POOL if leases.state(each) in (State.FREE, State.RECLAIMABLE)}
            return len({":" in each for each in usable}) == 2 and not leases.held_by(holder)

    def of(self, holder: Attachment) -> set[str]:
        return {each for books in (self.live, self.dead) for each, one in books.items() if one == holder}

    def forget(self, gone: set[str]) -> None:
        for books in (self.live, self.dead, self.seen):
            for address in gone & {*books}:
                del books[address]

    def see(self) -> None:
        """A call of ours that may write has ended: it has seen all leases."""
        for address in {*self.live, *self.dead} - {*self.seen}:
            self.seen[address] = self.boots

    @rule(holder=owners)
    def add(self, holder: Attachment) -> None:
        expected = self.can_add(holder)
        try:
            taken = self.do_add(holder)
        except CNIError:
            assert not expected
            self.see()
            return
        assert expected
        assert len(taken) == 2
        assert not {*taken} & {*self.live}
        self.forget({*taken})
        self.live |= taken
        self.see()

    @rule(holder=owners)
    def delete(self, holder: Attachment) -> None:
        self.do_delete(holder)
        self.forget(self.of(holder))
        self.see()

    @rule(valid=st.frozensets(owners))
    def collect(self, valid: frozenset[Attachment]) -> None:
        self.do_collect(valid)
        self.forget({each for books in (self.live, self.dead) for each, one in books.items() if one not in valid})
        self.see()

    # What the reference does

    @rule(holder=owners, address=st.sampled_from(sorted(POOL)))
    def add_by_reference(self, holder: Attachment, address: str) -> None:
        if not (self.folder / address).exists():
            reference_add(self.folder, holder, address)
            self.forget({address})
            self.live[address] = holder

    @rule(holder=owners)
    def delete_by_reference(self, holder: Attachment) -> None:
        reference_delete(self.folder, holder)
        self.forget(self.of(holder))

    @rule(address=st.sampled_from(sorted(POOL)), content=st.sampled_from([b"", b"\0\0\0"]))
    def crash_of_reference(self, address: str, content: bytes) -> None:
        if not (self.folder / address).exists():
            (self.folder / address).write_bytes(content)

    # Faults

    @rule(holder=owners, step=steps)
    def crash_in_add(self, holder: Attachment, step: int) -> None:
        if not self.can_add(holder):
            return
        before = files_in(self.folder)
        killed_at(step, lambda: self.do_add(holder))
        self.reconcile(before, may_come=holder)

    @rule(holder=owners, step=steps)
    def crash_in_delete(self, holder: Attachment, step: int) -> None:
        before = files_in(self.folder)
        killed_at(step, lambda: self.do_delete(holder))
        self.reconcile(before, may_go={each for each, (text, *_) in before.items() if text == text_of(holder)})

    @rule(valid=st.frozensets(owners), step=steps)
    def crash_in_collection(self, valid: frozenset[Attachment], step: int) -> None:
        before = files_in(self.folder)
        killed_at(step, lambda: self.do_collect(valid))
        keep = {text_of(each) for each in valid}
        self.reconcile(before, may_go={each for each, (text, *_) in before.items() if text not in keep})

    @rule(holder=owners, step=st.integers(2, 20))
    def full_disk(self, holder: Attachment, step: int) -> None:
        before = files_in(self.folder)
        real = {name: getattr(os, name) for name in ("open", "write", "link", "replace", "mkdir")}
        failing_at(setattr, step)
        try:
            self.do_add(holder)
        except (CNIError, OSError):
            for name, function in real.items():
                setattr(os, name, function)
            # Leases of earlier boots may have been reclaimed before the failure; ours are gone.
            came = {each for each, file in files_in(self.folder).items() if before.get(each) != file}
            assert came == set()
        finally:
            for name, function in real.items():
                setattr(os, name, function)
        self.reconcile(before, may_come=holder, may_go={*self.dead})

    @rule()
    def reboot(self) -> None:
        self.boots += 1
        self.dead |= self.live
        self.live = {}

    def reconcile(self, before: dict, *, may_go: set[str] = frozenset(), may_come: Attachment | None = None) -> None:
        """Check that an unknown outcome is a possible one, and update the model from the folder."""
        after = files_in(self.folder)
        gone = {each for each in before if each not in after}
        came = {each for each, file in after.items() if before.get(each) != file}
        assert gone & {*self.live} <= may_go
        if may_come is None:
            assert came == set()
        assert all(after[each][0] == text_of(may_come) for each in came)
        assert came & {*self.live} == set()
        self.forget(gone | came)
        for address in came:
            self.live[address] = may_come
            self.seen[address] = self.boots

    # Invariants

    @invariant()
    def every_live_lease_is_there_and_its_owners(self) -> None:
        found = leases_in(self.folder)
        assert {each: found.get(each) for each in self.live} == {each: text_of(one) for each, one in self.live.items()}

    @invariant()
    def every_lease_has_an_owner_we_know_of(self) -> None:
        found = leases_in(self.folder)
        owned = {each: text for each, text in found.items() if text.strip(b"\0")}
        assert owned == {each: text_of(one) for each, one in (self.dead | self.live).items()}

    @invariant()
    def no_live_lease_can_be_reclaimed_and_all_else_can_be_had(self) -> None:
        with self.store.locked(writable=False) as leases:
            states = {each: leases.state(each) for each in POOL}
        assert all(states[each] == State.TAKEN for each in self.live)
        old = {each for each in self.dead if self.seen.get(each, self.boots) < self.boots}
        assert {states[each] for each in old} <= {State.RECLAIMABLE}
        assert all(states[each] != State.TAKEN for each in POOL - {*self.live} - {*self.dead})


def files_in(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """The content and identity of each lease file: an owner may reclaim a lease of its own."""
    found = {}
    for name, text in leases_in(folder).items():
        status = (folder / name).stat()
        found[name] = text, status.st_ino, status.st_mtime_ns
    return found


Model.TestCase.settings = settings(
    max_examples=settings().max_examples // 4, stateful_step_count=30, suppress_health_check=list(HealthCheck)
)
TestModel = pytest.mark.slow(Model.TestCase)
