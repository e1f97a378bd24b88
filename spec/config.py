"""The network configuration on stdin: decoded strictly, read by getters whose errors name key, value and allowance."""

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

_SHOWN = 80
"""Characters of a wrong value that an error repeats."""

VALID_ATTACHMENTS = ("cni.dev/valid-attachments", "cni.dev/attachments")
"""The second is what a draft of 1.1.0 called it; libcni sends both."""

_KEPT, _KEPT_BYTES = 32, 1 << 14
_OF_ONE_CALL = (b'"prevResult"', b'"cni.dev/')
"""What no second call is sent: to keep it would push out what others are."""


class Section:
    """One JSON object of a configuration. Never changes.

    Keys match without regard to case; of several that match, the last in the document wins; null is the same as absent.
    Every getter raises CNIError 7 for a value of another type or out of range. `path` is where the object stands
    in the whole ("" for the whole itself, "ipam.ranges[0][1]").
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
        """Whether the key is there, and not null."""
        return self.raw(key) is not None

    def mentions(self, key: str) -> bool:
        """Whether the key is there, be it null."""
        return key.lower() in self._values

    def names(self) -> Iterator[str]:
        """The keys that are not null, in lower case."""
        return (key for key, value in self._values.items() if value is not None)

    def raw(self, key: str) -> object:
        """The JSON value as it is, or None."""
        return self._values.get(key.lower())

    def boolean(self, key: str, default: bool = False) -> bool:  # noqa: FBT001, FBT002  (a value to read, not a flag)
        """true or false, and nothing that merely looks like it."""
        return self._typed(key, default, bool, "true or false")

    def integer(
        self, key: str, default: int | None = 0, *, low: int | None = None, high: int | None = None
    ) -> int | None:
        """An integer of `low` to `high` (None: no bound); 1500.0, 1e3 and true are none. The default is not checked."""
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
        """A list of strings, or None where it is absent."""
        values = self._typed(key, None, list, "a list of strings")
        if values is None:
            return None
        for index, value in enumerate(values):
            if not isinstance(value, str):
                raise wrong_value(f"{self.path_of(key)}[{index}]", "a string", value)
        return tuple(values)

    def derive(self, read: "Callable[[Section], Derived]") -> "Derived":
        """What `read` makes of this section, made once, as long as it raises nothing.

        An agent is sent the same configuration for nearly every pod (see `read_config`). So `read` may look at nothing
        but the section, and has to be the same function each time. What it makes must never change, nor lead back to
        the section: what is not kept is to be gone with the call.
        """
        if read not in self._derived:
            self._derived[read] = read(self)
        return self._derived[read]

    def section(self, key: str) -> "Section":
        """The object under the key; an empty one where it is absent."""
        if key not in self._derived:
            self._derived[key] = Section(self._typed(key, {}, dict, "an object"), self.path_of(key))
        return self._derived[key]

    def sections(self, key: str) -> "tuple[Section, ...] | None":
        """A list of objects, or None where it is absent."""
        values = self._typed(key, None, list, "a list of objects")
        return None if values is None else _sections(values, self.path_of(key))

    def groups(self, key: str) -> "tuple[tuple[Section, ...], ...] | None":
        """A list of lists of objects (like `ranges`), or None where it is absent."""
        values = self._typed(key, None, list, "a list of lists of objects")
        if values is None:
            return None
        for index, value in enumerate(values):
            if not isinstance(value, list):
                raise wrong_value(f"{self.path_of(key)}[{index}]", "a list of objects", value)
        return tuple(_sections(value, f"{self.path_of(key)}[{index}]") for index, value in enumerate(values))

    def path_of(self, key: str) -> str:
        """The key with the path of this section before it."""
        return f"{self.path}.{key}" if self.path else key

    def error(self, key: str, expected: str) -> CNIError:
        """The error (code 7) for the value under the key, for checks of a plugin's own: `raise section.error(...)`."""
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
    """What every plugin reads of its configuration; a plugin reads its own keys from `section`.

    `cni_version` is "0.1.0" where the configuration states none; `type` and `ipam_type` are "" where absent. `dns` is
    None unless it is there to override what IPAM says. `strict`: whether the verb may fail for its prevResult.
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
        """Read the common keys; prevResult and the attachments are read when they are used. Raises CNIError 6 or 7."""
        return cls(**section.derive(_read_common), section=section, strict=strict)

    @cached_property
    def prev_result(self) -> Result | None:
        """The result of the plugin before, None if there was none. Raises CNIError 7; None instead, unless `strict`."""
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
        """prevResult, for the verbs and plugins that can not do without. Raises CNIError 7 with `message`."""
        if self.prev_result is None:
            raise CNIError(Code.INVALID_NETWORK_CONFIG, message)
        return self.prev_result

    @cached_property
    def valid_attachments(self) -> frozenset[tuple[str, str]] | None:
        """(container id, ifname) of what a GC must leave alone; None: the runtime did not say. Raises CNIError 7.

        null says "none is valid", unlike absence: it is how libcni writes the empty list of a node without pods.
        """
        for key in VALID_ATTACHMENTS:
            if self.section.mentions(key):
                return frozenset(_attachment_key(item) for item in self.section.sections(key) or ())
        return None


def read_config(stdin: bytes) -> tuple[Mapping[str, object], Section]:
    """The JSON object on stdin, which nobody may change, and the section that it is. Raises CNIError 6.

    The last few are kept, and with them what was derived of them, unless they are large, or sure to be for one call.
    """
    if len(stdin) > _KEPT_BYTES or any(key in stdin for key in _OF_ONE_CALL):
        return _read_config(stdin)
    return _kept_config(stdin)


def _read_config(stdin: bytes) -> tuple[Mapping[str, object], Section]:
    document = decode(stdin)
    return document, Section(document)


_kept_config = lru_cache(_KEPT)(_read_config)


def decode(stdin: bytes) -> dict[str, object]:
    """The JSON object on stdin. Raises CNIError 6."""
    try:
        value = jsontext.loads(stdin)
    except ValueError as error:
        raise CNIError(Code.DECODING_FAILURE, f"error unmarshall network config: {error}") from error
    if not isinstance(value, dict):
        reason = f"expected an object, got {shown(value)}"
        raise CNIError(Code.DECODING_FAILURE, f"error unmarshall network config: {reason}")
    return value


def read_name(section: Section) -> str:
    """The network's name. Raises CNIError 6 (no string), 7 (missing, or characters that are not allowed)."""
    name = section.raw("name")
    if name is not None and not isinstance(name, str):
        reason = f'"name": expected a string, got {shown(name)}'
        raise CNIError(Code.DECODING_FAILURE, f"error unmarshall network config: {reason}")
    if not name:
        raise CNIError(Code.INVALID_NETWORK_CONFIG, "missing network name")
    if not is_identifier(name):
        raise CNIError(Code.INVALID_NETWORK_CONFIG, "invalid characters found in network name", name)
    return name


