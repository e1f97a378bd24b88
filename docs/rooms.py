#!/usr/bin/env python3
"""Draw docs/rooms.svg: the packages of slash24 and what they import, read from the sources."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap

sys.path.insert(0, str(Path(__file__).parent.parent))

from cli.drawing import box, line, picture, words

TOP = Path(__file__).parent.parent
WIDTH, MARGIN, GAP, BETWEEN = 960, 10, 10, 44
LETTER = 6.5
"""The width of a small letter, about."""

PURPOSES = {
    "daemon": "makes nodes known to each other, keeps their network true",
    "agent": "serves CNI calls without starting Python for each",
    "policy": "what pods may send and receive, from policies; its rules",
    "nodes": "records, registries, the wanted network of a node",
    "plugins": "one module or package per CNI type",
    "rules": "what slash24 puts into nftables, by feature",
    "ipam": "host-local, static; leases",
    "linux": "the only package that talks to the kernel",
    "state": "files that outlive a call",
    "spec": "the CNI protocol: requests, configurations, results, errors, delegation",
}


def read(room: str) -> Iterator[tuple[str, str]]:
    """(importing package, imported name) of everything that the modules of a room import, wherever they do."""
    for path in sorted((TOP / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((room, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield room, node.module


def needed() -> dict[str, set[str]]:
    """The rooms that each room imports."""
    found: dict[str, set[str]] = {room: set() for room in PURPOSES}
    for room in found:
        found[room] = {name.partition(".")[0] for _, name in read(room)} & found.keys() - {room}
    return found


def below(room: str, rooms: dict[str, set[str]]) -> set[str]:
    """The rooms that a room needs, directly or through others."""
    return rooms[room] | {far for near in rooms[room] for far in below(near, rooms)}


def direct(rooms: dict[str, set[str]]) -> dict[str, set[str]]:
    """The arrows to draw: without those that follow from others."""
    return {
        room: {near for near in others if not any(near in below(other, rooms) for other in others)}
        for room, others in rooms.items()
    }


def level(room: str, rooms: dict[str, set[str]]) -> int:
    """How many floors there are below a room."""
    return max((level(other, rooms) + 1 for other in rooms[room]), default=0)


def floors(rooms: dict[str, set[str]]) -> list[list[str]]:
    """The rooms from top to bottom; those of a floor stand above what they need, as far as possible."""
    by_level: dict[int, list[str]] = {}
    for room in rooms:
        by_level.setdefault(level(room, rooms), []).append(room)
    place: dict[str, float] = {}
    arrows = direct(rooms)
    for number in sorted(by_level):
        floor = by_level[number]
        floor.sort(key=lambda room: (sum(place[other] for other in arrows[room]) / max(len(arrows[room]), 1), room))
        place |= {room: (index + 1) / (len(floor) + 1) for index, room in enumerate(floor)}
    return [by_level[number] for number in sorted(by_level, reverse=True)]


def modules(package: Path) -> list[str]:
    """The modules of a package that are not themselves packages."""
    return sorted(path.stem for path in package.glob("*.py") if not path.stem.startswith("__"))


def packages(package: Path) -> list[Path]:
    """The packages in a package."""
    return sorted(path.parent for path in package.glob("*/__init__.py"))


def everything(package: Path) -> list[str]:
    """The modules of a package, those of packages in it with their folder."""
    inner = [f"{one.name}/{name}" for one in packages(package) for name in everything(one)]
    return [*modules(package), *inner]


def chip(package: Path, x: float, y: float, width: float) -> tuple[list[str], float]:
    """A package within a room, with its modules; and its height."""
    lines = wrap(", ".join(everything(package)), int((width - 20) / LETTER), break_long_words=False)
    height = 36 + 16 * len(lines)
    elements = box(x, y, width, height)
    elements += [words(x + 10, y + 20, f"{package.name}/", "title")]
    elements += [words(x + 10, y + 38 + 16 * number, text, "small") for number, text in enumerate(lines)]
    return elements, height


def room_box(room: str, x: float, y: float, width: float) -> tuple[list[str], float]:
    """A room with all that is in it; and its height."""
    lines = wrap(", ".join(modules(TOP / room)), int((width - 28) / LETTER))
    elements = [words(x + 14, y + 24, f"{room}/", "title")]
    elements += [words(x + 14 + 9 * (len(room) + 2), y + 24, PURPOSES[room], "small")]
    elements += [words(x + 14, y + 46 + 16 * number, text, "small") for number, text in enumerate(lines)]
    bottom = y + 40 + 16 * len(lines)
    inner = packages(TOP / room)
    columns = max(1, min(3, len(inner), int(width // 180)))
    rows = -(-len(inner) // columns)
    for row in [inner[number * len(inner) // rows : (number + 1) * len(inner) // rows] for number in range(rows)]:
        each = (width - 28 - GAP * (len(row) - 1)) / len(row)
        chips = [chip(one, x + 14 + (each + GAP) * index, bottom, each) for index, one in enumerate(row)]
        elements += [element for drawn, _ in chips for element in drawn]
        bottom += max(height for _, height in chips) + GAP
    height = bottom - y + 2
    return [*box(x, y, width, height, kind="frame"), *elements], height


def draw() -> str:
    """The picture as an SVG document."""
    rooms = needed()
    elements, spans, y = [], {}, MARGIN
    for floor in floors(rooms):
        sizes = [max(len(", ".join(everything(TOP / room))), 60) ** 0.5 for room in floor]
        free = WIDTH - 2 * MARGIN - GAP * 2 * (len(floor) - 1)
        x, tallest = MARGIN, 0
        for room, size in zip(floor, sizes, strict=True):
            width = round(free * size / sum(sizes))
            drawn, height = room_box(room, x, y, width)
            elements += drawn
            spans[room] = (x, x + width, y, y + height)
            x += width + 2 * GAP
            tallest = max(tallest, height)
        y += tallest + BETWEEN
    for room, others in direct(rooms).items():
        for other in sorted(others):
            (left, right, _, bottom), (left_, right_, top, _) = spans[room], spans[other]
            from_, to = max(left, left_), min(right, right_)
            start, end = ((from_ + to) / 2,) * 2 if from_ < to else ((left + right) / 2, (left_ + right_) / 2)
            elements.append(line((start, bottom), (end, top - 2), end=True))
    return picture(
        WIDTH, round(y - BETWEEN + MARGIN), "The packages of slash24: each imports only what is below", elements
    )


if __name__ == "__main__":
    (Path(__file__).parent / "rooms.svg").write_text(draw())
