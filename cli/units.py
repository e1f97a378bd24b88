"""Numbers as people read them."""

_SPANS = ((86_400, "d"), (3_600, "h"), (60, "min"))
_SIZES = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
_TENS = 10  # from here on without decimals


def span(seconds: float) -> str:
    """A span of time, in the largest unit of which it has at least one: "40 s", "12 min", "3 h", "5 d"."""
    for unit, name in _SPANS:
        if seconds >= unit:
            return f"{int(seconds // unit)} {name}"
    return f"{max(0, int(seconds))} s"


def size(octets: int) -> str:
    """A number of bytes, with two digits at least: "17 B", "1.2 kB", "35 MB"."""
    for unit, name in _SIZES:
        if octets >= unit:
            return f"{octets / unit:.1f} {name}" if octets < _TENS * unit else f"{octets // unit} {name}"
    return f"{octets} B"
