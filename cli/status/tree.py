"""A node as a tree in the terminal."""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text
from rich.tree import Tree

from cli.drawing import clean
from cli.status.picture import (
    Device,
    Event,
    NetworkPicture,
    NodePicture,
    PeerPicture,
    PodPicture,
    leased,
    most_of,
    summary,
    verdict,
)
from cli.units import span

PODS, PEERS, EVENTS = 40, 15, 5
"""Well pods and peers, and events, that are shown; all that are ill are."""
_SMALLER = ((PODS, PEERS, EVENTS), (16, 8, 3), (6, 3, 2), (0, 0, 1))

_ILL, _WELL, _QUIET, _NAME = "bold red", "green", "dim", "bold"
_SEPARATOR = "  "


def tree_of(node: NodePicture, height: int = 0) -> Tree:
    """The tree. `height`: the lines of a screen, so that more is grouped if it does not fit; 0 without one."""
    for limits in _SMALLER:
        tree = _tree(node, *limits)
        if not height or _lines(tree) < height:
            break
    return tree


def _lines(tree: Tree) -> int:
    return 1 + sum(map(_lines, tree.children))


def _tree(node: NodePicture, pods: int, peers: int, events: int) -> Tree:
    is_ill = verdict(node) != "all is well"
    words = Text.assemble((clean(node.name), _NAME), _SEPARATOR, (verdict(node), _ILL if is_ill else _WELL))
    tree = Tree(words.append(f"{_SEPARATOR}{summary(node)}", _QUIET), guide_style="dim", highlight=False)
    _problems(tree, node.problems)
    names = [service.name for service in node.services]
    for service in node.services:
        style = _ILL if service.problems else ""
        name = Text(clean(service.name).ljust(_widest(names)))
        branch = tree.add(name.append(f"{_SEPARATOR}{clean(service.state)}", style).append(_quiet(service.details)))
        _problems(branch, service.problems)
    for network in node.networks:
        _network(tree, network, pods, peers)
    _events(tree, "repaired lately", node.repairs[:events])
    _events(tree, "last errors", node.errors[:events])
    return tree


def _network(tree: Tree, network: NetworkPicture, most_pods: int, most_peers: int) -> None:
    mode = f"{_SEPARATOR}{clean(network.mode)}" if network.mode else ""
    branch = tree.add(Text.assemble("network ", (clean(network.name), _NAME), mode))
    _problems(branch, network.problems)
    for subnet in network.subnets:
        branch.add(Text(f"subnet {clean(subnet.cidr)}{_SEPARATOR}{leased(subnet)}"))
    pods = _device(branch, "bridge", network.bridge) if network.bridge else branch
    _pods(pods, network.pods, most_pods)
    peers = _device(branch, "tunnel", network.vtep) if network.vtep else branch
    _peers(peers, network.peers, most_peers)


def _device(tree: Tree, kind: str, device: Device) -> Tree:
    words = Text(f"{kind} ").append(clean(device.name), _ILL if device.problems else _NAME)
    branch = tree.add(words.append(_quiet(*device.addresses, device.details)))
    _problems(branch, device.problems)
    return branch


def _pods(tree: Tree, pods: Sequence[PodPicture], limit: int) -> None:
    shown, more = most_of(pods, limit)
    rows = [(pod.name, " ".join(pod.addresses), pod.veth) for pod in shown]
    for pod, words in zip(shown, _aligned(rows), strict=True):
        words.stylize(_ILL if pod.problems else "", 0, len(clean(pod.name)))
        _problems(tree.add(words), pod.problems)
    if more:
        tree.add(Text(f"{more} more pods, all well", _QUIET))


def _peers(tree: Tree, peers: Sequence[PeerPicture], limit: int) -> None:
    shown, more = most_of(peers, limit)
    rows = [(peer.name, peer.address, " ".join(peer.subnets), peer.way) for peer in shown]
    for peer, words in zip(shown, _aligned(rows), strict=True):
        words.stylize(_ILL if peer.problems else "", 0, len(clean(peer.name)))
        _problems(tree.add(words), peer.problems)
    if more:
        tree.add(Text(f"{more} more peers, all up", _QUIET))


def _aligned(rows: Sequence[Sequence[str]]) -> list[Text]:
    """The rows, with their columns below each other."""
    cleaned = [[clean(cell) for cell in row] for row in rows]
    widths = [_widest(column) for column in zip(*cleaned, strict=True)]
    lines = [
        [cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)] for row in cleaned
    ]
    return [Text(_SEPARATOR.join(line).rstrip()) for line in lines]


def _widest(texts: Sequence[str]) -> int:
    return max(map(cell_len, texts), default=0)


def _quiet(*details: str) -> Text:
    return Text("".join(f"{_SEPARATOR}{clean(one)}" for one in details if one), _QUIET)


def _problems(tree: Tree, problems: Sequence[str]) -> None:
    for problem in problems:
        tree.add(Text(f"! {clean(problem)}", _ILL))


def _events(tree: Tree, title: str, events: Sequence[Event]) -> None:
    if events:
        branch = tree.add(Text(title))
        for event in events:
            branch.add(Text(f"{span(event.seconds_ago)} ago: ", _QUIET).append(clean(event.text), "none"))
