"""The network configuration on stdin. It is decoded strictly; errors name the key, its value and what is allowed."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from spec import jsontext
from spec.errors import CNIError, Code
from spec.identifiers import is_identifier
from spec.result import DNS, Result
from spec.versions import UNSTATED, family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    Derived = TypeVar("Derived")

_LONGEST_VALUE = 80
"""Characters of an invalid value that an error message repeats."""

VALID_ATTACHMENTS = ("cni.dev/valid-attachments", "cni.dev/attachments")
"""The second name is from a draft of 1.1.0; libcni sends both."""

_CACHED, _CACHED_BYTES = 32, 1 << 14
_UNIQUE = (b'"prevResult"', b'"cni.dev/')
"""Keys whose values differ in every call; caching such configurations would only evict useful ones."""


class Section:
    """One JSON object of a configuration; immutable.

    Keys are case-insensitive; the last of several that match wins; null is the same as absent. Every getter raises
    CNIError 7 for a value of another type or out of range. `path` is the object's place in the configuration, such as
    "ipam.ranges[0][1]", and "" for the whole.
    """

    __slots__ = ("_derived", "_values", "path")

    def __init__(self, raw: Mapping[str, object], path: str = "") -> None:
        self.path = path
        self._derived: dict[object, object] = {}
        self._values: dict[str, object] = {}
        for key, value in raw.items():
            lower = key.lower()
            if value is not None or lower not in self._values:
                self._values[lower] = value

    def has(self, key: str) -> bool:
        """Whether the key is present and not null."""
        return self.raw(key) is not None

    def mentions(self, key: str) -> bool:
        """Whether the key is present, even if null."""
        return key.lower() in self._values

    def names(self) -> Iterator[str]:
        """The keys that are not null, in lower case."""
        return (key for key, value in self._values.items() if value is not None)

    def raw(self, key: str) -> object:
        """The JSON value, unchecked, or None."""
        return self._values.get(key.lower())

    def boolean(self, key: str, default: bool = False) -> bool:  # noqa: FBT001, FBT002  (a value to read, not a flag)
        """true or false; strings and numbers are errors."""
        return self._typed(key, default, bool, "true or false")

    def integer(
        self, key: str, default: int | None = 0, *, low: int | None = None, high: int | None = None
    ) -> int | None:
        """An integer of `low` to `high` (None: unbounded), not 1500.0, 1e3 or true. The default is not checked."""
        value = self.raw(key)
        if value is None:
            return default
        within = type(value) is int and (low is None or low <= value) and (high is None or value <= high)
        if not within:
            raise self.error(key, _integer_bounds(low, high))
        return value

    def string(self, key: str, default: str | None = "", *, choices: Sequence[str] | None = None) -> str | None:
        """A string, one of `choices` if given. The default is not checked."""
        expected = "a string" if choices is None else "one of " + ", ".join(f'"{choice}"' for choice in choices)
        value = self._typed(key, default, str, expected)
        if choices is not None and self.has(key) and value not in choices:
            raise self.error(key, expected)
        return value

    def strings(self, key: str) -> tuple[str, ...] | None:
        """A list of strings, or None if absent."""
        values = self._typed(key, None, list, "a list of strings")
        if values is None:
            return None
        for index, value in enumerate(values):
            if not isinstance(value, str):
                raise wrong_value(f"{self.path_of(key)}[{index}]", "a string", value)
        return tuple(values)

    def derive(self, read: "Callable[[Section], Derived]") -> "Derived":
        """`read(self)`, cached unless it raises.

        An agent gets the same configuration for nearly every pod (see `read_config`). So `read` may depend on nothing
        but the section, and must be the same function in every call. Its result must be immutable, and must not refer
        to the section: what is not cached has to be freed with the call.
        """
        if read not in self._derived:
            self._derived[read] = read(self)
        return self._derived[read]

    def section(self, key: str) -> "Section":
        """The object under the key; an empty one if absent."""
        if key not in self._derived:
            self._derived[key] = Section(self._typed(key, {}, dict, "an object"), self.path_of(key))
        return self._derived[key]

    def sections(self, key: str) -> "tuple[Section, ...] | None":
        """A list of objects, or None if absent."""
        values = self._typed(key, None, list, "a list of objects")
        return None if values is None else _sections(values, self.path_of(key))

    def groups(self, key: str) -> "tuple[tuple[Section, ...], ...] | None":
        """A list of lists of objects, such as `ranges`, or None if absent."""
        values = self._typed(key, None, list, "a list of lists of objects")
        if values is None:
            return None
        for index, value in enumerate(values):
            if not isinstance(value, list):
                raise wrong_value(f"{self.path_of(key)}[{index}]", "a list of objects", value)
        return tuple(_sections(value, f"{self.path_of(key)}[{index}]") for index, value in enumerate(values))

    def path_of(self, key: str) -> str:
        """The key, prefixed with the path of this section."""
        return f"{self.path}.{key}" if self.path else key

    def error(self, key: str, expected: str) -> CNIError:
        """The error (code 7) for the value under the key, for a plugin's own checks: `raise section.error(...)`."""
        return wrong_value(self.path_of(key), expected, self.raw(key))

    def _typed(self, key: str, default: object, kind: type, expected: str) -> object:
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, kind):
            raise self.error(key, expected)
        return value


