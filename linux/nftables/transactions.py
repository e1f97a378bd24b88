"""Changes of a namespace's nftables ruleset: read, decide, commit, one transaction for all that wait together.

A request is a function that decides, on the state it is shown, which steps are needed. Requests of several threads are
decided one after the other and committed as one transaction (linux/group_commit.py). If the kernel refuses it, each
request is committed alone, so a bad request fails alone.

A transaction names the generation of the ruleset on which it was decided, and the kernel refuses it if the ruleset has
changed since. Every transaction increments the generation by one. So after a commit we know the new state, and do not
read it again until another process has changed something.

The socket stays open. Closing one takes until everything deleted is freed, an RCU grace period of 10 ms or more, and
all transactions in the namespace wait for that. A process that serves one call leaves that to its exit.
"""

import os
import time
from _thread import allocate_lock
from collections.abc import Callable, Container, Iterable, Sequence
from errno import EPROTO, ERESTART

from linux.group_commit import GroupCommit, Request
from linux.netlink.socket import NETLINK_NETFILTER, Netlink, NetlinkError
from linux.nftables import listing, messages, uapi
from linux.nftables.cache import Chain, Table, TableCache
from linux.nftables.messages import Element, Step, TableName
from spec.errors import CNIError

_PATIENCE_SECONDS = 30
_PAUSE_SECONDS = 0.005
_LAST_GENERATION = (1 << 32) - 1
_KEPT = 4
_MOST_AUTHORS = 100
_authors: dict[int, float] = {}
"""The threads of this process that may have committed, and when they last might."""
_THIS_NAMESPACE = "/proc/thread-self/ns/net"


def change(decide: Callable[["Transaction"], object]) -> object:
    """Call `decide` with a Transaction in the network namespace of the calling thread, and commit its steps.

    `decide` may be called several times, and in another thread. Returns what it returned last. Raises what it raised,
    or NetlinkError; then nothing has changed.
    """
    return _session().submit(decide)


def retry_on_change(attempt: Callable[[Netlink], object]) -> object:
    """Call `attempt`, which commits by itself, with a socket; again if it fails after the ruleset has changed."""

    def decide(transaction: "Transaction") -> object:
        transaction.leave_to_caller()
        return attempt(transaction.netlink)

    return change(decide)


def is_own(author: int) -> bool:
    """Whether an author, as announcements have it, is a thread of this process that has changed rulesets lately.

    That may be another thread than the one that has called `change`: one commits for all that wait.
    """
    return author != 0 and author in _authors


def _note_author(author: int) -> None:
    """Before it commits."""
    _authors[author] = time.monotonic()
    if len(_authors) > _MOST_AUTHORS:  # threads come and go
        oldest, _ = min(list(_authors.items()), key=lambda item: item[1])
        _authors.pop(oldest, None)


class _MustBeAlone(Exception):
    """The change cannot be committed together with other requests."""


