"""MAC addresses as configurations give them."""

from spec.errors import CNIError, Code
from spec.request import Request

EXPECTED = "a unicast MAC address such as 02:00:5e:10:00:01"
_PAIRS, _DOTTED = r"[0-9a-f]{2}([:-])(?:[0-9a-f]{2}\1){4}[0-9a-f]{2}", r"(?:[0-9a-f]{4}\.){2}[0-9a-f]{4}"


def normal_mac(text: str) -> str:
    """02:00:5e:10:00:01 from any of the forms with :, - and dots; "" if it is no unicast MAC."""
    if not text:
        return ""
    import re

    lower = text.lower()
    if not re.fullmatch(f"{_PAIRS}|{_DOTTED}", lower):
        return ""
    raw = bytes.fromhex(re.sub(r"[^0-9a-f]", "", lower))
    return "" if raw[0] & 1 or not any(raw) else raw.hex(":")


def requested_mac(request: Request) -> str:
    """The container's MAC: of runtimeConfig, else of args.cni, else of CNI_ARGS; normalised; "" if none is given."""
    section = request.conf.section
    for place in (section.section("runtimeConfig"), section.section("args").section("cni")):
        given = place.string("mac", "")
        if given:
            mac = normal_mac(given)
            if not mac:
                raise place.error("mac", EXPECTED)
            return mac
    given = request.args.get("MAC", "")
    if given and not normal_mac(given):
        raise CNIError(Code.INVALID_ENVIRONMENT, f'CNI_ARGS: "MAC": expected {EXPECTED}, got "{given}"')
    return normal_mac(given)
