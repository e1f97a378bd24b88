"""Address ranges: parsing and checking the configuration, and iterating over the addresses. Pure code."""

from _socket import AF_INET, inet_ntop
from bisect import bisect, bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from struct import Struct

from spec.addresses import Address, parse_cidr, parse_ip, text_of, why_no_gateway
from spec.config import Section, require_at_most
from spec.errors import CNIError, Code

_MOST_SETS, _MOST_RANGES = 256, 4096


@dataclass(frozen=True)
class Range:
    """The addresses `first` to `last` (inclusive) of a subnet, as numbers of IP `version` 4 or 6.

    `prefix` is the prefix length of the subnet. `gateway` is -1 without one. `gateways`: the sorted gateways of all
    ranges of the network that are in this range; they are not assigned.
    """

    version: int
    prefix: int
    first: int
    last: int
    gateway: int
    gateways: tuple[int, ...] = ()

    def contains(self, address: Address) -> bool:
        """Whether the address is in the range. Gateways may be."""
        return address.version == self.version and self.first <= address.number <= self.last

    def __str__(self) -> str:
        return f"{text_of(self.version, self.first)}-{text_of(self.version, self.last)}"


@dataclass(frozen=True)
class RangeSet:
    """Ranges of one IP version that do not overlap. An attachment gets one address from each set."""

    ranges: tuple[Range, ...]

    @property
    def version(self) -> int:
        """The IP version of the ranges: 4 or 6."""
        return self.ranges[0].version

    def find(self, address: Address) -> Range | None:
        """The range that contains the address."""
        return next((each for each in self.ranges if each.contains(address)), None)

    def candidates(self, last_reserved: Address | None) -> Iterator[tuple[Range, Iterator[str]]]:
        """Each address of the set except gateways, with its range, in the order in which they are tried.

        Round robin, as in the reference: it starts after the last address assigned, so a released address is reused as
        late as possible. It starts at the first address if the last one is unknown or not in this set.
        """
        current = self.find(last_reserved) if last_reserved else None
        if current is None:
            spans = [(each, each.first, each.last) for each in self.ranges]
        else:
            at = self.ranges.index(current)
            spans = [(current, last_reserved.number + 1, current.last)]
            spans += [(each, each.first, each.last) for each in self.ranges[at + 1 :] + self.ranges[:at]]
            spans += [(current, current.first, last_reserved.number)]
        for each, first, last in spans:
            for gateway in each.gateways:
                if first <= gateway <= last:
                    yield each, _texts(each.version, first, gateway - 1)
                    first = gateway + 1  # noqa: PLW2901  (the rest of the span)
            yield each, _texts(each.version, first, last)

    def __str__(self) -> str:
        return ",".join(str(each) for each in self.ranges)


def membership(range_sets: Iterable[RangeSet]) -> Callable[[Address], bool]:
    """A function that returns whether an address is in one of the sets; its cost hardly grows with their number."""
    spans = sorted((each.version, each.first, each.last) for one in range_sets for each in one.ranges)

    def is_member(address: Address) -> bool:
        # Ranges do not overlap, so only the last one that begins at or before the address can contain it.
        at = bisect(spans, (address.version, address.number + 1)) - 1
        return at >= 0 and spans[at][0] == address.version and address.number <= spans[at][2]

    return is_member


