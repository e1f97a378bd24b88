"""Choosing a node's subnets from the networks of the cluster. Pure.

The choice begins at a place that depends on the node's name, so that nodes which start at once rarely choose the same
subnet, and a node that has lost everything mostly gets its old subnet again. No subnet is skipped, not even the
cluster's first one, whose address is also the cluster network's; exclude it if something else needs that address.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b

from nodes.registry import RegistryError, Wish
from spec.addresses import Address, parse_cidr


def choose(wish: Wish, taken: Iterable[str], name: str) -> tuple[str, ...]:
    """A free subnet of each length that `wish` asks for, as canonical CIDRs; lengths up to 32 are IPv4's.

    `taken`: the subnets of other nodes (CIDRs). One that contains a whole network of the cluster is ignored: it cannot
    be a node's, and must not block all others. `name`: the node's. A preferred subnet that is in the cluster and free
    is kept, whatever its length: a new length is for new nodes. Raises RegistryError if there are none left.
    """
    cluster = [parse_cidr(network).network for network in wish.cluster]
    busy = [parse_cidr(network).network for network in wish.excluded]
    lengths = {4 if length <= 32 else 6: length for length in wish.lengths}
    busy += [each.network for each in map(parse_cidr, taken) if not _contains_a_whole(each.network, cluster, lengths)]
    preferred = [parse_cidr(network).network for network in wish.preferred]
    chosen = []
    for version, length in lengths.items():
        networks = [network for network in cluster if network.version == version]
        usable = [one for one in preferred if _is_free(one, networks, busy)]
        chosen.append(usable[0] if usable else _choose(networks, length, busy, name))
    return tuple(network.cidr for network in chosen)


def _contains_a_whole(taken: Address, cluster: Sequence[Address], lengths: Mapping[int, int]) -> bool:
    """Whether it contains a network of the cluster that has room for several subnets, or more than a network."""
    inside = [network for network in cluster if taken.contains(network)]
    return any(network != taken or network.prefix < lengths.get(network.version, 0) for network in inside)


def _is_free(subnet: Address, networks: Sequence[Address], busy: Sequence[Address]) -> bool:
    return any(network.contains(subnet) for network in networks) and not any(map(subnet.overlaps, busy))


def _choose(networks: Sequence[Address], length: int, busy: Sequence[Address], name: str) -> Address:
    """A free subnet of `length`. Raises RegistryError.

    The subnets of all networks are numbered in one row: the one at the number that the name gives, if it is free, else
    one of those that are free, by the name again.
    """
    wide = [network for network in networks if network.prefix <= length]
    if not wide:
        version = "IPv4" if length <= 32 else "IPv6"
        raise RegistryError(f'no {version} network of "cluster" has room for a /{length}')
    total = sum(1 << (length - network.prefix) for network in wide)
    gaps = list(_gaps(wide, length, busy))
    free = sum(end - start for start, end in gaps)
    if not free:
        where = ", ".join(network.cidr for network in wide)
        raise RegistryError(
            f"the cluster is full: none of the {total} subnets /{length} of {where} is free; "
            'add a network to "cluster", or remove the records of nodes that are gone'
        )
    seed = int.from_bytes(blake2b(name.encode(errors="surrogatepass"), digest_size=16).digest(), "big")
    if any(start <= seed % total < end for start, end in gaps):
        return _at(wide, length, seed % total)
    rank = seed // total % free
    for start, end in gaps:
        if rank < end - start:
            return _at(wide, length, start + rank)
        rank -= end - start
    raise AssertionError("a rank is less than the number of free subnets")


def _gaps(networks: Sequence[Address], length: int, busy: Sequence[Address]) -> Iterator[tuple[int, int]]:
    """The ranges (start, end) of numbers of free subnets, in order."""
    base = 0
    for network in networks:
        shift = network.bits - length
        count = 1 << (length - network.prefix)
        free = 0
        for first, last in sorted((one.first, one.last) for one in busy if one.overlaps(network)):
            start = (max(first, network.first) - network.first) >> shift
            if start > free:
                yield base + free, base + start
            free = max(free, ((min(last, network.last) - network.first) >> shift) + 1)
        if free < count:
            yield base + free, base + count
        base += count


def _at(networks: Sequence[Address], length: int, number: int) -> Address:
    """The subnet with that number."""
    for network in networks:
        count = 1 << (length - network.prefix)
        if number < count:
            return Address(network.version, network.first + (number << (network.bits - length)), length)
        number -= count
    raise AssertionError("a number is less than the total")
