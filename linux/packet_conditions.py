"""Conditions on packets as people write them in a configuration, for nft or for iptables, in nftables' expressions.

Only the forms that SUPPORTED names: to translate any other takes the programs that have the grammar.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from linux.nft_expressions import destination_in, differs, equals, incoming_link, source_in
from linux.pod_address import pod_address

SUPPORTED = (
    "`ip saddr|daddr ADDRESS[/LENGTH]` (`ip6` likewise) and `iifname NAME`, with `!=` before the value to negate; "
    "or iptables' `-s`, `-d` and `-i`, with `!` before them to negate"
)
"""What can be said, for messages."""

_LONGEST_NAME = 15
_IPTABLES = {
    "-s": "saddr",
    "--source": "saddr",
    "--src": "saddr",
    "-d": "daddr",
    "--destination": "daddr",
    "--dst": "daddr",
    "-i": "iifname",
    "--in-interface": "iifname",
}
_FAMILY = {4: "ip", 6: "ip6"}


@dataclass(frozen=True)
class Condition:
    """One thing that must hold, or not (`negated`): `field` is saddr, daddr or iifname.

    `value`: a network in CIDR, or the name of a link, with a * at the end only the begin of one.
    """

    field: str
    value: str
    negated: bool

    @property
    def text(self) -> str:
        """The condition as nft would write it, but for the family."""
        return f"{self.field} {'!= ' if self.negated else ''}{self.value}"

    def expressions(self, version: int) -> list[bytes]:
        """Packets of this IP version, which must be known, for which it holds."""
        compare = differs if self.negated else equals
        if self.field == "iifname":
            name = self.value.encode()
            return [incoming_link(), compare(name[:-1] if name.endswith(b"*") else name.ljust(16, b"\0"))]
        network = pod_address(self.value)
        is_in = {"saddr": source_in, "daddr": destination_in}[self.field]
        parts = is_in(version, network.packed, network.prefix_length)
        return [*parts[:-1], compare(network.packed)]


def parse(words: Sequence[str], version: int) -> tuple[Condition, ...]:
    """The conditions in a list of words, all of which are to hold. Raises ValueError with the words not understood.

    The first word decides which program's language it is, as in the reference: iptables' begins with - or !.
    """
    given = iter([word for text in words for word in text.split()])
    read = _iptables if words and words[0].lstrip()[:1] in ("-", "!") else _nft
    return tuple(read(given, version))


def _iptables(words: Iterator[str], version: int) -> Iterator[Condition]:
    for word in words:
        negated = word == "!"
        option = next(words, "") if negated else word
        value = next(words, "")
        if option not in _IPTABLES:
            raise ValueError(" ".join(filter(None, [word if negated else "", option, value])))
        field = _IPTABLES[option]
        if field == "iifname" and value.endswith("+"):
            value = value[:-1] + "*"
        yield Condition(field, _value(field, value, version), negated)


def _nft(words: Iterator[str], version: int) -> Iterator[Condition]:
    for word in words:
        field = next(words, "") if word == _FAMILY[version] else word
        value = next(words, "")
        operator = value if value in ("!=", "==") else ""
        value = next(words, "") if operator else value
        if field not in (("saddr", "daddr") if word == _FAMILY[version] else ("iifname",)):
            raise ValueError(" ".join(filter(None, [word, field if field != word else "", operator, value])))
        yield Condition(
            field, _value(field, value.strip('"') if field == "iifname" else value, version), operator == "!="
        )


def _value(field: str, value: str, version: int) -> str:
    """The value in the one form it is compared in. Raises ValueError."""
    if field == "iifname":
        name = value.removesuffix("*")
        if not name or len(name.encode()) > _LONGEST_NAME or not name.isprintable() or "/" in name:
            raise ValueError(f"{field} {value}")
        return value
    from netaddr.core import AddrFormatError
    from netaddr.ip import IPNetwork

    try:
        network = IPNetwork(value, version=version)
    except (AddrFormatError, ValueError):
        raise ValueError(f"{field} {value}") from None
    return str(network.cidr)
