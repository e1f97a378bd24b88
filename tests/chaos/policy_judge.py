"""What the talkers have written down, compared with what the policies can have allowed."""

import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.policy_history import History, Life
from tests.chaos.policy_talker import OPENING_SECONDS, version_of

CUT_SECONDS = 0.5
"""So long after a node has said that connections are cut, none of their packets is under way."""
MARGIN_SECONDS = 0.5
"""What must get through is sent so long after, and before, everything that might forbid it."""
REFUSED_SECONDS = 11
"""For so long a cut connection is refused (Programmer.cut), whatever is allowed again meanwhile."""
LOST_SHARE = 0.005
"""Of what must get through: the machine is busy, and full queues drop datagrams."""
_PROTOCOLS = {"new": "UDP", "kept": "UDP", "tcp": "TCP", "long": "TCP"}


@dataclass(frozen=True)
class Sent:
    """A datagram, or a connection, as its sender knows it."""

    time: float
    how: str
    address: str
    port: int


@dataclass(frozen=True)
class Heard:
    """A message that has arrived."""

    time: float
    sender: str
    how: str
    version: int
    port: int
    number: int
    sent: float


@dataclass
class Account:
    """What a talker has written down."""

    sent: dict[int, Sent] = field(default_factory=dict)
    heard: list[Heard] = field(default_factory=list)
    done: dict[int, float] = field(default_factory=dict)
    broken: list[tuple[float, int, float, str]] = field(default_factory=list)


def read(file: Path) -> Account:
    """The account of a talker; its last line may be incomplete, if it was killed."""
    account = Account()
    for line in file.read_text().split("\n")[:-1]:
        match line.split():
            case ["S", time, how, address, port, number]:
                account.sent[int(number)] = Sent(_s(time), how, address, int(port))
            case ["R", time, sender, how, version, port, number, sent]:
                heard = Heard(_s(time), sender, how, int(version), int(port), int(number), _s(sent))
                account.heard.append(heard)
            case ["D", time, number]:
                account.done[int(number)] = _s(time)
            case ["B", time, number, sent, why]:
                account.broken.append((_s(time), int(number), _s(sent), why))
    return account


def _s(text: str) -> float:
    return int(text) / 1e9


