"""Reads conditions in iptables' language: the options of its matches (iptables(8), iptables-extensions(8))."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from rules.conditions.condition import Condition
from rules.conditions.fields import STATES, STATUSES, TCP_FLAGS, Field, Value, field_of

_IP = {4: "ip", 6: "ip6"}
_MODULES = frozenset({
    "addrtype", "comment", "connmark", "conntrack", "iprange", "mac", "mark", "multiport", "owner", "pkttype", "sctp",
    "state", "tcp", "udp",
})  # fmt: skip
_ALIASES = {
    "--source": "-s", "--src": "-s", "--destination": "-d", "--dst": "-d", "--in-interface": "-i",
    "--out-interface": "-o", "--protocol": "-p", "--proto": "-p", "--match": "-m",
    "--source-port": "--sport", "--destination-port": "--dport", "--source-ports": "--sports",
    "--destination-ports": "--dports", "--state": "--ctstate",
}  # fmt: skip
_WITHOUT_VALUE = frozenset({"--syn"})


class _Matches:
    """What the options so far determine about those that follow."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.protocol = "th"
        self.module = ""

    def field(self, *words: str) -> Field:
        """The field of that name. Raises ValueError."""
        known = field_of(words, self.version)
        if known is None:
            raise ValueError(" ".join(words))
        return known


def read(words: Sequence[str], version: int) -> Iterator[Condition]:
    """The conditions in a list of options and values. Raises ValueError with the words not understood."""
    matches = _Matches(version)
    left = list(_split(words))
    while left:
        taken = [left.pop(0)]
        negated = taken == ["!"]
        if negated and left:
            taken.append(left.pop(0))
        option = _ALIASES.get(taken[-1], taken[-1])
        if option not in _WITHOUT_VALUE and left:
            taken.append(left.pop(0))
        value = taken[-1] if len(taken) > 1 + negated else ""
        try:
            yield from _read_one(matches, option, value, negated=negated)
        except ValueError:
            raise ValueError(" ".join(taken)) from None


def _split(words: Sequence[str]) -> Iterator[str]:
    """The words of a command line; an entry may hold several, as in "! -s 192.0.2.0/24"."""
    for text in words:
        is_line = " " in text.strip() and text.lstrip()[:1] in ("-", "!")
        yield from shlex.split(text) if is_line else [text.strip()]


def _read_one(matches: _Matches, option: str, value: str, *, negated: bool) -> Iterator[Condition]:
    if option == "-m" and value in _MODULES and not negated:
        matches.module = value
    elif option == "--comment" and value and not negated:
        pass
    elif option == "-p" and value:
        yield from _protocol(matches, value.lower(), negated=negated)
    elif option in _READERS and (value or option in _WITHOUT_VALUE):
        yield replace(_READERS[option](matches, value), negated=negated)
    else:
        raise ValueError(option)


def _protocol(matches: _Matches, value: str, *, negated: bool) -> Iterator[Condition]:
    if value in ("all", "0"):
        if negated:
            raise ValueError(value)
        return
    if not negated and value in ("tcp", "udp", "sctp"):
        matches.protocol = value
    known = matches.field("meta", "l4proto")
    yield Condition(known, (known.read(value),), negated)


def _values(known: Field, listed: str) -> tuple[Value, ...]:
    return tuple(known.read(word) for word in listed.split(","))


def _address(side: str, matches: _Matches, value: str) -> Condition:
    known = matches.field(_IP[matches.version], side)
    return Condition(known, _values(known, value))


def _address_type(side: str, matches: _Matches, value: str) -> Condition:
    known = matches.field("fib", side, "type")
    return Condition(known, _values(known, value))


def _range(side: str, matches: _Matches, value: str) -> Condition:
    if "/" in value:
        raise ValueError(value)
    return _address(side, matches, value)


def _link(name: str, matches: _Matches, value: str) -> Condition:
    known = matches.field("meta", name)
    if "*" in value:
        raise ValueError(value)
    return Condition(known, (known.read(f"{value[:-1]}*" if value.endswith("+") else value),))


def _port(name: str, matches: _Matches, value: str) -> Condition:
    known = matches.field(matches.protocol, name)
    return Condition(known, tuple(known.read(_bounds(part)) for part in value.split(",")))


def _bounds(text: str) -> str:
    """A range of ports in nft's syntax: 1000-2000 for 1000:2000; without an end, up to the last port."""
    low, colon, high = text.partition(":")
    return f"{low or 0}-{high or 65535}" if colon else text


def _states(matches: _Matches, value: str) -> Condition:
    # To iptables SNAT and DNAT are states, to the kernel bits of the status.
    is_status = set(value.upper().split(",")) <= {"SNAT", "DNAT"}
    return _bits(matches, "status" if is_status else "state", STATUSES if is_status else STATES, value)


def _bits(matches: _Matches, name: str, known_bits: Mapping[str, int], value: str) -> Condition:
    words = value.lower().replace("_", "-").split(",")
    if not set(words) <= set(known_bits):
        raise ValueError(value)
    known = matches.field("ct", name)
    return Condition(known, tuple(known.read(word) for word in words), any_bit=True)


def _status(matches: _Matches, value: str) -> Condition:
    return _bits(matches, "status", STATUSES, value)


def _mark(matches: _Matches, value: str) -> Condition:
    known = matches.field(*(("ct", "mark") if matches.module == "connmark" else ("meta", "mark")))
    wanted, slash, mask = value.partition("/")
    return Condition(known, (known.read(wanted),), mask=known.read(mask).data if slash else b"")


def _one(words: Sequence[str], matches: _Matches, value: str) -> Condition:
    known = matches.field(*words)
    return Condition(known, (known.read(value.lower()),))


def _syn(matches: _Matches, _value: str) -> Condition:
    known = matches.field("tcp", "flags")
    looked_at = sum(TCP_FLAGS[name] for name in ("fin", "syn", "rst", "ack"))
    return Condition(known, (known.read("syn"),), mask=bytes([looked_at]))


_READERS: dict[str, Callable[[_Matches, str], Condition]] = {
    "-s": partial(_address, "saddr"), "-d": partial(_address, "daddr"),
    "--src-range": partial(_range, "saddr"), "--dst-range": partial(_range, "daddr"),
    "--src-type": partial(_address_type, "saddr"), "--dst-type": partial(_address_type, "daddr"),
    "-i": partial(_link, "iifname"), "-o": partial(_link, "oifname"),
    "--sport": partial(_port, "sport"), "--dport": partial(_port, "dport"),
    "--sports": partial(_port, "sport"), "--dports": partial(_port, "dport"),
    "--ctstate": _states, "--ctstatus": _status, "--ctdir": partial(_one, ("ct", "direction")),
    "--mark": _mark, "--mac-source": partial(_one, ("ether", "saddr")), "--pkt-type": partial(_one, ("pkttype",)),
    "--syn": _syn, "--uid-owner": partial(_one, ("skuid",)), "--gid-owner": partial(_one, ("skgid",)),
}  # fmt: skip
