"""All cases in which real packets are compared with the model: by name, their steps, each a list of documents.

The documents are added to those of tests/policy/cluster.py, and may replace some. Names in braces are for addresses:
tests/policy/cluster.py has `filled`.
"""

from tests.policy import changing_cases, cluster_cases, network_cases
from tests.policy.writing import Document

CASES: dict[str, list[list[Document]]] = {
    **{name: [documents] for name, documents in (*network_cases.cases(), *cluster_cases.cases())},
    **dict(changing_cases.cases()),
}
