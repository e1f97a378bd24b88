"""Records of nodes: who they are, which subnets are theirs, where they are reached."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache

from plugins.mac import mac_in
from spec import jsontext
from spec.addresses import canonical_ip, is_ipv6, parse_cidr
from spec.config import Section, shown, wrong_value
from spec.errors import CNIError, Code
from state.files import read_file

NODE_FILE = "/run/slash24/node.json"
PEERS_FILE = "/run/slash24/peers.json"
_LARGEST = 4 << 20  # bytes of a file: 5,000 nodes with 800 each
_NETWORK = 'a network like "10.244.2.0/24", without host bits'
_KEPT = 2  # files, of up to a megabyte each
_ADDRESS = 'an address like "192.0.2.2"'


@dataclass(frozen=True)
class Node:
    """A node: `addresses` of its own, `subnets` of its pods, the MAC of its VTEP ("": computed).

    A node that joined a moment ago may have none of them yet. `place`: where its record stands ("peers[3]").
    """

    name: str
    addresses: tuple[str, ...]
    subnets: tuple[str, ...]
    vtep_mac: str = ""
    place: str = field(default="", compare=False)

    @property
    def label(self) -> str:
        """The node for messages, short and on one line: by its name, else by what else it has."""
        names = (shown(self.name) if self.name else "", *self.addresses[:1], *self.subnets[:1], self.place)
        return "peer " + next(filter(None, names), "without a name")


@dataclass(frozen=True)
class Records:
    """The records of other nodes: those that can be read, and a sentence for each that can not.

    `from_default_file`: whether the file that nobody named had any.
    """

    nodes: tuple[Node, ...] = ()
    left_out: tuple[str, ...] = ()
    from_default_file: bool = False


@dataclass(frozen=True)
class Subnets:
    """What a subnet file says: the node's subnets, and beside them the cluster's and an MTU (0: none said)."""

    subnets: tuple[str, ...]
    cluster: tuple[str, ...] = ()
    mtu: int = 0


def parse_node(section: Section) -> Node:
    """A record: `name`, `addresses`, `podCIDRs`, `vtepMAC`. Raises CNIError 7 for what can not be read.

    No error are an absent or empty list, and [null]: so tools write what a node has not been given yet.
    """
    addresses = parse_each(section, "addresses", canonical_ip, _ADDRESS, sparse=True)
    subnets = parse_each(section, "podCIDRs", _network, _NETWORK, sparse=True)
    return Node(section.string("name"), addresses, subnets, mac_in(section, "vtepMAC"), section.path)


def parse_networks(section: Section, key: str) -> tuple[str, ...]:
    """The networks under `key`, a list or one string; () where it is absent. Raises CNIError 7."""
    return parse_each(section, key, _network, _NETWORK)


def parse_each(
    section: Section, key: str, read: Callable[[str], str], expected: str, *, sparse: bool = False
) -> tuple[str, ...]:
    """Each of the strings under `key` as `read` reads it (ValueError: it can not). Raises CNIError 7.

    `sparse`: a null in the list is passed over.
    """
    raw = section.raw(key)
    if sparse and isinstance(raw, list) and None in raw:
        section = Section({key: [value for value in raw if value is not None]}, section.path)
    found = []
    for text in (raw,) if isinstance(raw, str) else section.strings(key) or ():
        try:
            found.append(read(text))
        except ValueError as error:
            raise wrong_value(section.path_of(key), expected, text) from error
    return tuple(found)


def read_subnet_file(path: str) -> Subnets:
    """The node's own record as an agent writes it (JSON), or flannel's subnet.env. Raises CNIError 11."""
    text = _read(path, "subnet")
    with _telling(path, "subnet"):
        if text.lstrip().startswith(b"{"):
            record = Section(jsontext.loads(text))
            found = Subnets(
                parse_networks(record, "podCIDRs"),
                parse_networks(record, "clusterCIDRs"),
                record.integer("mtu", 0, low=0, high=65535),
            )
        else:
            found = _parse_environment(text.decode())
        if not found.subnets:
            raise ValueError("it names no subnet")
        check_subnets(found.subnets)
    return found


def read_peers_file(path: str, *, required: bool) -> Records:
    """The other nodes as an agent writes them, `{"peers": [...]}`; none if there is no such file, unless `required`.

    A record that can not be read takes nothing from the others. Raises CNIError 11 for a file that can not be used as a
    whole: with part of it, or without "peers", nobody knows which nodes have gone.
    """
    if not required and not os.path.lexists(path):
        return Records()
    text = _read(path, "peers")
    with _telling(path, "peers"):
        return _parse_peers_file(text)


def parse_peers(section: Section) -> tuple[Node, ...]:
    """The records under `peers` of the configuration. Raises CNIError 7."""
    return tuple(parse_node(each) for each in section.sections("peers") or ())


@lru_cache(_KEPT)
def _parse_peers_file(text: bytes) -> Records:
    """Kept, because an agent reads the same text for nearly every pod. Raises ValueError, CNIError."""
    value = jsontext.loads(text)
    if not isinstance(value, dict):
        raise ValueError('expected an object with "peers"')
    section = Section(value)
    values = section.raw("peers")
    if not isinstance(values, list):
        raise section.error("peers", "a list of objects")
    nodes, left_out = [], []
    for index, value in enumerate(values):
        place = f"peers[{index}]"
        try:
            if not isinstance(value, dict):
                raise wrong_value(place, "an object", value)
            nodes.append(parse_node(Section(value, place)))
        except CNIError as error:
            left_out.append(error.msg)
    return Records(tuple(nodes), tuple(left_out))


def _parse_environment(text: str) -> Subnets:
    """flannel's subnet.env: FLANNEL_SUBNET is the first *address* of the subnet, with the subnet's prefix length."""
    values = dict(_assignments(text))
    own = [values.get("FLANNEL_SUBNET", ""), values.get("FLANNEL_IPV6_SUBNET", "")]
    cluster = ",".join((values.get("FLANNEL_NETWORK", ""), values.get("FLANNEL_IPV6_NETWORK", "")))
    return Subnets(
        tuple(_masked(each) for each in own if each),
        tuple(_masked(each) for each in cluster.split(",") if each),
        int(values.get("FLANNEL_MTU", "0")),
    )


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals:
            yield key.strip(), value.strip().strip("\"'")


def _network(text: str) -> str:
    network = parse_cidr(text).unmapped
    if network.number != network.first:
        raise ValueError("host bits are set")
    return network.cidr


def _masked(text: str) -> str:
    return parse_cidr(text).unmapped.network.cidr


def check_subnets(subnets: tuple[str, ...]) -> None:
    """Raises ValueError for what can not be the subnets of a node: two of a family, or no room for gateway and pod."""
    if len(set(map(is_ipv6, subnets))) != len(subnets):
        raise ValueError("one subnet a family")
    for subnet in subnets:
        largest = 126 if is_ipv6(subnet) else 30
        if int(subnet.partition("/")[2]) > largest:
            raise ValueError(f"a subnet with room for a gateway and a pod, at most /{largest}")


@contextmanager
def _telling(path: str, what: str) -> Iterator[None]:
    """What is wrong with a file becomes CNIError 11 with its path: it may be right in a moment."""
    try:
        yield
    except (ValueError, CNIError) as error:
        raise _unreadable(path, what, str(error)) from error


def _read(path: str, what: str) -> bytes:
    try:
        return read_file(path, _LARGEST)
    except OSError as error:
        raise _unreadable(path, what, error.strerror) from error


def _unreadable(path: str, what: str, why: str) -> CNIError:
    return CNIError(Code.TRY_AGAIN_LATER, f'the {what} file "{path}" can not be used: {why}')
