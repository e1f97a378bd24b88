"""Regular expressions in the syntax of Go's regexp package (RE2), matched in linear time.

Python's own `re` will not do for an allowlist whose patterns an administrator writes and whose subjects somebody else
does: it backtracks, so one subject can keep it busy for ever; and it reads patterns that were written for Go otherwise,
without a word (`$` passes a line feed, `[[:alpha:]]` is a list of seven characters, `\\d` is every digit of Unicode).
Here a pattern becomes a machine of states, all of which are followed at once (Thompson 1968): a subject costs at most
its length times the states. Whether it matches is all that is asked, so greed and captures mean nothing.

Not there, and refused: `\\p{..}`, `\\Q..\\E`, `\\C`, and what RE2 does not have either (look-around, back references).
"""

from collections.abc import Callable, Iterable

_MOST_REPEATS = 1000  # RE2's limit
_MOST_STATES = 20_000
_DEEPEST = 100

_DIGIT, _SPACE = "0123456789", "\t\n\f\r "
_LOWER, _UPPER = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_WORD = _DIGIT + _LOWER + _UPPER + "_"
_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_PERL = {"d": _DIGIT, "s": _SPACE, "w": _WORD}
_POSIX = {
    "alnum": _DIGIT + _LOWER + _UPPER,
    "alpha": _LOWER + _UPPER,
    "ascii": "".join(map(chr, range(128))),
    "blank": "\t ",
    "cntrl": "".join(map(chr, [*range(32), 127])),
    "digit": _DIGIT,
    "graph": _DIGIT + _LOWER + _UPPER + _PUNCTUATION,
    "lower": _LOWER,
    "print": " " + _DIGIT + _LOWER + _UPPER + _PUNCTUATION,
    "punct": _PUNCTUATION,
    "space": _SPACE + "\v",
    "upper": _UPPER,
    "word": _WORD,
    "xdigit": _DIGIT + "abcdefABCDEF",
}
_CONTROL = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_REPEATS = {"*": (0, None), "+": (1, None), "?": (0, 1)}

Accepts = Callable[[str], bool]
Node = tuple
"""("set", Accepts), ("at", which), ("cat", nodes), ("alt", nodes) or ("rep", node, low, high or None)."""