@dataclass(frozen=True)
class NetConf:
    """The keys that all plugins have in common; a plugin reads its own keys from `section`.

    `cni_version` is "0.1.0" if the configuration has none; `type` and `ipam_type` are "" if absent. `dns` is None
    unless it overrides IPAM's. `strict`: whether the verb may fail because of an invalid prevResult.
    """

    cni_version: str
    name: str
    type: str
    ipam_type: str
    dns: DNS | None
    section: Section
    strict: bool = True

    @classmethod
    def parse(cls, section: Section, *, strict: bool = True) -> "NetConf":
        """Read the common keys; prevResult and the attachments are read on use. Raises CNIError 6 or 7."""
        return cls(**section.derive(_read_common), section=section, strict=strict)

    @cached_property
    def prev_result(self) -> Result | None:
        """The previous plugin's result, None if there is none. If invalid: CNIError 7, or None unless `strict`."""
        try:
            raw = self.section.section("prevResult")
            if not self.section.has("prevResult"):
                return None
            stated = raw.string("cniVersion") or self.cni_version
            if stated not in (versions := family(self.cni_version)):
                supported = " ".join(versions)
                reason = f'result type supports [{supported}] but unmarshalled CNIVersion is "{stated}"'
                raise CNIError(Code.INVALID_NETWORK_CONFIG, f"could not parse prevResult: {reason}")
            return Result.parse(raw, stated)
        except CNIError:
            if self.strict:
                raise
            return None

    def require_prev_result(self, message: str = "Required prevResult missing") -> Result:
        """prevResult, for verbs and plugins that need it. Raises CNIError 7 with `message` if there is none."""
        if self.prev_result is None:
            raise CNIError(Code.INVALID_NETWORK_CONFIG, message)
        return self.prev_result

    @cached_property
    def valid_attachments(self) -> frozenset[tuple[str, str]] | None:
        """(container id, ifname) of the attachments that a GC must keep; None if the key is absent. Raises CNIError 7.

        null means that none is valid: libcni writes the empty list of a node without pods as null.
        """
        for key in VALID_ATTACHMENTS:
            if self.section.mentions(key):
                return frozenset(_attachment_key(item) for item in self.section.sections(key) or ())
        return None


def read_config(stdin: bytes) -> tuple[Mapping[str, object], Section]:
    """The JSON object on stdin, which must not be modified, and its section. Raises CNIError 6.

    The last few configurations are cached together with what was derived from them, except large or unique ones.
    """
    if len(stdin) > _CACHED_BYTES or any(key in stdin for key in _UNIQUE):
        return _read_config(stdin)
    return _cached_config(stdin)


def _read_config(stdin: bytes) -> tuple[Mapping[str, object], Section]:
    document = decode(stdin)
    return document, Section(document)


_cached_config = lru_cache(_CACHED)(_read_config)


def decode(stdin: bytes) -> dict[str, object]:
    """The JSON object on stdin. Raises CNIError 6."""
    try:
        value = jsontext.loads(stdin)
    except ValueError as error:
        raise CNIError(Code.DECODING_FAILURE, f"error unmarshall network config: {error}") from error
    if not isinstance(value, dict):
        reason = f"expected an object, got {abbreviated(value)}"
        raise CNIError(Code.DECODING_FAILURE, f"error unmarshall network config: {reason}")
    return value


