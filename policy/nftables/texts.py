"""Comments that nft can print and read again."""

_LONGEST = 127  # bytes


def comment(text: str) -> str:
    """A text as a comment: without quotes and control characters, and shortened to what nft takes."""
    plain = "".join("_" if one == '"' or not one.isprintable() else one for one in text)
    if len(plain.encode("utf-8", "replace")) <= _LONGEST:
        return plain.encode("utf-8", "replace").decode()
    return plain.encode("utf-8", "replace")[: _LONGEST - 2].decode("utf-8", "ignore") + ".."
