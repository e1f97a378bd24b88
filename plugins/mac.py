"""MAC addresses as configurations give them."""

import re

EXPECTED = "a unicast MAC address such as 02:00:5e:10:00:01"
_PAIRS, _DOTTED = r"[0-9a-f]{2}([:-])(?:[0-9a-f]{2}\1){4}[0-9a-f]{2}", r"(?:[0-9a-f]{4}\.){2}[0-9a-f]{4}"


def normal_mac(text: str) -> str:
    """02:00:5e:10:00:01 from any of the forms with :, - and dots; "" if it is no unicast MAC."""
    lower = text.lower()
    if not re.fullmatch(f"{_PAIRS}|{_DOTTED}", lower):
        return ""
    raw = bytes.fromhex(re.sub(r"[^0-9a-f]", "", lower))
    return "" if raw[0] & 1 or not any(raw) else raw.hex(":")
