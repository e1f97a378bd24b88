"""Who changes the rules of a network namespace in this process: one at a time, and for all that wait together.

A call says what it wants as a function that decides on the state it is shown. Whoever finds nobody at work leads:
decides for all that have queued up meanwhile, and commits what comes of it as one transaction. If that is refused,
each is done on its own, so that one bad wish harms nobody and its error reaches only whoever wished it.

A transaction names the generation it was decided on. The kernel counts generations, one a transaction of anybody; so
who has committed knows the state that follows, and need not read it again until somebody else has changed something.

The socket is kept: to close one waits, and makes every transaction of the namespace wait, until all that was deleted is
freed, a grace period of 10 ms or more. A process that makes one call leaves that to its end.
"""

import os
import time
from _thread import allocate_lock, get_ident
from collections.abc import Callable, Iterable, Sequence
from errno import EPROTO, ERESTART

from linux.errors import insisting
from linux.netlink.socket import NETLINK_NETFILTER, Netlink, NetlinkError
from linux.nftables import listing, messages, uapi
from linux.nftables.cache import Chain, Table, TableCache
from linux.nftables.messages import Element, Step, TableName
from spec.errors import CNIError

_PATIENCE_SECONDS = 30
_PAUSE_SECONDS = 0.005
_LAST_GENERATION = (1 << 32) - 1
_KEPT = 4
_AT_ONCE = 64  # of many that wait together, so that the first need not wait for the last

_THIS_NAMESPACE = "/proc/thread-self/ns/net"


def change(decide: Callable[["Transaction"], object]) -> object:
    """Have `decide` decide on a change in the network namespace of the calling thread, and make it.

    It may be called several times, and not in this thread. Returns what it answered at last; raises what it raised, or
    NetlinkError, and then nothing has changed.
    """
    session = _sessions.lend()
    try:
        return session.change(decide)
    finally:
        _sessions.give_back(session)


class _Divided(Exception):
    """What was decided can not be joined with others' changes."""

    errno = 0