class Transaction:
    """The state on which functions given to `change` decide, and the steps that they have decided on."""

    def __init__(self, session: "Session", *, is_alone: bool) -> None:
        self.netlink: Netlink = session.netlink
        """For what `cache` does not hold."""
        self._session = session
        self._is_alone = is_alone
        self._changed: dict[TableName, list[tuple[Element, bool]]] = {}
        self._emptied: dict[tuple[TableName, str], int] = {}
        self._kept: set[tuple[TableName, str]] = set()
        self._claimed: set[object] = set()
        self.steps: list[Step] = []
        self.is_certain = True
        """Whether the steps are right whatever others change meanwhile, or else the kernel refuses them."""
        self.is_left_to_caller = False
        self.bypasses_cache = False

    def cache(self, table: Table) -> TableCache:
        """What the table holds when all that was decided so far is done."""
        cache = self._session.caches.get(table.name)
        if cache is None:
            cache = TableCache(self.netlink, table)
            for element, there in self._changed.get(table.name, ()):
                (cache.add if there else cache.remove)(element)
            self._session.caches[table.name] = cache
        return cache

    def is_cached(self, table: TableName) -> bool:
        """Whether `cache` need not read the table."""
        return table in self._session.caches or table in self._changed

    def is_absent(self, table: TableName) -> bool:
        """Whether there is no such table."""
        absent = self._session.absent
        if table not in absent and listing.table_flags(self.netlink, table) is None:
            absent.add(table)
        return table in absent

    def remember(self, key: object, look: Callable[[], object]) -> object:
        """What `look` returned for this state of the ruleset; it is called again when the ruleset has changed."""
        found = self._session.found
        if key not in found:
            found[key] = look()
        return found[key]

    def is_still_right(
        self,
        tables: Sequence[TableName],
        requests: Sequence[bytes],
        look: Callable[[], bool],
        without_uses: Container[int] = (),
    ) -> bool:
        """Whether chains hold what they should; `look` tells, if they may have changed since they were right.

        `requests`: of the chains (`messages.of_chain`), in `tables`. `without_uses`: as for `listing.chain_marks`. To
        read rules takes long, and others change the ruleset all the time.
        """
        marks = [listing.table_flags(self.netlink, table) for table in tables]
        marks += listing.chain_marks(self.netlink, requests, without_uses=without_uses)
        known = self._session.marks
        if tables not in known or known[tables] != marks:
            known[tables] = marks if look() else None
        return known[tables] is not None

    def repair(self, table: Table, chains: Iterable[Chain]) -> None:
        """Give chains their rules, and add what those need; nothing if they hold them."""
        cache = self.cache(table)
        drifted = [chain for chain in chains if cache.lacks(chain)]
        if drifted:
            self.steps += repair(table, drifted, is_whole=not any(map(cache.lacks, table.chains)))
            self.is_certain = False
            cache.rules |= {chain.name: [rule.comment for rule in chain.rules] for chain in drifted}

    def exchange(self, table: Table, gone: Sequence[Element], new: Sequence[Element]) -> None:
        """Delete and add elements, and delete chains to which no element leads any more."""
        self.steps += [messages.delete_element(table.name, element) for element in gone]
        self.steps += [messages.add_element(table.name, element) for element in new]
        self.is_certain = self.is_certain and not gone
        changed = self._changed.setdefault(table.name, [])
        cache = self._session.caches.get(table.name)
        for elements, there in ((gone, False), (new, True)):
            for element in elements:
                if cache:
                    (cache.add if there else cache.remove)(element)
                changed.append((element, there))
        for element in gone:
            if element.chain:
                place = (table.name, element.chain)
                self._emptied[place] = self._emptied.get(place, 0) + 1

    def keep(self, table: Table, chains: Iterable[Chain]) -> None:
        """Do not delete these chains even if nothing leads to them."""
        self._kept |= {(table.name, chain.name) for chain in chains}

    def add_alone(self, steps: Sequence[Step]) -> None:
        """Add steps that were decided without a cache; they are committed without the steps of other callers."""
        if steps and not self._is_alone:
            raise _MustBeAlone
        self.steps += steps
        self.is_certain = self.is_certain and not steps
        self.bypasses_cache = self.bypasses_cache or bool(steps)

    def claim(self, key: object) -> None:
        """Commit without the steps of other callers if one of them has claimed the same `key`.

        For what is read without a cache: it does not show what those have decided.
        """
        if key in self._claimed and not self._is_alone:
            raise _MustBeAlone
        self._claimed.add(key)

    def append_uncached(self, steps: Sequence[Step]) -> None:
        """Add steps that were decided without a cache, of a table that nobody caches, on what was claimed."""
        self.steps += steps
        self.is_certain = self.is_certain and not steps

    def append(self, steps: Iterable[Step]) -> None:
        """Add steps that are right whatever else is decided, and that change nothing in a cache."""
        self.steps += steps

    def leave_to_caller(self) -> None:
        """Commit nothing: the function commits itself what it decides on."""
        if not self._is_alone:
            raise _MustBeAlone
        self.is_left_to_caller = True

    def finish(self) -> None:
        """Add steps that delete the chains to which nothing leads any more."""
        for (table, chain), leading in self._emptied.items():
            cache = self._session.caches.get(table)
            if (table, chain) in self._kept or (cache and cache.leads_to(chain)):
                continue
            rules = len(listing.list_rules(self.netlink, table, chain))
            if listing.chain_uses(self.netlink, table, chain) == rules + leading:
                self.steps.append(messages.delete_chain(table, chain))
                if cache:
                    cache.rules.pop(chain, None)


def repair(table: Table, drifted: Iterable[Chain], *, is_whole: bool = False) -> list[Step]:
    """Steps that give chains their rules, and add what those need.

    `is_whole`: the table's own chains hold their rules, and therefore all sets are there.
    """
    steps = []
    if not is_whole:
        steps = [
            messages.add_table(table.name, table.comment),
            *(messages.add_set(table.name, each) for each in table.sets),
        ]
    for chain in drifted:
        steps += [messages.add_chain(table.name, chain.name, chain.hook), messages.flush_chain(table.name, chain.name)]
        steps += [messages.add_rule(table.name, chain.name, rule.expressions, rule.comment) for rule in chain.rules]
    return steps


def _leaves_socket_usable(error: Exception) -> bool:
    """Whether every answer was read: the kernel refused something, or a function decided against a change.

    After any other error, a late answer could be taken for the answer to the next message.
    """
    return isinstance(error, CNIError | _MustBeAlone) or (isinstance(error, NetlinkError) and error.errno != EPROTO)


