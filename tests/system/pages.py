"""The commands in pages of the documentation, run on nodes of a test."""

import re

from tests.conftest import ROOT
from tests.netns.cni import PATH
from tests.system.underlay import Member

FOLDERS = {"/etc/cni/net.d": "/run/cni/net.d", "/etc/slash24": "/run/etc", "/opt/cni/bin": "/run/bin"}
"""Where the commands of a page write, and where they do in these tests: a node's /run is its own."""


def commands(page: str, heading: str, number: int = 0) -> str:
    """The shell commands in one block under a heading of a page, in the folders of these tests."""
    text = (ROOT / "docs" / page).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return in_test_folders(re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[number])


def in_test_folders(text: str) -> str:
    """The text with the documented folders replaced by those of these tests."""
    for theirs, ours in FOLDERS.items():
        text = text.replace(theirs, ours)
    return text


def follow(member: Member, page: str, heading: str, number: int = 0, *, name: str = "kubenet") -> str:
    """Run the commands under a heading of a page on the node, none of which may fail; return what they print."""
    script = f"set -eu\ncd {ROOT}\nmkdir -p /run/cni/net.d /run/etc\n{commands(page, heading, number)}"
    script = script.replace("name=kubenet", f"name={name}")
    return member.node.run(["bash", "-c", script], env={"PATH": PATH}).stdout
