"""Parsing of resolv.conf into the `dns` of a Result."""

from spec.result import DNS


def parse_resolvconf(text: str) -> DNS:
    """Nameservers (one per line), search and options of all lines, and the last domain. Other lines are ignored."""
    nameservers: list[str] = []
    search: list[str] = []
    options: list[str] = []
    domain = ""
    for line in text.splitlines():
        keyword, *values = line.split() or [""]
        if not values or keyword[0] in "#;":
            continue
        if keyword == "nameserver":
            nameservers.append(values[0])
        elif keyword == "domain":
            domain = values[0]
        elif keyword == "search":
            search += values
        elif keyword == "options":
            options += values
    return DNS(tuple(nameservers), domain, tuple(search), tuple(options))
