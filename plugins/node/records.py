"""Records of nodes: who they are, which subnets are theirs, where they are reached."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from plugins.mac import EXPECTED, normal_mac
from spec import jsontext
from spec.addresses import canonical_cidr, canonical_ip, is_ipv6
from spec.config import Section
from spec.errors import CNIError, Code

NODE_FILE = "/run/slash24/node.json"
PEERS_FILE = "/run/slash24/peers.json"
_NETWORK = 'a network like "10.244.2.0/24", without host bits'
_ADDRESS = 'an address like "192.0.2.2"'


@dataclass(frozen=True)
class Node:
    """A node: `addresses` of its own, `subnets` of its pods (one a family), the MAC of its VTEP ("": computed)."""

    name: str
    addresses: tuple[str, ...]
    subnets: tuple[str, ...]
    vtep_mac: str = ""


@dataclass(frozen=True)
class Subnets:
    """What a subnet file says: the node's subnets, and beside them the cluster's and an MTU (0: none said)."""

    subnets: tuple[str, ...]
    cluster: tuple[str, ...] = ()
    mtu: int = 0


def parse_node(section: Section) -> Node:
    """A record: `name`, `addresses`, `podCIDRs`, `vtepMAC`. Raises CNIError 7."""
    addresses = parse_each(section, "addresses", canonical_ip, _ADDRESS)
    subnets = parse_networks(section, "podCIDRs")
    if not addresses or not subnets:
        raise section.error("podCIDRs" if addresses else "addresses", "a list that is not empty")
    return Node(section.string("name"), addresses, subnets, parse_mac(section, "vtepMAC"))


def parse_mac(section: Section, key: str) -> str:
    """The MAC under `key`, normalised; "" where it is absent. Raises CNIError 7."""
    given = section.string(key)
    if given and not normal_mac(given):
        raise section.error(key, EXPECTED)
    return normal_mac(given)


def parse_networks(section: Section, key: str) -> tuple[str, ...]:
    """The networks under `key`, a list or one string; () where it is absent. Raises CNIError 7."""
    return parse_each(section, key, _network, _NETWORK)


def parse_each(section: Section, key: str, read: Callable[[str], str], expected: str) -> tuple[str, ...]:
    """Each of the strings under `key` as `read` reads it (ValueError: it can not). Raises CNIError 7."""
    raw = section.raw(key)
    found = []
    for text in (raw,) if isinstance(raw, str) else section.strings(key) or ():
        try:
            found.append(read(text))
        except ValueError as error:
            raise CNIError(
                Code.INVALID_NETWORK_CONFIG, f'"{section.path_of(key)}": expected {expected}, got "{text}"'
            ) from error
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
        by_family(found.subnets)
    return found


def read_peers_file(path: str, *, required: bool) -> tuple[Node, ...]:
    """The other nodes as an agent writes them, `{"peers": [...]}`; none if there is no such file, unless `required`.

    Raises CNIError 11.
    """
    if not required and not os.path.exists(path):
        return ()
    text = _read(path, "peers")
    with _telling(path, "peers"):
        value = jsontext.loads(text)
        if not isinstance(value, dict):
            raise ValueError('expected an object with "peers"')
        return parse_peers(Section(value))


def parse_peers(section: Section) -> tuple[Node, ...]:
    """The records under `peers`. Raises CNIError 7."""
    return tuple(parse_node(each) for each in section.sections("peers") or ())


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
    network = canonical_cidr(text)
    if _masked(network) != network:
        raise ValueError("host bits are set")
    return network


def _masked(text: str) -> str:
    from netaddr.ip import IPNetwork

    return str(IPNetwork(canonical_cidr(text)).cidr)


def by_family(networks: tuple[str, ...]) -> dict[bool, str]:
    """One network a family: whether it is IPv6, and the network. Raises ValueError for two of one family."""
    found = {is_ipv6(network): network for network in networks}
    if len(found) != len(networks):
        raise ValueError("one subnet a family")
    return found


@contextmanager
def _telling(path: str, what: str) -> Iterator[None]:
    """What is wrong with a file becomes CNIError 11 with its path: it may be right in a moment."""
    try:
        yield
    except (ValueError, CNIError) as error:
        raise _unreadable(path, what, str(error)) from error


def _read(path: str, what: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise _unreadable(path, what, error.strerror) from error


def _unreadable(path: str, what: str, why: str) -> CNIError:
    return CNIError(Code.TRY_AGAIN_LATER, f'the {what} file "{path}" can not be used: {why}')
