"""For tests of nftables: production code called inside a node, and the result as `nft` lists it."""

import os
import re
import traceback
from collections.abc import Callable, Sequence

from tests.netns.node import Host, Node


def on(host: Host, function: Callable, *args: object, **kwargs: object) -> object:
    """Call `function` with this thread in the network namespace of `host`; return its result."""
    with host.inside():
        return function(*args, **kwargs)


def at_once(host: Host, calls: Sequence[Callable[[], object]]) -> int:
    """Make the calls concurrently, each in a separate process inside `host`; return how many failed."""
    ready_read, ready_write = os.pipe()
    go_read, go_write = os.pipe()
    children = []
    for call in calls:
        pid = os.fork()
        if pid == 0:
            try:
                os.close(go_write)
                with host.inside():
                    os.write(ready_write, b".")
                    os.read(go_read, 1)  # returns at end of file, when the parent closes the pipe
                    call()
                os._exit(0)
            finally:
                traceback.print_exc()
                os._exit(1)
        children.append(pid)
    waiting = len(children)
    while waiting:
        waiting -= len(os.read(ready_read, waiting))
    os.close(go_write)
    failed = sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0 for pid in children)
    for fd in (ready_read, ready_write, go_read):
        os.close(fd)
    return failed


def nft(node: Node, *words: str, stdin: str = "") -> str:
    """The output of `nft WORDS` on the node."""
    return node.run(["nft", *words], stdin=stdin).stdout


def table(node: Node, name: str) -> str:
    """A table of the node as `nft list table` prints it, with elements on one line: releases wrap differently."""
    return re.sub(r",\n\s+", ", ", nft(node, "list", "table", *name.split()))


def chain(text: str, name: str) -> list[str]:
    """The rules of a chain in the text of a table, without its hook line; [] if there is no such chain."""
    found = re.search(rf"\tchain {re.escape(name)} \{{\n(.*?)\t\}}", text, re.DOTALL)
    return [line.strip() for line in found[1].splitlines() if "hook" not in line] if found else []
