"""TOML with the lines of its keys and of its mistakes; `tomllib` parses it, and knows no lines of what is valid."""

import re
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

_MOST_ATTEMPTS = 10  # to parse a file without the lines that are wrong
_LONGEST_STATEMENT = 20  # lines of one whose beginning is looked for
_LONGEST_PATH = 300  # characters; longer paths get the line of what they are in
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_TOKEN = re.compile(
    r"""
      [ \t\r]+ | \#[^\n]*
    | (?P<text> \"{3}(?:\\.|[^\\])*?\"{3}\"{0,2}(?!\") | '{3}.*?'{3}'{0,2}(?!') | "(?:\\.|[^"\\\n])*" | '[^'\n]*' )
    | (?P<bare> [^ \t\r\n#"'\[\]{},=.]+ )
    | (?P<mark> [\n\[\]{},=.] )
    """,
    re.VERBOSE | re.DOTALL,
)

Lines = dict[str, int]
"""The line of each key by its path, such as "conflist.plugins[1].type", in lower case."""


@dataclass(frozen=True)
class Document:
    """What a file says: `values`, and the syntax `errors` as (line, sentence).

    With errors, `values` and `text` lack the lines that are wrong, so that mistakes elsewhere can be found too.
    """

    values: dict[str, object]
    errors: tuple[tuple[int, str], ...]
    text: str


def parse(text: str) -> Document:
    """Parse a file; never raises."""
    errors: list[tuple[int, str]] = []
    lines = text.split("\n")
    last = -1
    for _ in range(_MOST_ATTEMPTS):
        try:
            repaired = "\n".join(lines)
            return Document(tomllib.loads(repaired), tuple(errors), repaired)
        except RecursionError:
            errors.append((1, "lists or tables are nested too deeply"))
            break
        except ValueError as error:
            line, sentence = _located(error, repaired)
        start = _statement(lines, line)
        if sentence.startswith("Unclosed"):
            line = start
        if last < 0 or line > last + 1:  # the next line's error often follows from this one's
            errors.append((line, sentence))
        if not "".join(lines[start - 1 : line]).strip():
            break
        lines[start - 1 : line] = [""] * (line - start + 1)
        last = line
    return Document({}, tuple(errors), "")


def _statement(lines: list[str], line: int) -> int:
    """The line at which the statement begins that has an error in that line."""
    for start in range(line, max(line - _LONGEST_STATEMENT, 0), -1):
        with suppress(ValueError, RecursionError):
            tomllib.loads("\n".join(lines[: start - 1]))
            return start
    return line


def lines_of(text: str) -> Lines:
    """The lines of all keys of a valid document; tables count as keys."""
    found: Lines = {}
    scan = _Scan(text)
    elements: dict[str, int] = {}  # the last index of each list of tables
    prefix = ""
    while (token := scan.take()) is not None:
        if token == "\n":
            continue
        line = scan.line
        if token == "[":
            is_list = scan.take_if("[")
            prefix = ""
            parts = scan.key()
            for part in parts[:-1]:
                prefix = _inside(_note(found, prefix, [part], line), elements)
            prefix = _note(found, prefix, parts[-1:], line)
            if is_list:
                elements[prefix] = elements.get(prefix, -1) + 1
            prefix = _inside(prefix, elements)
            found.setdefault(prefix, line)
            scan.skip_to("\n")
        else:
            path = _note(found, prefix, scan.key(token), line)
            _value(scan, path, found)
    return found


def line_of(lines: Lines, path: str) -> int:
    """The line of a key, else of the innermost table or list around it, else 1."""
    path = path.lower()[:_LONGEST_PATH]
    while path and path not in lines:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return lines.get(path, 1)


class _Scan:
    """The tokens of a valid document: texts and bare words, and the marks, including newlines."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._next = next(self._tokens, None)
        self.line = 1

    def take(self) -> str | None:
        """The next token, None at the end; sets `line` to its own."""
        if self._next is None:
            return None
        token, self.line = self._next
        self._next = next(self._tokens, None)
        return token

    def take_if(self, token: str) -> bool:
        """Take the next token if it is that one."""
        is_next = self._next is not None and self._next[0] == token
        if is_next:
            self.take()
        return is_next

    def key(self, first: str | None = None) -> list[str]:
        """The parts of a key, up to its "=" or "]"."""
        parts = []
        token = self.take() if first is None else first
        while token not in ("=", "]", None):
            if token != ".":
                parts.append(next(iter(tomllib.loads(f"{token}=0"))) if token[0] in "\"'" else token)
            token = self.take()
        return parts

    def skip_to(self, *ends: str) -> str | None:
        """Skip to a mark, which is taken and returned; None at the end."""
        while (token := self.take()) is not None and token not in ends:
            pass
        return token


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    line = 1
    for match in _TOKEN.finditer(text):
        if match.lastgroup:
            yield match[0], line
        line += match[0].count("\n")


def _value(scan: _Scan, path: str, found: Lines, first: str | None = None) -> str | None:
    """Note the keys inside of a value (`first`: its first token, if that was taken).

    Returns the mark after it: newline, "," or a closing one.
    """

    def element(number: int, token: str) -> str | None:
        inside = f"{path}[{number}]"[:_LONGEST_PATH]
        found.setdefault(inside, scan.line)
        return _value(scan, inside, found, token)

    def pair(_number: int, token: str) -> str | None:
        line = scan.line
        return _value(scan, _note(found, path, scan.key(token), line), found)

    token = scan.take() if first is None else first
    if token == "[":
        _each(scan, "]", element)
    elif token == "{":
        _each(scan, "}", pair)
    return scan.skip_to("\n", ",", "]", "}")


def _each(scan: _Scan, end: str, read: Callable[[int, str], str | None]) -> None:
    """Call `read` with the number and the first token of everything in a list or table."""
    number, token = 0, scan.take()
    while token not in (end, None):
        if token not in ("\n", ","):
            token = read(number, token)
            number += 1
            if token == end:
                return
        token = scan.take()


def _note(found: Lines, path: str, parts: list[str], line: int) -> str:
    """Note a key, and the tables that it creates; returns its path."""
    for part in parts:
        path = f"{path}.{part.lower()}" if path else part.lower()
        path = path[:_LONGEST_PATH]
        found.setdefault(path, line)
    return path


def _inside(path: str, elements: dict[str, int]) -> str:
    """The path of a table that a header names: in a list of tables, it means the list's last element."""
    return f"{path}[{elements[path]}]"[:_LONGEST_PATH] if path in elements else path


def _located(error: ValueError, text: str) -> tuple[int, str]:
    """The line of a syntax error, and what it says."""
    sentence = str(error)
    place = _PLACE.search(sentence)
    if place is None:  # the limit of the digits of a number, which has no place
        return 1, sentence.partition(":")[0].partition(";")[0]
    last = text.rstrip().count("\n") + 1
    return int(place[1] or last), sentence[: place.start()]
