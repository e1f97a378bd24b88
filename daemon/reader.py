"""Reading sections of a configuration so that all mistakes are found at once, and keys that nothing reads."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches

from spec.config import Section
from spec.errors import CNIError

_LONGEST_HINTED = 60  # characters of a key for which a similar one is looked up
_QUOTED = re.compile(r'"([^"]*)"')


class Reader(Section):
    """A section that remembers the keys that were asked for, here and in the sections inside of it."""

    __slots__ = ("_asked", "_given", "_inner")

    def __init__(self, raw: Mapping[str, object], path: str = "") -> None:
        super().__init__(raw, path)
        self._asked: dict[str, str] = {}  # by their lower case
        self._given = {key.lower(): key for key in raw}
        self._inner: dict[str, tuple[Reader, ...]] = {}

    def raw(self, key: str) -> object:
        """As in Section."""
        self._asked.setdefault(key.lower(), key)
        return super().raw(key)

    def mentions(self, key: str) -> bool:
        """As in Section."""
        self._asked.setdefault(key.lower(), key)
        return super().mentions(key)

    def section(self, key: str) -> "Reader":
        """As in Section."""
        if key not in self._inner:
            self._inner[key] = (Reader(self._typed(key, {}, dict, "a table"), self.path_of(key)),)
        return self._inner[key][0]

    def sections(self, key: str) -> "tuple[Reader, ...] | None":
        """As in Section."""
        plain = super().sections(key)
        if plain is None:
            return None
        if key not in self._inner:
            pairs = zip(self.raw(key), plain, strict=True)
            self._inner[key] = tuple(Reader(value, section.path) for value, section in pairs)
        return self._inner[key]

    def unknown(self) -> Iterator[tuple[str, str]]:
        """(path, sentence) of each key that was not asked for; with a similar one that was, if there is any."""
        for name, given in self._given.items():
            if name not in self._asked:
                yield self.path_of(given), f"is not a known key{_hint(name, self._asked)}"
        for inner in self._inner.values():
            for section in inner:
                yield from section.unknown()


class Mistakes:
    """The mistakes that were found in a configuration, as (path, sentence)."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], None] = {}

    @property
    def found(self) -> list[tuple[str, str]]:
        """All of them, each once."""
        return list(self._found)

    def add(self, path: str, sentence: str) -> None:
        """Note a mistake at the key with that path."""
        self._found[path, sentence] = None

    def note(self, error: CNIError, within: str = "") -> str:
        """Note an error of a getter; returns the path of its key. `within`: the path of the section, if it has none."""
        sentence = str(error)
        path = sentence[1:].partition('"')[0] if sentence.startswith('"') else ""
        self.add(".".join(filter(None, (within, path))), sentence)
        return path

    def read(self, get: Callable[[], object], otherwise: object) -> object:
        """What `get` returns; if it raises CNIError, that is noted, and `otherwise` returned."""
        try:
            return get()
        except CNIError as error:
            self.note(error)
            return otherwise

    def all_of(self, values: Mapping[str, object], parse: Callable[[Reader], object], within: str) -> Reader | None:
        """Note every error of a parser that stops at the first: parse again without the key that was wrong.

        `values`: the section; `within`: its path, which the parser does not know. Returns the section that was parsed
        to the end, and so was asked for all keys; None if the parser stopped at something else than a key.
        """
        while True:
            reader = Reader(values)
            try:
                parse(reader)
                return reader
            except CNIError as error:
                path = self.note(error, within)
                blamed = [path] if path else _QUOTED.findall(f"{error.msg} {error.details}")
            rest = values
            for each in blamed:
                rest = _without(rest, each.lower().partition("[")[0].split("."))
            if rest is values:
                return None
            values = rest


def _without(values: Mapping[str, object], path: Sequence[str]) -> Mapping[str, object]:
    """The section without the key with that path, in lower case; the section itself if it does not have it."""
    key = next((key for key in values if key.lower() == path[0]), None)
    if key is None:
        return values
    inside = values[key]
    if len(path) > 1 and isinstance(inside, Mapping):
        rest = _without(inside, path[1:])
        return values if rest is inside else {**values, key: rest}
    return {other: value for other, value in values.items() if other != key}


def _hint(name: str, known: Mapping[str, str]) -> str:
    if len(name) <= _LONGEST_HINTED:
        with suppress(IndexError):
            return f'; did you mean "{known[get_close_matches(name, known, 1)[0]]}"?'
    return ""
