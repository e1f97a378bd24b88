"""What `slash24 status` makes of a node: the tree, the drawing and the page, of ordinary and of hostile nodes."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from rich.console import Console

from cli import drawing
from cli.status import svg, tree
from cli.status.page import page_of
from cli.status.picture import NetworkPicture, NodePicture, PodPicture, Subnet, everything_wrong, most_of, verdict
from cli.status.svg import svg_of
from cli.status.tree import tree_of
from tests.pure.cli.pictures import HOSTILE, SAMPLES, crowd, network, node, peer, pod

SVG = "{http://www.w3.org/2000/svg}"
SMALL = node(
    replace(
        network((pod(1), pod(2, "its host veth is down")), (peer(2), peer(13, "its route is missing"))),
        problems=("all addresses of 10.244.1.0/24 are leased",),
    )
)
TREE = """\
node-1  3 problems  1 network · 2 pods · 2 peers, 1 stale
├── agent     runs  pid 812
├── daemon    runs  pid 790
├── registry  connected  kubernetes, 2 records
├── network podnet  vxlan
│   ├── ! all addresses of 10.244.1.0/24 are leased
│   ├── subnet 10.244.1.0/24  2 of 253 addresses leased
│   ├── subnet fd00:10:244:1::/64  2 addresses leased
│   ├── bridge cbr0  10.244.1.1/24  MTU 1450
│   │   ├── namespace-2/application-2-5d78c9869d-15838  10.244.1.3  veth013c6ef3620
│   │   │   └── ! its host veth is down
│   │   └── namespace-1/application-1-5d78c9869d-07919  10.244.1.2  veth0009e3779b1
│   └── tunnel slash24.1  192.0.2.1  VNI 1, UDP port 4789
│       ├── node-13.example  192.0.0.13  10.0.13.0/24  tunnel
│       │   └── ! its route is missing
│       └── node-2.example   192.0.0.2   10.0.2.0/24   tunnel
├── repaired lately
│   ├── 41 s ago: route 10.244.4.0/24 was deleted
│   └── 2 h ago: link cbr0 was set down
└── last errors
    └── 5 min ago: ADD of 0123456789abc by kubenet failed: no free address in 10.244.1.0/24
