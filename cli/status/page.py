"""A node as an HTML page: the drawing, and below it lists of everything, also of what the drawing groups."""

from collections.abc import Iterable, Sequence
from html import escape

from cli.drawing import clean
from cli.status.picture import NetworkPicture, NodePicture, everything_wrong, verdict
from cli.status.svg import svg_of

SECONDS = 2
"""How often a page that is kept true reloads itself, except while a list is open."""

_STYLE = """
  :root { color-scheme: light dark; }
  body { margin: 1rem auto; max-width: 1120px; padding: 0 1rem; font: 14px system-ui, sans-serif;
         background: #ffffff; color: #1f2328; }
  svg { width: 100%; height: auto; }
  table { border-collapse: collapse; margin: .5rem 0 1rem; }
  th, td { text-align: left; padding: .2rem 1.2rem .2rem 0; overflow-wrap: anywhere; vertical-align: top; }
  .wrong { color: #cf222e; }
  summary { cursor: pointer; padding: .2rem 0; }
  @media (prefers-color-scheme: dark) {
    body { background: #0d1117; color: #e6edf3; }
    .wrong { color: #ff7b72; }
  }
"""
_RELOAD = f"""<script>
  setInterval(() => document.querySelector("details[open]") || location.reload(), {SECONDS * 1000});
</script>
"""


def page_of(node: NodePicture, *, reloads: bool = False) -> str:
    """The page. `reloads`: by itself, for a file that is written again."""
    title = f"{_text(node.name)}: {verdict(node)}"
    wrong = [(sentence,) for sentence in everything_wrong(node)]
    lists = "".join(map(_lists, node.networks)) + _list("Everything that is wrong", (), wrong)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n{_RELOAD * reloads}</head>\n"
        f"<body>\n{svg_of(node)}{lists}</body>\n</html>\n"
    )


def _lists(network: NetworkPicture) -> str:
    pods = [(pod.name, " ".join(pod.addresses), pod.veth, "; ".join(pod.problems)) for pod in network.pods]
    peers = [(one.name, one.address, " ".join(one.subnets), one.way, "; ".join(one.problems)) for one in network.peers]
    return _list(
        f"{len(pods)} pods of network {network.name}", ("pod", "address", "veth", "what is wrong"), pods
    ) + _list(
        f"{len(peers)} peers of network {network.name}", ("node", "address", "subnets", "by", "what is wrong"), peers
    )


def _list(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rows = list(rows)
    if not rows:
        return ""
    head = f"<tr>{''.join(f'<th>{name}</th>' for name in heads)}</tr>\n" if heads else ""
    body = "".join(f"<tr>{_cells(row)}</tr>\n" for row in rows)
    return f"<details><summary>{_text(title)}</summary>\n<table>\n{head}{body}</table></details>\n"


def _cells(row: Sequence[str]) -> str:
    *others, last = row  # what is wrong
    return "".join(f"<td>{_text(cell)}</td>" for cell in others) + f'<td class="wrong">{_text(last)}</td>'


def _text(text: str) -> str:
    return escape(clean(text))