class Pattern:
    """A compiled pattern; `text` is as written. Raises ValueError, with the reason, for one that can not be read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._states: list[tuple | None] = [("match",)]
        self._start = self._build(_Parser(text).parse(), 0)

    def search(self, subject: str) -> bool:
        """Whether the pattern matches anywhere in the subject."""
        waiting: set[int] = set()
        for at in range(len(subject) + 1):
            reached = self._follow({*waiting, self._start}, subject, at)
            if 0 in reached:
                return True
            steps = (self._states[number] for number in reached)
            char = subject[at : at + 1]
            waiting = {step[2] for step in steps if char and step[0] == "set" and step[1](char)}
        return False

    def _follow(self, numbers: set[int], subject: str, at: int) -> set[int]:
        """All states that can be reached from these without another character."""
        reached, todo = set(numbers), list(numbers)
        while todo:
            kind, *what = self._states[todo.pop()]
            following: Iterable[int] = ()
            if kind == "split":
                following = what
            elif kind == "at" and _holds(what[0], subject, at):
                following = what[1:]
            for number in following:
                if number not in reached:
                    reached.add(number)
                    todo.append(number)
        return reached

    def _build(self, node: Node, after: int) -> int:
        """The state in which `node` begins, and after which state `after` follows."""
        kind, *what = node
        if kind == "cat":
            for part in reversed(what[0]):
                after = self._build(part, after)
            return after
        if kind == "alt":
            return self._add("split", *[self._build(part, after) for part in what[0]])
        if kind == "rep":
            return self._build_repeat(*what, after)
        return self._add(kind, what[0], after)

    def _build_repeat(self, node: Node, low: int, high: int | None, after: int) -> int:
        start = after
        if high is None:
            start = self._add("split")
            self._states[start] = ("split", self._build(node, start), after)
        for _ in range((high or low) - low):
            start = self._add("split", self._build(node, start), after)
        for _ in range(low):
            start = self._build(node, start)
        return start

    def _add(self, *state: object) -> int:
        if len(self._states) >= _MOST_STATES:
            raise ValueError("expression too large")
        self._states.append(state)
        return len(self._states) - 1


def _holds(which: str, subject: str, at: int) -> bool:
    if which in "^A":
        return at == 0
    if which in "$z":
        return at == len(subject)
    before, behind = subject[:at][-1:], subject[at : at + 1]
    edge = (before != "" and before in _WORD) != (behind != "" and behind in _WORD)
    return edge if which == "b" else not edge


class _Parser:
    """Recursive descent over the text of a pattern."""

    def __init__(self, text: str) -> None:
        self._text, self._at, self._depth = text, 0, 0
        self._folds = False  # (?i)

    def parse(self) -> Node:
        node = self._alternatives()
        if self._at < len(self._text):
            raise ValueError("unexpected )")
        return node

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, text: str) -> bool:
        found = self._text.startswith(text, self._at)
        self._at += len(text) if found else 0
        return found

    def _next(self, missing: str) -> str:
        char = self._peek()
        if not char:
            raise ValueError(missing)
        self._at += 1
        return char

    def _until(self, end: str, missing: str) -> str:
        found = self._text.find(end, self._at)
        if found < 0:
            raise ValueError(missing)
        part, self._at = self._text[self._at : found], found + len(end)
        return part

    def _alternatives(self) -> Node:
        branches = [self._sequence()]
        while self._take("|"):
            branches.append(self._sequence())
        return ("alt", branches) if len(branches) > 1 else branches[0]

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._repeated(self._atom()))
        return ("cat", parts)

    def _repeated(self, node: Node) -> Node:
        bounds = self._bounds()
        if bounds is None:
            return node
        self._take("?")
        if self._bounds() is not None:
            raise ValueError("invalid nested repetition operator")
        return ("rep", node, *bounds)

    def _bounds(self) -> tuple[int, int | None] | None:
        """The repetition that stands here, if one does; `{` without numbers is a character like any other."""
        if self._peek() in _REPEATS and self._peek():
            return _REPEATS[self._next("")]
        if self._peek() != "{":
            return None
        inside, brace, _ = self._text[self._at + 1 :].partition("}")
        low, comma, high = inside.partition(",")
        if not brace or not _is_number(low) or (high and not _is_number(high)):
            return None
        self._at += len(inside) + 2
        least = int(low)
        most = (int(high) if high else None) if comma else least
        if max(least, most or 0) > _MOST_REPEATS or (most is not None and most < least):
            raise ValueError("invalid repeat count")
        return least, most

    def _atom(self) -> Node:
        if self._bounds() is not None:
            raise ValueError("missing argument to repetition operator")
        char = self._next("")
        if char == "(":
            return self._group()
        if char == "[":
            return ("set", self._class())
        if char == ".":
            return ("set", lambda char: char != "\n")
        if char in "^$":
            return ("at", char)
        if char == "\\":
            return self._escape()
        return ("set", self._any_of(char))

    def _group(self) -> Node:
        folds = self._folds
        if self._take("?") and not self._group_options():
            return ("cat", [])  # (?i): flags up to the end of the group around
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError("expression nests too deeply")
        node = self._alternatives()
        self._depth -= 1
        if not self._take(")"):
            raise ValueError("missing closing )")
        self._folds = folds
        return node

    def _group_options(self) -> bool:
        """Read what stands behind `(?`; whether a group follows. Without line feeds, only `i` means something."""
        if self._take("P<") or self._take("<"):
            if not self._until(">", "invalid named capture").isidentifier():
                raise ValueError("invalid named capture")
            return True
        on = True
        while (flag := self._next("missing closing )")) not in ":)":
            if flag == "-" and on:
                on = False
            elif flag == "i":
                self._folds = on
            elif flag not in "msU":
                raise ValueError(f"invalid or unsupported syntax: (?{flag}")
        return flag == ":"

    def _escape(self) -> Node:
        if self._peek() in tuple("Azb") or self._peek() == "B":
            return ("at", self._next(""))
        return ("set", self._escaped())

    def _escaped(self) -> Accepts:
        """What the characters behind a backslash stand for."""
        char = self._peek()
        if char and char.lower() in _PERL:
            self._at += 1
            return _members(_PERL[char.lower()], inverted=char.isupper())
        return self._any_of(self._escaped_char())

    def _escaped_char(self) -> str:
        char = self._next("trailing backslash")
        if char in _CONTROL:
            return _CONTROL[char]
        if char == "x":
            digits = self._until("}", "invalid escape sequence: \\x") if self._take("{") else self._two()
            return _char(digits, 16)
        if char in "01234567":
            digits = char + "".join(self._next("") for _ in range(2) if self._peek() and self._peek() in "01234567")
            if len(digits) > 1 or char == "0":
                return _char(digits, 8)
        if char.isascii() and not char.isalnum() and char != "_":
            return char
        raise ValueError(f"invalid or unsupported escape sequence: \\{char}")

    def _two(self) -> str:
        return self._next("invalid escape sequence: \\x") + self._next("invalid escape sequence: \\x")

    def _class(self) -> Accepts:
        inverted = self._take("^")
        accepted: list[Accepts] = []
        while not (accepted and self._take("]")):
            accepted.append(self._class_item())
        return lambda char: any(accepts(char) for accepts in accepted) != inverted

    def _class_item(self) -> Accepts:
        if self._take("[:"):
            name = self._until(":]", "missing closing ]")
            if name.removeprefix("^") not in _POSIX:
                raise ValueError(f"invalid character class: [:{name}:]")
            return _members(_POSIX[name.removeprefix("^")], inverted=name.startswith("^"))
        if self._peek() == "\\" and self._text[self._at + 1 : self._at + 2].lower() in tuple(_PERL):
            self._at += 1
            return self._escaped()
        low = high = self._class_char()
        if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
            self._at += 1
            high = self._class_char()
        if high < low:
            raise ValueError(f"invalid character class range: {low}-{high}")
        if not self._folds:
            return lambda char: low <= char <= high
        return lambda char: any(low <= one <= high for one in (char, char.lower(), char.upper()))

    def _class_char(self) -> str:
        char = self._next("missing closing ]")
        return self._escaped_char() if char == "\\" else char

    def _any_of(self, char: str) -> Accepts:
        return _members(char.lower() + char.upper() if self._folds else char, inverted=False)


def _members(chars: str, *, inverted: bool) -> Accepts:
    return lambda char: (char in chars) != inverted


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 5


def _char(digits: str, base: int) -> str:
    try:
        return chr(int(digits, base))
    except (ValueError, OverflowError):
        raise ValueError(f"invalid escape sequence: {digits}") from None