class Transaction:
    """What one transaction is decided on, and what has been decided: for functions given to `change`."""

    def __init__(self, session: "_Session", generation: int, *, is_alone: bool) -> None:
        self.netlink: Netlink = session.netlink
        """For what `cache` does not hold."""
        self.generation = generation
        """Of the rules as they are."""
        self._session = session
        self._is_alone = is_alone
        self._changed: dict[TableName, list[tuple[Element, bool]]] = {}
        self._emptied: dict[tuple[TableName, str], int] = {}
        self._kept: set[tuple[TableName, str]] = set()
        self.steps: list[Step] = []
        self.is_certain = True
        """Whether what was decided is right whatever others change meanwhile, or the kernel will refuse it."""
        self.is_done = False
        self.has_done_more = False

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
        """What `look` answers about the rules, asked again only when others, or `do`, may have changed them."""
        found = self._session.found
        if key not in found:
            found[key] = look()
        return found[key]

    def repair(self, table: Table, chains: Iterable[Chain]) -> None:
        """Give chains their rules, and make whatever those need; nothing if they hold them."""
        cache = self.cache(table)
        drifted = [chain for chain in chains if cache.lacks(chain)]
        if drifted:
            self.steps += repair(table, drifted, is_whole=not any(map(cache.lacks, table.chains)))
            self.is_certain = False
            cache.rules |= {chain.name: [rule.comment for rule in chain.rules] for chain in drifted}

    def exchange(self, table: Table, gone: Sequence[Element], new: Sequence[Element]) -> None:
        """Delete and add elements; chains to which only those led that are gone go in the end."""
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
        """Leave these chains where they are though nothing leads to them."""
        self._kept |= {(table.name, chain.name) for chain in chains}

    def add_alone(self, steps: Sequence[Step]) -> None:
        """Add steps that were decided without a cache; they are committed without the steps of other callers."""
        if steps and not self._is_alone:
            raise _Divided
        self.steps += steps
        self.is_certain = self.is_certain and not steps
        self.has_done_more = self.has_done_more or bool(steps)

    def append(self, steps: Iterable[Step]) -> None:
        """Add steps that are right whatever else is decided, and that change nothing in a cache."""
        self.steps += steps

    def leave_to_caller(self) -> None:
        """The caller commits, or does not, what it decides."""
        if not self._is_alone:
            raise _Divided
        self.is_done = True

    def finish(self) -> None:
        """Delete the chains that nothing leads to any more."""
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
    """Steps that give chains their rules, and make whatever those need.

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


class _Wish:
    """What one call wants: its decision, and how that ended."""

    def __init__(self, decide: Callable[[Transaction], object]) -> None:
        self.decide = decide
        self.thread = get_ident()
        self.waiting = allocate_lock()
        self.waiting.acquire()
        self.is_done = False
        self.is_committed = False  # then it has not failed, whatever comes after
        self.has_done_more = False
        self.result: object = None
        self.failure: BaseException | None = None


def _leaves_socket_usable(error: Exception) -> bool:
    """Whether all that was asked for has been read: the kernel refused something, or a decision was against it.

    After any other error, an answer that is still to come would be taken for that to the next request.
    """
    return isinstance(error, CNIError | _Divided) or (isinstance(error, NetlinkError) and error.errno != EPROTO)


class _Session:
    """The kept socket of a namespace, what is known of its rules, and who waits to change them."""

    def __init__(self) -> None:
        self.caches: dict[TableName, TableCache] = {}
        self.absent: set[TableName] = set()
        self.found: dict[object, object] = {}
        self.users = 0
        self._socket: Netlink | None = None
        self._generation: int | None = None  # that `caches` and `absent` tell of
        self._queue: list[_Wish] = []
        self._leader: int | None = None
        self._lock = allocate_lock()

    @property
    def netlink(self) -> Netlink:
        """The socket; opened anew after `close`, in the namespace of whoever asks."""
        if self._socket is None:
            self._socket = Netlink(NETLINK_NETFILTER)
        return self._socket

    def close(self) -> None:
        """Forget everything."""
        self._forget()
        if self._socket:
            self._socket.close()
        self._socket = None

    def change(self, decide: Callable[[Transaction], object]) -> object:
        """What `decide` answered when that was done; raises what it raised, or NetlinkError."""
        mine = _Wish(decide)
        with self._lock:
            if self._leader == mine.thread:
                raise RuntimeError("a decision on a change must not make another")
            self._queue.append(mine)
            leads = self._leader is None
            if leads:
                self._leader = mine.thread
        if not leads:
            mine.waiting.acquire()  # until it is done, or ours to lead
        if not mine.is_done:
            self._lead()
        if mine.failure:
            raise mine.failure
        return mine.result

    def _lead(self) -> None:
        """Do what is waiting, the caller's own first, and hand the lead on."""
        turn = self._take_turn()
        try:
            self._settle(turn)
        except BaseException as error:  # noqa: BLE001 (who waits must not wait for ever)
            self._abandon(turn, error)
        self._hand_on(turn)

    @insisting
    def _take_turn(self) -> list[_Wish]:
        with self._lock:
            turn, self._queue = self._queue[:_AT_ONCE], self._queue[_AT_ONCE:]
        return turn

    @insisting
    def _abandon(self, turn: Sequence[_Wish], error: BaseException) -> None:
        self.close()
        for wish in turn:
            if not wish.is_committed:
                wish.failure = wish.failure or error

    @insisting
    def _hand_on(self, turn: Sequence[_Wish]) -> None:
        with self._lock:
            heir = self._queue[0] if self._queue else None
            self._leader = heir.thread if heir else None
        for wish in turn:
            if not wish.is_done:
                wish.is_done = True
                wish.waiting.release()
        if heir:
            heir.waiting.release()

    def _settle(self, wishes: Sequence[_Wish]) -> None:
        """Do wishes as one transaction, again while others change the rules; if that can not be, each on its own."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        is_first = True
        while True:
            generation = self._look()
            try:
                self._try(wishes, generation, is_first=is_first)
            except Exception as error:  # noqa: BLE001 (it is raised to whom it belongs)
                if _leaves_socket_usable(error):
                    self._forget()
                else:
                    self.close()
                if wishes[0].is_committed:
                    return  # what failed was keeping account of it
                is_over = messages.generation(self.netlink) == generation or time.monotonic() > deadline
                if len(wishes) > 1 and (is_over or isinstance(error, _Divided)):
                    for wish in wishes:
                        self._settle_alone(wish)
                    return
                if is_over:
                    wishes[0].failure = error
                    return
            else:
                return
            is_first = False
            # Of many that collide, some should wait: up to _PAUSE_SECONDS, by chance.
            time.sleep(_PAUSE_SECONDS * os.urandom(1)[0] / 255)

    def _settle_alone(self, wish: _Wish) -> None:
        """Do one of many: what keeps it from being done is no failure of those that were done before."""
        try:
            self._settle([wish])
        except Exception as error:  # noqa: BLE001 (it is raised to whom it belongs)
            self.close()
            wish.failure = error

    def _try(self, wishes: Sequence[_Wish], generation: int, *, is_first: bool) -> None:
        transaction = Transaction(self, generation, is_alone=len(wishes) == 1)
        changes = 0
        for wish in wishes:
            before = len(transaction.steps)
            wish.result = wish.decide(transaction)
            changes += len(transaction.steps) > before
        transaction.finish()
        if transaction.is_done:
            self._look()
        elif transaction.steps:
            # What adds elements only need not be decided again though others have changed something.
            is_named = is_first or not transaction.is_certain
            messages.commit(
                self.netlink, transaction.steps, generation=generation if is_named else None, changes=changes
            )
            for wish in wishes:
                wish.is_committed = True
            is_known = is_named and not transaction.has_done_more
            self._note(transaction.steps, generation % _LAST_GENERATION + 1 if is_known else None)
        elif messages.generation(self.netlink) != generation:
            raise NetlinkError(ERESTART, "nftables: the rules changed while they were read")

    def _look(self) -> int:
        """The generation of the rules; what is known of another is forgotten."""
        generation = messages.generation(self.netlink)
        if generation != self._generation:
            self._forget()
            messages.sync(self.netlink)  # or what is read now might be of the generation before, and be kept
            self._generation = generation
        return generation

    def _note(self, steps: Iterable[Step], generation: int | None) -> None:
        """Know that these steps made the rules what they are at this generation (None: so others may have)."""
        if generation is None:
            self._forget()
        self._generation = generation
        if any(step.kind == uapi.NFT_MSG_NEWTABLE for step in steps):
            self.absent.clear()

    def _forget(self) -> None:
        self.caches.clear()
        self.absent.clear()
        self.found.clear()
        self._generation = None


class _Sessions:
    """The sessions of this process, the last one used at the end."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int], _Session] = {}
        self._lock = allocate_lock()

    def lend(self) -> _Session:
        """The session of the calling thread's namespace."""
        # As long as a socket is open in it, no other namespace gets its number.
        found = os.stat(_THIS_NAMESPACE)
        key = (found.st_dev, found.st_ino)
        with self._lock:
            session = self._kept.pop(key, None) or _Session()
            self._kept[key] = session
            session.users += 1
            idle = [key for key, session in self._kept.items() if not session.users]
            surplus = [self._kept.pop(key) for key in idle[: max(0, len(self._kept) - _KEPT)]]
        for one in surplus:
            one.close()
        return session

    def give_back(self, session: _Session) -> None:
        """No longer use a session."""
        with self._lock:
            session.users -= 1

    def __len__(self) -> int:
        return len(self._kept)


_sessions = _Sessions()  # as many as a process has namespaces: to open a socket costs little, to close one much
os.register_at_fork(after_in_child=_sessions.__init__)  # a socket that two processes read from serves neither