class Session:
    """The kept socket of a namespace, and what is known of its ruleset."""

    def __init__(self) -> None:
        self.caches: dict[TableName, TableCache] = {}
        self.absent: set[TableName] = set()
        self.found: dict[object, object] = {}
        self.marks: dict[object, list[object] | None] = {}
        """Of chains that were right, by their tables."""
        self._socket: Netlink | None = None
        self._generation: int | None = None  # of `caches`, `absent` and `found`

    @property
    def netlink(self) -> Netlink:
        """The socket; opened anew after `close`, in the namespace of the calling thread."""
        if self._socket is None:
            self._socket = Netlink(NETLINK_NETFILTER)
        return self._socket

    def close(self) -> None:
        """Close the socket and drop the caches."""
        self._invalidate()
        self.marks.clear()
        if self._socket:
            self._socket.close()
        self._socket = None

    __del__ = close

    def perform(self, requests: Sequence[Request]) -> None:
        """Have each request's function decide, and commit; settle it with what it returned or raised."""
        try:
            self._commit(requests)
        except BaseException:
            self.close()
            raise

    def _commit(self, requests: Sequence[Request]) -> None:
        """Commit requests as one transaction, again while others change the rules; or if that fails, one by one."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        is_first = True
        while True:
            generation = self._look()
            try:
                self._try(requests, generation, is_first=is_first)
            except Exception as error:  # noqa: BLE001 (it is raised where it belongs)
                if _leaves_socket_usable(error):
                    self._invalidate()
                else:
                    self.close()
                if requests[0].is_settled:
                    return  # it was committed; what failed was keeping account of it
                is_over = messages.generation(self.netlink) == generation or time.monotonic() > deadline
                if len(requests) > 1 and (is_over or isinstance(error, _MustBeAlone)):
                    self._commit_each(requests)
                    return
                if is_over:
                    requests[0].settle(error=error)
                    return
            else:
                return
            is_first = False
            # Of many processes that collide, some should wait: up to _PAUSE_SECONDS, at random.
            time.sleep(_PAUSE_SECONDS * os.urandom(1)[0] / 255)

    def _commit_each(self, requests: Sequence[Request]) -> None:
        for request in requests:
            try:
                self._commit([request])
            except Exception as error:  # noqa: BLE001 (it is raised where it belongs)
                self.close()
                request.settle(error=error)

    def _try(self, requests: Sequence[Request], generation: int, *, is_first: bool) -> None:
        transaction = Transaction(self, is_alone=len(requests) == 1)
        results, changes = [], 0
        for request in requests:
            before = len(transaction.steps)
            results.append(request.job(transaction))
            changes += len(transaction.steps) > before
        transaction.finish()
        # What only adds elements need not be decided again though others have changed something.
        is_named = is_first or not transaction.is_certain
        if transaction.steps:
            condition = generation if is_named else None
            messages.commit(self.netlink, transaction.steps, generation=condition, changes=changes)
        elif not transaction.is_left_to_caller and messages.generation(self.netlink) != generation:
            raise NetlinkError(ERESTART, "nftables: the rules changed while they were read")
        for request, result in zip(requests, results, strict=True):
            request.settle(result)
        if transaction.steps:
            is_known = is_named and not transaction.bypasses_cache
            self._note(transaction.steps, generation % _LAST_GENERATION + 1 if is_known else None)

    def _look(self) -> int:
        """The generation of the ruleset; what is known of another is dropped."""
        generation, author = messages.generation_and_author(self.netlink)
        _note_author(author)
        if generation != self._generation:
            self._invalidate()
            messages.sync(self.netlink)  # or what is read now might be of the generation before, and be kept
            self._generation = generation
        return generation

    def _note(self, steps: Iterable[Step], generation: int | None) -> None:
        """Know that these steps led to the ruleset of this generation (None: others may have changed it, too)."""
        if generation is None:
            self._invalidate()
        self._generation = generation
        if any(step.kind == uapi.NFT_MSG_NEWTABLE for step in steps):
            self.absent.clear()

    def _invalidate(self) -> None:
        self.caches.clear()
        self.absent.clear()
        self.found.clear()
        self._generation = None


_sessions: dict[tuple[int, int], GroupCommit] = {}
"""By namespace: those that change the ruleset of each. Nearly always that is the node's alone."""

_lock = allocate_lock()


def _session() -> GroupCommit:
    """The session of the calling thread's namespace."""
    # As long as a socket is open in it, no other namespace gets its number.
    found = os.stat(_THIS_NAMESPACE)
    key = (found.st_dev, found.st_ino)
    with _lock:
        if key not in _sessions:
            if len(_sessions) == _KEPT:
                _sessions.clear()  # each closes its socket when the last call has done with it
            _sessions[key] = GroupCommit(Session().perform)
        return _sessions[key]


def _start_afresh() -> None:
    _sessions.clear()  # a socket that two processes read from serves neither
    _lock.release()


os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_start_afresh)
