"""Reading the fields of a document, strictly: errors name the field, its value, and what is allowed.

As in Kubernetes, names of fields are case-sensitive, and null is the same as an absent field. Unlike there, unknown
fields are errors: whoever has misspelt `egress` must not get a policy without it.
"""

import re
from collections.abc import Mapping, Sequence

from spec.addresses import parse_cidr
from spec.config import abbreviated

_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_DNS_LABEL = re.compile(_LABEL)
_LONGEST_NAME, _LONGEST_SUBDOMAIN = 63, 253
_PORT_NAME = re.compile(r"(?=.{1,15}$)(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")

PORT_NAME = 'a name of at most 15 lower-case letters, digits and hyphens, such as "http"'


def wrong(path: str, expected: str, value: object) -> ValueError:
    """`"spec.priority": expected an integer of 0 to 1000, got "high"`, or `got nothing` for None."""
    try:
        found = abbreviated(value)
    except (TypeError, ValueError, RecursionError):  # not a value of JSON
        found = f"a {type(value).__name__}"
    return ValueError(f'"{path}": expected {expected}, got {found}')


class Fields:
    """An object in a document. `path`: where it is, such as "spec.ingress[0]". Every method raises ValueError."""

    __slots__ = ("_values", "path")

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, Mapping):
            raise wrong(path, "an object", value)
        self._values, self.path = value, path

    def only(self, *known: str) -> "Fields":
        """Check that there are no other fields; returns itself."""
        for key in self._values:
            if key not in known:
                raise wrong(self.path, f"no other fields than {_listed(known)}", key)
        return self

    def get(self, key: str) -> object:
        """The value, None if there is none."""
        return self._values.get(key)

    def path_of(self, key: str) -> str:
        """Where a field is."""
        return f"{self.path}.{key}"

    def error(self, key: str, expected: str) -> ValueError:
        """The error for the value of a field."""
        return wrong(self.path_of(key), expected, self.get(key))

    def section(self, key: str) -> "Fields":
        """The object in a field, which must be there."""
        return Fields(self.get(key), self.path_of(key))

    def list(self, key: str) -> Sequence[tuple[str, object]]:
        """The entries of a list, each with its path; none if there is no list."""
        value = self.get(key)
        if value is None:
            return ()
        if not isinstance(value, list | tuple):
            raise self.error(key, "a list")
        return [(f"{self.path_of(key)}[{index}]", each) for index, each in enumerate(value)]

    def text(self, key: str, default: str = "", *, choices: Sequence[str] = ()) -> str:
        """A string, one of `choices` if there are any."""
        value = self.get(key)
        if value is None and default:
            return default
        if choices:
            return choice(value, self.path_of(key), choices)
        if value is not None and not isinstance(value, str):
            raise self.error(key, "a string")
        return value or default

    def integer(self, key: str, low: int, high: int) -> int:
        """An integer of `low` to `high`, which must be there."""
        value = self.get(key)
        if type(value) is not int or not low <= value <= high:
            raise self.error(key, f"an integer of {low} to {high}")
        return value

    def one_of(self, *keys: str) -> str:
        """Which one of the fields is there; there must be exactly one, and no other field."""
        self.only(*keys)
        present = [key for key in keys if self.get(key) is not None]
        if len(present) != 1:
            found = _listed(present, " and ") if present else "nothing"
            raise ValueError(f'"{self.path}": expected one of {_listed(keys)}, got {found}')
        return present[0]


def choice(value: object, path: str, choices: Sequence[str]) -> str:
    """One of some words. Raises ValueError."""
    if isinstance(value, str) and value in choices:
        return value
    raise wrong(path, _listed(choices, " or "), value)


def _listed(names: Sequence[str], last: str = ", ") -> str:
    quoted = [f'"{name}"' for name in names]
    return last.join((", ".join(quoted[:-1]), quoted[-1])) if len(quoted) > 1 else "".join(quoted)


def check_label_key(key: object, path: str) -> str:
    """The key of a label. Raises ValueError."""
    if isinstance(key, str):
        prefix, slash, name = key.rpartition("/")
        if _is_name(name) and (not slash or is_subdomain(prefix)):
            return key
    raise wrong(path, 'the key of a label, such as "app" or "example.com/app"', key)


def check_label_value(value: object, path: str) -> str:
    """The value of a label. Raises ValueError."""
    if isinstance(value, str) and (not value or _is_name(value)):
        return value
    raise wrong(path, 'the value of a label: "", or at most 63 letters, digits, "-", "_" and ".", in quotes', value)


def is_subdomain(text: str) -> bool:
    """Whether it can be the name of a pod, node or policy: at most 253 characters, words of lower-case letters."""
    return len(text) <= _LONGEST_SUBDOMAIN and bool(_SUBDOMAIN.fullmatch(text))


def is_namespace(text: str) -> bool:
    """Whether it can be the name of a namespace."""
    return len(text) <= _LONGEST_NAME and bool(_DNS_LABEL.fullmatch(text))


def is_port_name(value: object) -> bool:
    """Whether it can be the name of a port."""
    return isinstance(value, str) and bool(_PORT_NAME.fullmatch(value))


def network(value: object, path: str) -> str:
    """A CIDR, canonical, without host bits. Raises ValueError."""
    try:
        if isinstance(value, str):
            return parse_cidr(value).unmapped.network.cidr
    except ValueError:
        pass
    raise wrong(path, 'a CIDR, such as "10.0.0.0/8" or "fd00::/8"', value)


def _is_name(text: str) -> bool:
    return len(text) <= _LONGEST_NAME and bool(_NAME.fullmatch(text))