def read_name(section: Section) -> str:
    """The network's name. Raises CNIError 6 (not a string) or 7 (missing, or with invalid characters)."""
    name = section.raw("name")
    if name is not None and not isinstance(name, str):
        reason = f'"name": expected a string, got {abbreviated(name)}'
        raise CNIError(Code.DECODING_FAILURE, f"error unmarshall network config: {reason}")
    if not name:
        raise CNIError(Code.INVALID_NETWORK_CONFIG, "missing network name")
    if not is_identifier(name):
        raise CNIError(Code.INVALID_NETWORK_CONFIG, "invalid characters found in network name", name)
    return name


def read_version(section: Section) -> str:
    """The configuration's version, which may not exist. Raises CNIError 6 if it is not a string."""
    version = section.raw("cniVersion")
    if version is not None and not isinstance(version, str):
        reason = f'"cniVersion": expected a string, got {abbreviated(version)}'
        raise CNIError(Code.DECODING_FAILURE, f"decoding version from network config: {reason}")
    return version or UNSTATED


def wrong_value(where: str, expected: str, value: object) -> CNIError:
    """Code 7: `"mtu": expected an integer of 68 to 65535, got "big"`, or `got nothing` for None."""
    return CNIError(Code.INVALID_NETWORK_CONFIG, f'"{where}": expected {expected}, got {abbreviated(value)}')


def absolute_path(section: Section, key: str) -> str:
    """The path under the key, "" if absent. Raises CNIError 7 for a relative one.

    The agent and the runtime have different working directories.
    """
    path = section.string(key)
    if path and (path[0] != "/" or "\0" in path):
        raise section.error(key, "an absolute path")
    return path


def require_at_most(section: Section, key: str, most: int, what: str) -> None:
    """Raises CNIError 7 for a list of more than `most` entries, before any of them is parsed."""
    value = section.raw(key)
    if isinstance(value, list) and len(value) > most:
        where, found = section.path_of(key), len(value)
        raise CNIError(Code.INVALID_NETWORK_CONFIG, f'"{where}": expected at most {most} {what}, got {found}')


def abbreviated(value: object) -> str:
    """A JSON value for an error message, shortened, on one line."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "an object" if value else "{}"
    if isinstance(value, list):
        return "a list" if value else "[]"
    if isinstance(value, str) and len(value) > _LONGEST_VALUE:
        value = value[:_LONGEST_VALUE] + "…"
    text = json.dumps(value, ensure_ascii=False)
    return text if isinstance(value, str) or len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "…"


def read_dns(section: Section) -> DNS:
    """Resolver settings; absent ones are empty. Raises CNIError 7."""
    return DNS(
        nameservers=section.strings("nameservers") or (),
        domain=section.string("domain"),
        search=section.strings("search") or (),
        options=section.strings("options") or (),
    )


def _read_common(section: Section) -> Mapping[str, object]:
    capabilities = section.section("capabilities")
    for key in capabilities.names():
        capabilities.boolean(key)
    return {
        "cni_version": read_version(section),
        "name": read_name(section),
        "type": section.string("type"),
        "ipam_type": section.section("ipam").string("type"),
        "dns": _overriding_dns(section.section("dns")),
    }


def _overriding_dns(section: Section) -> DNS | None:
    # As in the reference plugins, an empty list overrides IPAM's, but an empty object or domain does not.
    dns = read_dns(section)
    overrides = dns.domain or any(section.has(key) for key in ("nameservers", "search", "options"))
    return dns if overrides else None


def _attachment_key(section: Section) -> tuple[str, str]:
    for key in ("containerID", "ifname"):
        if not section.string(key):
            raise section.error(key, "a non-empty string")
    return (section.string("containerID"), section.string("ifname"))


def _sections(values: list[object], path: str) -> tuple[Section, ...]:
    for index, value in enumerate(values):
        if not isinstance(value, dict):
            raise wrong_value(f"{path}[{index}]", "an object", value)
    return tuple(Section(value, f"{path}[{index}]") for index, value in enumerate(values))


def _integer_bounds(low: int | None, high: int | None) -> str:
    if low is not None and high is not None:
        return f"an integer of {low} to {high}"
    if low is not None:
        return f"an integer of at least {low}"
    if high is not None:
        return f"an integer of at most {high}"
    return "an integer"