def read_version(section: Section) -> str:
    """The stated version, whether or not it exists. Raises CNIError 6 if it is no string."""
    version = section.raw("cniVersion")
    if version is not None and not isinstance(version, str):
        reason = f'"cniVersion": expected a string, got {shown(version)}'
        raise CNIError(Code.DECODING_FAILURE, f"decoding version from network config: {reason}")
    return version or UNSTATED


def wrong_value(where: str, expected: str, value: object) -> CNIError:
    """`"mtu": expected an integer of 68 to 65535, got "big"`, code 7; a `value` of None reads `got nothing`."""
    return CNIError(Code.INVALID_NETWORK_CONFIG, f'"{where}": expected {expected}, got {shown(value)}')


def absolute_path(section: Section, key: str) -> str:
    """The path under the key, "" where it is absent. Raises CNIError 7 for one that depends on who opens it where.

    An agent has another working directory than the runtime.
    """
    path = section.string(key)
    if path and (path[0] != "/" or "\0" in path):
        raise section.error(key, "an absolute path")
    return path


def require_at_most(section: Section, key: str, most: int, what: str) -> None:
    """Raises CNIError 7 for a list of more than `most` entries, before anything is made of them."""
    value = section.raw(key)
    if isinstance(value, list) and len(value) > most:
        where, found = section.path_of(key), len(value)
        raise CNIError(Code.INVALID_NETWORK_CONFIG, f'"{where}": expected at most {most} {what}, got {found}')


def shown(value: object) -> str:
    """A JSON value for an error message: short, on one line."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "an object" if value else "{}"
    if isinstance(value, list):
        return "a list" if value else "[]"
    if isinstance(value, str) and len(value) > _SHOWN:
        value = value[:_SHOWN] + "…"
    text = json.dumps(value, ensure_ascii=False)
    return text if isinstance(value, str) or len(text) <= _SHOWN else text[:_SHOWN] + "…"


def read_dns(section: Section) -> DNS:
    """Resolver settings; what is absent is empty. Raises CNIError 7."""
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
    # An empty list is an answer ("no nameservers"), an empty object or domain is none: as the reference has it.
    dns = read_dns(section)
    said = dns.domain or any(section.has(key) for key in ("nameservers", "search", "options"))
    return dns if said else None


def _attachment_key(section: Section) -> tuple[str, str]:
    for key in ("containerID", "ifname"):
        if not section.string(key):
            raise section.error(key, "a string that is not empty")
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
