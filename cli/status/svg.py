"""A node as a drawing: pods above their bridge, the tunnel below it, and the other nodes below that."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cli.drawing import box, fitted, line, picture, width, words, wrapped
from cli.status.picture import (
    Device,
    Event,
    NetworkPicture,
    NodePicture,
    PeerPicture,
    PodPicture,
    Service,
    Subnet,
    everything_wrong,
    leased,
    most_of,
    summary,
    verdict,
)
from cli.units import span

PODS, PEERS, EVENTS, WRONG = 39, 23, 5, 40
"""Well pods and peers, events, and sentences about what is wrong, that are drawn."""

_WIDTH, _EDGE = 1080, 20
_COLUMNS, _CABLE, _GAP = 4, 18, 10  # the cable of a column is to the left of its cells
_LEFT, _RIGHT = 2 * _EDGE, _WIDTH - 2 * _EDGE
_PITCH = (_RIGHT - _LEFT) / _COLUMNS
_CELL = _PITCH - _CABLE - _GAP / 2
_LINE, _DEVICE, _PAD = 17, 48, 8
_SMALL = 10.8  # the size of small letters, to `fitted`, which reckons with bold ones
_BAR, _AGE = 260, 90


@dataclass(frozen=True)
class Cell:
    """A pod or a peer: a name, and lines about it. `is_cut`: nothing leads to it."""

    name: str
    lines: tuple[str, ...]
    is_ill: bool = False
    is_cut: bool = False


def svg_of(node: NodePicture) -> str:
    """The drawing as an SVG document."""
    elements: list[str] = []
    y = _head(elements, node)
    y = _services(elements, y, node.services)
    y = _sentences(elements, y, everything_wrong(node))
    for network in node.networks:
        y = _network(elements, y, network)
    y = _events(elements, y, "Repaired lately", node.repairs)
    y = _events(elements, y, "Last errors", node.errors)
    title = f"{node.name}: {verdict(node)}; {summary(node)}"
    return picture(_WIDTH, round(y + _EDGE / 2), title, elements)


def _head(elements: list[str], node: NodePicture) -> float:
    name, told = fitted(node.name, _WIDTH / 2, 15), verdict(node)
    is_ill = bool(everything_wrong(node))
    elements.append(words(_EDGE, 34, name, "title"))
    elements.append(words(_EDGE + width(name, 15) + 16, 34, told, "wrong" if is_ill else ""))
    elements.append(words(_WIDTH - _EDGE, 34, summary(node), "small", anchor="end"))
    return 50


def _services(elements: list[str], y: float, services: Sequence[Service]) -> float:
    if not services:
        return y
    room = (_WIDTH - 2 * _EDGE + _GAP) / len(services)
    for number, service in enumerate(services):
        kind = "ill" if service.problems else "box"
        lines = ((service.name, 15), (service.state, _SMALL), (service.details, _SMALL))
        texts = [fitted(text, room - _GAP - 2 * _PAD, size) for text, size in lines]
        elements += box(_EDGE + number * room, y, room - _GAP, 60, *texts, kind=kind)
    return y + 60 + 14


def _sentences(elements: list[str], y: float, wrong: Sequence[str]) -> float:
    if not wrong:
        return y
    room = _WIDTH - 4 * _EDGE
    lines = [text for sentence in wrong[:WRONG] for text in wrapped(f"• {sentence}", room)]
    lines += [f"• and {len(wrong) - WRONG} more: slash24 status --json lists all"] if len(wrong) > WRONG else []
    height = len(lines) * _LINE + 2 * _PAD
    elements.append(_rect("ill", _EDGE, y, _WIDTH - 2 * _EDGE, height))
    elements += [words(_LEFT, y + _PAD + 13 + number * _LINE, text) for number, text in enumerate(lines)]
    return y + height + 14


def _network(elements: list[str], y: float, network: NetworkPicture) -> float:
    top, inner = y, []
    title = fitted(f"network {network.name}", _WIDTH / 2, 15)
    inner.append(words(_LEFT, y + 28, title, "title"))
    if network.mode:
        inner.append(words(_LEFT + width(title, 15) + 14, y + 28, fitted(network.mode, _WIDTH / 4, _SMALL), "small"))
    y += 44
    for subnet in network.subnets:
        y = _subnet(inner, y, subnet)
    pods, more = most_of(network.pods, PODS)
    cells = [_of_pod(pod) for pod in pods]
    cells += [Cell(f"{more} more pods", ("all of them well",))] if more else []
    y = _cells(inner, y + 6, cells, "no pods", below=network.bridge is not None)
    if network.bridge:
        y = _device(inner, y, "bridge", network.bridge, _LEFT, _RIGHT - _LEFT)
    if network.vtep or network.peers or network.mode not in ("", "bridge"):
        y = _others(inner, y, network)
    elements.append(_rect("frame", _EDGE, top, _WIDTH - 2 * _EDGE, y + 6 - top))
    elements += inner
    return y + 22


def _others(elements: list[str], y: float, network: NetworkPicture) -> float:
    """The tunnel, or the routes, and the other nodes."""
    middle, across = _WIDTH / 2, 420
    if network.bridge:
        elements.append(line((middle, y), (middle, y + 26)))
        y += 26
    device = network.vtep or Device("to the other nodes", details="each over the link that it shares with this one")
    y = _device(elements, y, "tunnel" if network.vtep else "routes", device, middle - across / 2, across)
    peers, more = most_of(network.peers, PEERS)
    ways = {peer.way for peer in peers if peer.way}
    cells = [_of_peer(peer, is_mixed=len(ways) > 1) for peer in peers]
    cells += [Cell(f"{more} more peers", ("all of them up",))] if more else []
    if cells:
        columns = [_cable(number) for number in range(min(len(cells), _COLUMNS))]
        elements.append(line((middle, y), (middle, y + 14)))
        elements.append(line((min(columns[0], middle), y + 14), (max(columns[-1], middle), y + 14)))
        return _cells(elements, y + 14, cells, "", above=True)
    return _cells(elements, y, cells, "no peers")


def _of_pod(pod: PodPicture) -> Cell:
    namespace, _, name = pod.name.rpartition("/")
    dot = " · " if namespace and pod.veth else ""
    namespace = fitted(namespace, _CELL - 2 * _PAD - width(dot + pod.veth, _SMALL), _SMALL)
    return Cell(name, (*(pod.addresses or ("no address",)), f"{namespace}{dot}{pod.veth}"), bool(pod.problems))


def _of_peer(peer: PeerPicture, *, is_mixed: bool) -> Cell:
    """`is_mixed`: not all peers are reached in the same way."""
    subnets = " ".join((*peer.subnets, peer.way if is_mixed else ""))
    return Cell(peer.name, (peer.address or "no address", subnets), bool(peer.problems), bool(peer.problems))


def _cable(column: int) -> float:
    return _LEFT + column * _PITCH + _CABLE / 2


def _cells(
    elements: list[str], y: float, cells: Sequence[Cell], nothing: str, *, above: bool = False, below: bool = False
) -> float:
    """A grid of cells; each is connected with what is above or below by the cable of its column."""
    if not cells:
        elements.append(words(_WIDTH / 2, y + 18, nothing, "small", anchor="middle"))
        return y + 34
    height = (1 + max(len(cell.lines) for cell in cells)) * _LINE + 2 * _PAD - 4
    rows = -(-len(cells) // _COLUMNS)
    top, end = y + (_GAP if above else 0), y + (_GAP if above else 0) + rows * (height + _GAP)
    for number, cell in enumerate(cells):
        row, column = divmod(number, _COLUMNS)
        cell_y = top + row * (height + _GAP)
        is_last = number + _COLUMNS >= len(cells)
        if above or below:
            stub = cell_y + height / 2
            if not cell.is_cut:
                elements.append(line((_cable(column), stub), (_cable(column) + _CABLE / 2, stub)))
            if (row == 0 and below) or (is_last and above):
                elements.append(line((_cable(column), y if above else stub), (_cable(column), stub if above else end)))
        elements += _cell(_cable(column) + _CABLE / 2, cell_y, height, cell)
    return end


def _cell(x: float, y: float, height: float, cell: Cell) -> list[str]:
    room = _CELL - 2 * _PAD
    drawn = [_rect("ill" if cell.is_ill else "ours", x, y, _CELL, height)]
    drawn.append(words(x + _PAD, y + _PAD + 11, fitted(cell.name, room), "strong"))
    for number, text in enumerate(cell.lines, 1):
        drawn.append(words(x + _PAD, y + _PAD + 11 + number * _LINE, fitted(text, room, _SMALL), "small"))
    return drawn


def _device(elements: list[str], y: float, kind: str, device: Device, x: float, across: float) -> float:
    about = " · ".join(filter(None, (*device.addresses, device.details)))
    name, about = fitted(f"{kind} {device.name}", across - 2 * _PAD, 15), fitted(about, across - 2 * _PAD, _SMALL)
    elements += box(x, y, across, _DEVICE, name, about, kind="ill" if device.problems else "box")
    return y + _DEVICE


def _subnet(elements: list[str], y: float, subnet: Subnet) -> float:
    """A meter, if the subnet can be full."""
    elements.append(words(_LEFT, y + 13, fitted(subnet.cidr, 280)))
    x = _LEFT + 300
    if subnet.size:
        elements.append(_rect("meter", x, y + 3, _BAR, 11))
        share = min(subnet.used / subnet.size, 1)
        if share:
            elements.append(_rect("wrong" if share == 1 else "used", x, y + 3, max(share * _BAR, 6), 11))
        x += _BAR + 14
    elements.append(words(x, y + 13, leased(subnet), "small"))
    return y + 22


def _events(elements: list[str], y: float, title: str, events: Iterable[Event]) -> float:
    shown = list(events)[:EVENTS]
    if not shown:
        return y
    elements.append(words(_EDGE, y + 14, title, "strong"))
    y += 14
    for event in shown:
        elements.append(words(_EDGE, y + _LINE, f"{span(event.seconds_ago)} ago", "small"))
        for text in wrapped(event.text, _WIDTH - 2 * _EDGE - _AGE):
            y += _LINE
            elements.append(words(_EDGE + _AGE, y, text))
    return y + 18


def _rect(kind: str, x: float, y: float, across: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{across:g}" height="{height:g}" rx="5"/>'