"""


def printed(shown: NodePicture, *, width: int = 1000, height: int = 0) -> str:
    """The tree, as a pipe gets it, or a screen of that height."""
    console = Console(width=width, highlight=False, color_system=None)
    with console.capture() as capture:
        console.print(tree_of(shown, height))
    return "\n".join(line.rstrip() for line in capture.get().split("\n"))


def texts(shown: NodePicture) -> list[str]:
    """The texts of the drawing."""
    return [element.text for element in ElementTree.fromstring(svg_of(shown)).iter(f"{SVG}text")]


def kinds(shown: NodePicture) -> list[str]:
    """The kinds of its rectangles."""
    return [element.get("class") for element in ElementTree.fromstring(svg_of(shown)).iter(f"{SVG}rect")]


def test_a_small_node_as_a_tree() -> None:
    """The ill first, with what is wrong below each; the columns are aligned."""
    assert printed(SMALL) == TREE.replace("veth013c6ef3620", SMALL.networks[0].pods[1].veth)


def test_what_is_wrong_is_told_with_its_subject() -> None:
    """Each sentence once, as for scripts."""
    assert everything_wrong(SMALL) == [
        "network podnet: all addresses of 10.244.1.0/24 are leased",
        "namespace-2/application-2-5d78c9869d-15838: its host veth is down",
        "node-13.example: its route is missing",
    ]
    assert (verdict(SMALL), verdict(crowd(1, 1))) == ("3 problems", "all is well")


@pytest.mark.parametrize(("pods", "peers"), [(0, 0), (1, 1), (30, 5), (250, 500)])
def test_healthy_crowds_are_grouped(pods: int, peers: int) -> None:
    """In tree and drawing, beyond a limit; below it each is there."""
    shown = crowd(pods, peers)
    for text, limits in ((printed(shown), (tree.PODS, tree.PEERS)), ("\n".join(texts(shown)), (svg.PODS, svg.PEERS))):
        for count, limit, word in ((pods, limits[0], "pods"), (peers, limits[1], "peers")):
            more = re.findall(rf"(\d+) more {word}", text)
            assert more == ([str(count - limit)] if count > limit + 1 else [])
    assert kinds(shown).count("ill") == 0


@pytest.mark.parametrize("height", [100, 50, 30, 24])
def test_a_tree_fits_the_screen(height: int) -> None:
    """By grouping more; what is ill is shown nevertheless."""
    lines = printed(crowd(250, 500, ill=2), height=height).splitlines()
    assert len(lines) < height
    assert sum("! its host veth is down" in line for line in lines) == 2


@pytest.mark.parametrize("name", ["many", "all ill"])
def test_all_that_is_ill_is_shown(name: str) -> None:
    """However much it is."""
    shown = SAMPLES[name]
    lines = printed(shown).splitlines()
    drawn = texts(shown)
    for one in (*shown.networks[0].pods, *shown.networks[0].peers):
        if one.problems:
            assert [line for line in lines if one.name in line]
            assert drawing.fitted(one.name.rpartition("/")[2], svg._CELL - 16) in drawn
    ill = sum(bool(one.problems) for one in (*shown.networks[0].pods, *shown.networks[0].peers))
    assert kinds(shown).count("ill") == ill + 1  # and the list of sentences


def test_the_list_of_sentences_is_bounded() -> None:
    """Its end tells how many there are."""
    assert "• and 80 more: slash24 status --json lists all" in texts(SAMPLES["all ill"])


def test_most_of_a_crowd() -> None:
    """A single one is not grouped: telling so takes as much room."""
    pods = [PodPicture(str(number)) for number in range(5)]
    assert [most_of(pods, limit)[1] for limit in (5, 4, 3, 0)] == [0, 0, 2, 5]
    ill = PodPicture("ill", problems=("x",))
    assert most_of([*pods, ill], 3) == ([ill, *pods[:3]], 2)


@pytest.mark.parametrize("name", SAMPLES)
def test_drawings_are_well_formed(name: str) -> None:
    """As XML, with a title and a role; nothing in them is active, and nothing comes from elsewhere."""
    root = ElementTree.fromstring(svg_of(SAMPLES[name]))
    assert root.findtext(f"{SVG}title") == root.get("aria-label")
    assert verdict(SAMPLES[name]) in root.get("aria-label")
    assert root.get("role") == "img"
    allowed = {"svg", "title", "style", "defs", "marker", "path", "rect", "text"}
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= allowed
    for element in root.iter():
        assert not [key for key in element.keys() if key.startswith("on") or "href" in key]  # noqa: SIM118


def test_hostile_names_are_text() -> None:
    """They neither become elements, nor move the cursor, nor style what a terminal shows."""
    shown = SAMPLES["hostile"]
    page, told = page_of(shown), printed(shown, width=100_000)
    assert "<script" not in page
    assert "<b>" not in page
    for text in (page, told, svg_of(shown)):
        assert not [character for character in text if not character.isprintable() and character != "\n"]
    assert "[red]" in told
    assert "\N{REPLACEMENT CHARACTER}[31m" in told
    assert len(told.splitlines()) == len(printed(replace(shown, name="x"), width=100_000).splitlines())


def test_lists_of_a_page_are_complete() -> None:
    """Of all pods and peers, though the drawing groups them; only a page that is kept true reloads itself."""
    shown = crowd(250, 500, ill=2)
    page = page_of(shown)
    assert page.count("<tr><td>") == 250 + 500
    assert "250 pods of network podnet" in page
    assert "location.reload" not in page
    assert "location.reload" in page_of(shown, reloads=True)


@pytest.mark.parametrize(("used", "kind"), [(0, []), (1, ["used"]), (253, ["wrong"])])
def test_a_full_subnet_is_seen(used: int, kind: list[str]) -> None:
    """By the colour of its meter; an empty one has no bar."""
    shown = node(NetworkPicture("net", "bridge", (Subnet("10.0.0.0/24", used, 253),)))
    assert [one for one in kinds(shown) if one in ("used", "wrong")] == kind


def test_a_network_without_a_bridge_is_drawn() -> None:
    """Its pods are connected with nothing."""
    assert "no pods" in texts(node(NetworkPicture("net")))
    assert "bridge" not in printed(node(NetworkPicture("net", pods=(pod(1),))))


def test_texts_are_fitted() -> None:
    """The ends stay; what is short enough stays whole; lines break between words."""
    assert drawing.fitted("short", 100) == "short"
    cut = drawing.fitted("application-5d78c9869d-abcde", 130)
    assert (cut[:4], cut[-4:], "…" in cut, drawing.width(cut) <= 130) == ("appl", "bcde", True, True)
    assert drawing.fitted("anything", 0) == "…"
    lines = list(drawing.wrapped("one two three four", 60))
    assert (" ".join(lines), len(lines) > 1, all(drawing.width(line) <= 60 for line in lines)) == (
        "one two three four",
        True,
        True,
    )
    assert list(drawing.wrapped(HOSTILE, 50))
    assert list(drawing.wrapped("", 50)) == [""]