def parse_range_sets(config: Section, *, one_per_family: bool, needs_gateway: bool = False) -> tuple[RangeSet, ...]:
    """The range sets of a network configuration, in the order in which an attachment gets addresses from them.

    First `runtimeConfig.ipRanges`, then the single range written directly into `ipam` (if it has a `subnet`), then
    `ipam.ranges`. `one_per_family`: at most one set per IP version, as results before CNI 0.3.0 hold no more.
    `needs_gateway`: every range must have a gateway. Raises CNIError 7.
    """
    ipam = config.section("ipam")
    for section, key in ((config.section("runtimeConfig"), "ipRanges"), (ipam, "ranges")):
        _require_few(section, key)
    groups = list(config.section("runtimeConfig").groups("ipRanges") or ())
    groups += [(ipam,)] if ipam.has("subnet") else []
    groups += ipam.groups("ranges") or ()
    if not groups:
        where = ipam.path_of("ranges")
        raise _invalid(f'no IP ranges specified: "{where}": expected a list of lists of ranges, or "subnet" beside it')
    sets = tuple(_parse_set(number, group, needs_gateway=needs_gateway) for number, group in enumerate(groups))
    overlap = _overlap([(each, number) for number, one in enumerate(sets) for each in one.ranges])
    if overlap:
        i, j = overlap
        raise _invalid(f"range set {i} overlaps with {j}: {sets[i]} and {sets[j]}")
    families = [each.version for each in sets]
    if one_per_family and len(families) != len(set(families)):
        stated = config.string("cniVersion") or "0.1.0"
        raise _invalid(f"CNI version {stated} does not support more than 1 address per family")
    return _with_gateways(sets)


def _with_gateways(sets: Sequence[RangeSet]) -> tuple[RangeSet, ...]:
    """The sets with the `gateways` of each range filled in: no pod gets a gateway, not even that of another range."""
    known = sorted({(each.version, each.gateway) for one in sets for each in one.ranges})

    def with_gateways(each: Range) -> Range:
        low, high = bisect_left(known, (each.version, each.first)), bisect(known, (each.version, each.last))
        return replace(each, gateways=tuple(gateway for _, gateway in known[low:high]))

    return tuple(RangeSet(tuple(map(with_gateways, one.ranges))) for one in sets)


def _parse_set(number: int, group: Sequence[Section], *, needs_gateway: bool) -> RangeSet:
    try:
        if not group:
            raise _invalid("empty range set")
        ranges = tuple(parse_range(section, needs_gateway=needs_gateway) for section in group)
        if len({each.version for each in ranges}) > 1:
            raise _invalid("mixed address families")
        overlap = _overlap([(each, place) for place, each in enumerate(ranges)])
        if overlap:
            raise _invalid(f"subnets {ranges[overlap[0]]} and {ranges[overlap[1]]} overlap")
    except CNIError as error:
        raise CNIError(error.code, f"invalid range set {number}: {error.msg}") from error
    return RangeSet(ranges)


def parse_range(section: Section, *, needs_gateway: bool = False) -> Range:
    """Parse an object with `subnet` and optionally `rangeStart`, `rangeEnd` and `gateway`. Raises CNIError 7.

    By default, the gateway is the first address of the subnet, and the range ends before the IPv4 broadcast address.
    The gateway may be outside the subnet, as on point-to-point links, but must be of the same IP version. All addresses
    of a subnet of one or two (RFC 3021, RFC 6164) are for pods; it has no gateway unless one is configured.
    """
    subnet = _parse_subnet(section)
    is_small = subnet.prefix > subnet.bits - 2
    broadcast = 1 if subnet.version == 4 and not is_small else 0
    start, end, gateway = (_parse_member(section, key, subnet) for key in ("rangeStart", "rangeEnd", "gateway"))
    for key, phrase, number in (("rangeStart", "RangeStart", start), ("rangeEnd", "RangeEnd", end)):
        low = start if key == "rangeEnd" and start is not None else subnet.first
        high = end if key == "rangeStart" and end is not None else subnet.last
        if number is not None and not low <= number <= high:
            text = text_of(subnet.version, number)
            allowed = f"an address of {text_of(subnet.version, low)} to {text_of(subnet.version, high)}"
            raise _wrong(section, key, f"{phrase} {text} not in network {subnet.cidr}", allowed)
    default = -1 if is_small else subnet.first + 1
    first = max(subnet.first, default) if start is None else start
    last = subnet.last - broadcast if end is None else end
    if first > last:
        end_text = text_of(subnet.version, last)
        raise _wrong(section, "rangeStart", f"RangeStart is after the end {end_text}", f"an address up to {end_text}")
    if gateway is not None:
        _check_gateway(section, subnet, gateway)
    elif is_small and needs_gateway:
        allowed = f'a prefix of at most /{subnet.bits - 2}, or a "gateway" beside it, because the network needs one'
        raise _wrong(section, "subnet", f"Network {subnet.cidr} too small to allocate from", allowed)
    gateway = default if gateway is None else gateway
    if is_small and first == last == gateway:
        allowed = "a subnet with an address besides that of the gateway"
        raise _wrong(section, "subnet", f"Network {subnet.cidr} too small to allocate from", allowed)
    return Range(subnet.version, subnet.prefix, first, last, gateway)


