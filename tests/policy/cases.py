"""All cases in which real packets are compared with the model: by name, their steps, each a list of documents.

The documents are added to those of tests/policy/cluster.py, and may replace some. Names in braces are for addresses:
tests/policy/cluster.py has `filled`.
"""

from collections.abc import Iterator

from tests.policy import changing_cases, cluster_cases, network_cases
from tests.policy.writing import Document

CASES: dict[str, list[list[Document]]] = {
    **{name: [documents] for name, documents in (*network_cases.cases(), *cluster_cases.cases())},
    **dict(changing_cases.cases()),
}


def chosen(turn: int) -> Iterator[str]:
    """The names of a third of the cases for ingress, of another third of those for egress, and of all others.

    `turn`: 0, 1 or 2; the three together are all.
    """
    turns = {"ingress": turn, "egress": (turn + 1) % 3}
    seen: dict[str, int] = {}
    for name in CASES:
        direction = next((one for one in turns if one in name.partition(":")[0]), "")
        place = seen.setdefault(name.replace(direction, "", 1), len(seen)) if direction else 0
        if not direction or place % 3 == turns[direction]:
            yield name
