"""MAC addresses in configurations and CNI_ARGS."""

from collections.abc import Mapping

from spec.config import Section
from spec.errors import CNIError, Code
from spec.request import Request

_EXPECTED = "a unicast MAC address such as 02:00:5e:10:00:01"
_PAIRS, _DOTTED = r"[0-9a-f]{2}([:-])(?:[0-9a-f]{2}\1){4}[0-9a-f]{2}", r"(?:[0-9a-f]{4}\.){2}[0-9a-f]{4}"


def normal_mac(text: str) -> str:
    """The address as "02:00:5e:10:00:01", from any notation with `:`, `-` or dots; "" if it is not a unicast MAC."""
    if not text:
        return ""
    import re

    lower = text.lower()
    if not re.fullmatch(f"{_PAIRS}|{_DOTTED}", lower):
        return ""
    raw = bytes.fromhex(re.sub(r"[^0-9a-f]", "", lower))
    return "" if raw[0] & 1 or not any(raw) else raw.hex(":")


def mac_in(section: Section, key: str = "mac") -> str:
    """The MAC under `key`, normalised; "" if it is absent. Raises CNIError 7."""
    given = section.string(key)
    if given and not normal_mac(given):
        raise section.error(key, _EXPECTED)
    return normal_mac(given)


def mac_in_args(args: Mapping[str, str]) -> str:
    """The MAC in CNI_ARGS, normalised; "" if it is absent. Raises CNIError 4."""
    given = args.get("MAC", "")
    if given and not normal_mac(given):
        raise CNIError(Code.INVALID_ENVIRONMENT, f'CNI_ARGS: "MAC": expected {_EXPECTED}, got "{given}"')
    return normal_mac(given)


def requested_mac(request: Request) -> str:
    """The MAC requested for the pod: by runtimeConfig, else by args.cni, else by CNI_ARGS; "" if none is.

    Raises CNIError 7 or 4.
    """
    section = request.conf.section
    places = (section.section("runtimeConfig"), section.section("args").section("cni"))
    return next(filter(None, map(mac_in, places)), "") or mac_in_args(request.args)
