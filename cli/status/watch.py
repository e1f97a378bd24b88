"""Writes the drawings, and keeps what is shown true: at every change in the kernel, and every two seconds."""

import os
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

from cli.exits import Failure
from cli.output import console
from cli.status.page import SECONDS, page_of
from cli.status.picture import NodePicture
from cli.status.svg import svg_of
from linux.rtnl.announcements import Announcements

if TYPE_CHECKING:
    from cli.status.read import Reader

_PAUSE = 0.3  # seconds in which changes gather, so that a busy node is not read all the time


def write(node: NodePicture, files: Mapping[str, str], *, reloads: bool = False) -> None:
    """Replace the files, by their kind ("svg", "html"); "" is none. Raises Failure."""
    draw = {"svg": svg_of, "html": lambda node: page_of(node, reloads=reloads)}
    for kind, path in files.items():
        if not path:
            continue
        text, temporary = draw[kind](node), f"{path}.new"
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(temporary, path)
        except OSError as error:
            raise Failure(f"cannot write {path}: {error.strerror or error}") from error


def keep_true(reader: "Reader", files: Mapping[str, str]) -> None:
    """Show the node in the terminal, or write the files, until Ctrl-C. Raises Failure."""
    announcements = Announcements()
    with suppress(KeyboardInterrupt), nullcontext() if any(files.values()) else _live() as live:
        while True:
            node = reader.read()
            write(node, files, reloads=True)
            if live:
                _show(live, node)
            if announcements.wait(SECONDS):
                time.sleep(_PAUSE)


def _live() -> "Live":  # noqa: F821
    from rich.live import Live

    return Live(console=console(), screen=console().is_terminal, auto_refresh=False)


def _show(live: "Live", node: NodePicture) -> None:  # noqa: F821
    from cli.status.tree import tree_of

    live.update(tree_of(node, console().height), refresh=True)