class Judge:
    """Compares the accounts with the history."""

    def __init__(self, history: History, accounts: Mapping[str, Account]) -> None:
        self._history, self._accounts = history, accounts
        self.counts: Counter[str] = Counter()
        self._told: set[tuple] = set()
        self._owners: dict[str, list[Life]] = defaultdict(list)
        for life in sorted(history.lives.values(), key=lambda life: life.begun):
            for address in life.addresses.values():
                self._owners[address].append(life)

    def wrongs(self) -> list[str]:
        """A sentence for each thing that was not as the policies say."""
        passed = [wrong for number, each in self._accounts.items() for wrong in self._passed(number, each)]
        broken = [wrong for number, each in self._accounts.items() for wrong in self._broken(number, each)]
        return [*passed, *broken, *self._missing()]

    def _passed(self, number: str, account: Account) -> Iterator[str]:
        """What has arrived though nothing can have allowed it."""
        receiver = self._history.lives[number]
        for heard in account.heard:
            sender = self._history.lives[heard.sender]
            self.counts[f"{heard.how} arrived"] += 1
            why = sender is not receiver and self._why_not(sender, receiver, heard)
            if why:
                ends = f"{_name(sender)} to {_name(receiver)}"
                what = f"{heard.how} IPv{heard.version} port {heard.port} number {heard.number}"
                story = self._story(sender, receiver, heard)
                yield f"passed: {what} from {ends}, sent {heard.sent:.3f}, arrived {heard.time:.3f}: {why}{story}"

    def _story(self, sender: Life, receiver: Life, heard: Heard) -> str:
        """What was in force; told once for two pods."""
        key = sender.number, receiver.number
        if key in self._told or heard.version not in sender.addresses:
            return ""
        self._told.add(key)
        what = sender, receiver, _PROTOCOLS[heard.how], heard.port, heard.version
        return "\n" + self._history.story(*what, heard.sent - CUT_SECONDS, heard.time)

    def _why_not(self, sender: Life, receiver: Life, heard: Heard) -> str:
        """Why it must not have arrived; "" if it may."""
        begin, nodes, is_open = heard.sent, (sender.node, receiver.node), heard.how in ("kept", "long")
        if heard.how == "tcp":
            begin = min(begin, self._accounts[sender.number].sent[heard.number].time)
        elif is_open:
            begin -= CUT_SECONDS
        if self._history.was_damaged(nodes, begin, heard.time, is_open=is_open):
            self.counts["excused"] += 1
            return ""
        if heard.version not in sender.addresses or heard.version not in receiver.addresses:
            return "an ADD has not succeeded"
        if heard.time < max(sender.held_until, receiver.held_until):
            return "a pod was held, since no daemon ran"
        what = sender, receiver, _PROTOCOLS[heard.how], heard.port, heard.version
        allowed = self._history.verdicts(*what, begin, heard.time, is_open=is_open)
        return "" if True in allowed else "forbidden"

    def _missing(self) -> Iterator[str]:
        """What has not arrived though it was allowed all the time, if it is more than some."""
        arrived = {(one.sender, one.number) for each in self._accounts.values() for one in each.heard}
        lost: dict[str, list[str]] = defaultdict(list)
        for number, account in self._accounts.items():
            sender = self._history.lives[number]
            for place, sent in account.sent.items():
                receiver = self._must_arrive(sender, sent)
                if not receiver:
                    continue
                self.counts[f"{sent.how} must arrive"] += 1
                if (place not in account.done) if sent.how == "tcp" else ((number, place) not in arrived):
                    ends = f"{_name(sender)} to {_name(receiver)}"
                    what = f"{sent.how} {sent.address} port {sent.port} number {place}"
                    lost[sent.how].append(f"lost: {what} from {ends}, sent {sent.time:.3f}")
        for how, each in lost.items():
            self.counts[f"{how} lost"] = len(each)
            if len(each) > LOST_SHARE * self.counts[f"{how} must arrive"]:
                yield from each

    def _must_arrive(self, sender: Life, sent: Sent) -> Life | None:
        """Who must get it; None if it may be lost. Kept connections are not counted: they end only when broken."""
        receiver = self._owner(sent.address, sent.time)
        if receiver is None or receiver is sender or sent.how == "long":
            return None
        begin, end = sent.time - MARGIN_SECONDS, sent.time + MARGIN_SECONDS
        if sent.how == "tcp":
            end += OPENING_SECONDS
        elif sent.how == "kept":
            begin = sent.time - REFUSED_SECONDS
        return receiver if self._is_allowed((sender, receiver), sent, begin, end) else None

    def _broken(self, number: str, account: Account) -> Iterator[str]:
        """Kept connections that have ended though they were allowed all the time."""
        sender = self._history.lives[number]
        for time, place, last, why in account.broken:
            sent = account.sent[place]
            receiver = self._owner(sent.address, sent.time)
            if receiver and receiver is not sender:
                ends = sender, receiver
                if self._is_allowed(ends, sent, sent.time - MARGIN_SECONDS, time + MARGIN_SECONDS):
                    what = f"{sent.how} {sent.address} number {place} from {_name(sender)} to {_name(receiver)}"
                    yield f"broken: {what}, begun {sent.time:.3f}, last sent {last:.3f}, ended {time:.3f}: {why}"

    def _is_allowed(self, ends: tuple[Life, Life], sent: Sent, begin: float, end: float) -> bool:
        """Whether it was certainly allowed during all of that time, between pods that were there."""
        if not all(one.decided <= begin and end <= one.ended for one in ends):
            return False
        is_open = sent.how in ("kept", "long")  # what is allowed again may still be cut
        if self._history.was_damaged([one.node for one in ends], begin, end + CUT_SECONDS, is_open=is_open):
            return False
        what = *ends, _PROTOCOLS[sent.how], sent.port, version_of(sent.address)
        return self._history.verdicts(*what, begin, end, is_open=is_open) == {True}

    def _owner(self, address: str, time: float) -> Life | None:
        """Who had an address then."""
        lives = self._owners.get(address, [])
        place = bisect.bisect([life.begun for life in lives], time) - 1
        return lives[place] if place >= 0 and time < lives[place].ended else None


def _name(life: Life) -> str:
    return f"{life.namespace}/{life.name} on {life.node} (since {life.begun:.3f})"


def accounts_in(folder: Path, lives: Iterable[str]) -> dict[str, Account]:
    """The accounts of the talkers of these pods."""
    return {number: read(folder / number) for number in lives}


def shown(wrongs: Sequence[str], most: int = 40) -> str:
    """The first of them, and how many there are."""
    return "\n".join([f"{len(wrongs)} wrongs:", *wrongs[:most]])