def _parse_subnet(section: Section) -> Address:
    expected = 'a network like "10.1.2.0/24"'
    text = section.string("subnet", None)
    if text is None:
        raise _wrong(section, "subnet", "IP <nil> not v4 nor v6", expected)
    try:
        subnet = parse_cidr(text)
    except ValueError as error:
        raise _wrong(section, "subnet", str(error), expected) from error
    if subnet.version == 6 and subnet.number >> 32 == 0xFFFF:
        raise _wrong(section, "subnet", "IPNet IP and Mask version mismatch", expected)
    if subnet.number != subnet.first:
        network = text_of(subnet.version, subnet.first)
        phrase = f"For a subnet mask of length {subnet.prefix} the network address is {network}"
        raise _wrong(section, "subnet", f"Network has host bits set. {phrase}", f'"{network}/{subnet.prefix}"')
    return subnet


def _parse_member(section: Section, key: str, subnet: Address) -> int | None:
    text = section.string(key)
    if not text:
        return None
    version = subnet.version
    expected = f"an IPv{version} address, as the subnet {subnet.cidr} is"
    try:
        address = parse_ip(text)
    except ValueError as error:
        raise _wrong(section, key, str(error), expected) from error
    if address.version != version:
        raise _wrong(section, key, f"{key[0].upper()}{key[1:]} {text} not in network {subnet.cidr}", expected)
    return address.number


def _check_gateway(section: Section, subnet: Address, gateway: int) -> None:
    text = text_of(subnet.version, gateway)
    why = why_no_gateway(text, subnet.cidr)
    if why:
        raise _wrong(section, "gateway", f"Gateway {text} is {why}", "an address that a router can have")


def _overlap(ranges: Iterable[tuple[Range, int]]) -> tuple[int, int] | None:
    """The numbers of two ranges that overlap, the smaller first."""
    furthest: tuple[Range, int] | None = None
    for each, number in sorted(ranges, key=lambda entry: (entry[0].version, entry[0].first)):
        if furthest and furthest[0].version == each.version and each.first <= furthest[0].last:
            return min(number, furthest[1]), max(number, furthest[1])
        furthest = (each, number)
    return None


def _require_few(section: Section, key: str) -> None:
    """Raises CNIError 7 for more range sets or ranges than one call may have, before they are parsed."""
    require_at_most(section, key, _MOST_SETS, "range sets")
    groups = section.raw(key)
    count = sum(len(group) for group in groups if isinstance(group, list)) if isinstance(groups, list) else 0
    if count > _MOST_RANGES:
        raise _invalid(f'"{section.path_of(key)}": expected at most {_MOST_RANGES} ranges in all, got {count}')


def _wrong(section: Section, key: str, phrase: str, expected: str) -> CNIError:
    """The message of the reference, which tools match, followed by the key, its value and what is allowed."""
    return _invalid(f"{phrase} ({section.error(key, expected).msg})")


def _invalid(text: str) -> CNIError:
    return CNIError(Code.INVALID_NETWORK_CONFIG, text)


def _texts(version: int, first: int, last: int) -> Iterator[str]:
    """The texts of the addresses `first` to `last` (inclusive)."""
    numbers = range(first, last + 1)
    if version == 6:
        return (text_of(6, number) for number in numbers)
    # Iterates without Python code: a full /16 has 65,000 addresses to try.
    return map(inet_ntop, repeat(AF_INET), map(Struct(">I").pack, numbers))
