"""Records of nodes, with their names, addresses and subnets; the subnet file and the peers file."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache

from plugins.mac import mac_in
from spec import jsontext
from spec.addresses import canonical_ip, is_ipv6, parse_cidr
from spec.config import Section, abbreviated, wrong_value
from spec.errors import CNIError, Code
from state.files import read_file

NODE_FILE = "/run/slash24/node.json"
PEERS_FILE = "/run/slash24/peers.json"
_LARGEST = 4 << 20  # bytes of a file: 5,000 nodes of 800 bytes
_NETWORK = 'a network like "10.244.2.0/24", without host bits'
_CACHED = 2  # files, of up to a megabyte each
_ADDRESS = 'an address like "192.0.2.2"'


@dataclass(frozen=True)
class Node:
    """A node: its own `addresses`, its pods' `subnets`, and the MAC of its VTEP ("": derived from the subnets).

    A node that has just joined may have none of them yet. `vni`, `port` of its VTEP, 0 if unknown. `zone`, `cluster`:
    names, "" if unknown. `since`: when its subnets became its own, as a number that grows with time, 0 if unknown; in
    which unit depends on the registry. `place`: the place of its record, such as "peers[3]".
    """

    name: str
    addresses: tuple[str, ...]
    subnets: tuple[str, ...]
    vtep_mac: str = ""
    place: str = field(default="", compare=False)
    vni: int = 0
    port: int = 0
    zone: str = ""
    cluster: str = ""
    since: int = 0

    @property
    def label(self) -> str:
        """A short text for messages: its name, else an address, subnet or place."""
        names = (abbreviated(self.name) if self.name else "", *self.addresses[:1], *self.subnets[:1], self.place)
        return "peer " + next(filter(None, names), "without a name")


@dataclass(frozen=True)
class Records:
    """The valid records of nodes, and a sentence for each invalid one.

    `from_default_file`: whether the default peers file had any. `earlier`: a selection some time ago, which saves work
    for those of the records that are the same objects.
    """

    nodes: tuple[Node, ...] = ()
    left_out: tuple[str, ...] = ()
    from_default_file: bool = False
    earlier: "Peers | None" = field(default=None, compare=False, repr=False)  # noqa: F821


@dataclass(frozen=True)
class Subnets:
    """The content of a subnet file: the node's subnets, the cluster's networks, and an MTU (0: none).

    `problem`: why there are no subnets, if that is known.
    """

    subnets: tuple[str, ...]
    cluster: tuple[str, ...] = ()
    mtu: int = 0
    problem: str = ""


def parse_node(section: Section) -> Node:
    """Read a record: `name`, `addresses`, `podCIDRs`, `vtepMAC`, and what the daemon adds. Raises CNIError 7.

    Absent or empty lists and [null] are accepted: tools write them for nodes without addresses or subnets.
    """
    addresses = parse_each(section, "addresses", canonical_ip, _ADDRESS, sparse=True)
    subnets = parse_each(section, "podCIDRs", _network, _NETWORK, sparse=True)
    return Node(
        section.string("name"),
        addresses,
        subnets,
        mac_in(section, "vtepMAC"),
        section.path,
        vni=section.integer("vni", 0, low=0, high=(1 << 24) - 1),
        port=section.integer("port", 0, low=0, high=65535),
        zone=section.string("zone"),
        cluster=section.string("cluster"),
        since=section.integer("since", 0, low=0, high=(1 << 63) - 1),
    )


def parse_networks(section: Section, key: str) -> tuple[str, ...]:
    """The networks under `key`, a list or a single string; () if absent. Raises CNIError 7."""
    return parse_each(section, key, _network, _NETWORK)


def parse_each(
    section: Section, key: str, read: Callable[[str], str], expected: str, *, sparse: bool = False
) -> tuple[str, ...]:
    """Parse each of the strings under `key` with `read`, which raises ValueError. Raises CNIError 7.

    `sparse`: nulls in the list are skipped.
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
    """Read the subnet file: the node's own record (JSON), or flannel's subnet.env.

    Raises CNIError 11: the file cannot be used, or says why this node gives no addresses.
    """
    text = _read(path, "subnet")
    with _file_errors(path, "subnet"):
        if text.lstrip().startswith(b"{"):
            value = jsontext.loads(text)
            record, problem = Section(value), value.get("problem")
            found = Subnets(
                parse_networks(record, "podCIDRs"),
                parse_networks(record, "clusterCIDRs"),
                record.integer("mtu", 0, low=0, high=65535),
                problem if isinstance(problem, str) else "",
            )
        else:
            found = _parse_environment(text.decode())
        if not found.subnets and not found.problem:
            raise ValueError("it has no subnet")
        check_subnets(found.subnets)
    if not found.subnets:
        raise CNIError(Code.TRY_AGAIN_LATER, found.problem, f'as "{path}" says')
    return found


def read_peers_file(path: str, *, required: bool) -> Records:
    """Read the peers file, `{"peers": [...]}`; no records if it does not exist, unless it is `required`.

    An invalid record does not affect the others. Raises CNIError 11 if the file as a whole is invalid: a part of it, or
    a file without "peers", does not show which nodes have left.
    """
    if not required and not os.path.lexists(path):
        return Records()
    text = _read(path, "peers")
    with _file_errors(path, "peers"):
        return _parse_peers_file(text)


def parse_peers(section: Section) -> tuple[Node, ...]:
    """The records under `peers` of the configuration. Raises CNIError 7."""
    return tuple(parse_node(each) for each in section.sections("peers") or ())


@lru_cache(_CACHED)
def _parse_peers_file(text: bytes) -> Records:
    """Cached, since an agent reads the same file for nearly every pod. Raises ValueError, CNIError."""
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
    """flannel's subnet.env, where FLANNEL_SUBNET is the first *address* of the subnet with its prefix length."""
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
    """Raises ValueError unless there is one subnet per family, with room for a gateway and a pod."""
    if len(set(map(is_ipv6, subnets))) != len(subnets):
        raise ValueError("one subnet per family")
    for subnet in subnets:
        largest = 126 if is_ipv6(subnet) else 30
        if int(subnet.partition("/")[2]) > largest:
            raise ValueError(f"a subnet with room for a gateway and a pod, at most /{largest}")


@contextmanager
def _file_errors(path: str, what: str) -> Iterator[None]:
    """Raise errors in a file's content as CNIError 11 with its path, since the file may be about to change."""
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
    return CNIError(Code.TRY_AGAIN_LATER, f'the {what} file "{path}" cannot be used: {why}')
