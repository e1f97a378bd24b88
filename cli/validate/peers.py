"""The records of the other nodes: which are left out, and whether the paths to the others are there."""

from collections.abc import Iterable, Iterator, Sequence

from cli.validate.findings import Finding, not_applicable, or_ok, problem, warning
from cli.validate.node import Facts
from plugins.node import peers as node_peers
from plugins.node import state
from plugins.node.records import PEERS_FILE, Records
from plugins.node.selection import Peers
from spec.config import absolute_path

_SHOWN = 20


def check(facts: Facts) -> Iterable[Finding]:
    """All records are used, and the kernel has the paths to their nodes."""
    pods = facts.pods
    if not pods.node:
        return [not_applicable("only kubenet and vxlan know other nodes")]
    where = absolute_path(facts.network.main, "peersFile") or PEERS_FILE
    if not facts.records.nodes and not facts.records.left_out:
        return [not_applicable(f"there are no records of other nodes in {where} or the network")]
    device = state.index_of(facts.host, pods.tunnel.device) if pods.tunnel else 0
    missing: Sequence[str] = ()
    if facts.link(pods.bridge) and (device or not pods.tunnel):
        missing = node_peers.missing_paths(facts.host, facts.peers.paths, device)
    names = ", ".join(node.name or node.addresses[0] for node in facts.peers.nodes[:_SHOWN])
    return or_ok(judge(facts.records, facts.peers, missing, where), f"{len(facts.peers.nodes)} used: {names}")


def judge(records: Records, peers: Peers, missing: Sequence[str], where: str) -> Iterator[Finding]:
    """`missing`: a sentence for each route, neighbour or FDB entry that is not there."""
    mend = f"mend the record in {where}, or at the registry that it comes from"
    if peers.own_conflict:
        yield problem(peers.own_conflict, "give this node another subnet")
    yield from (problem(sentence, mend) for sentence in peers.about_this)
    # A node that has joined just now has none of these yet.
    begins = {node.label for node in records.nodes if not node.addresses or not node.subnets}
    for sentence in peers.left_out[:_SHOWN]:
        is_new = any(sentence.startswith(f"{label} has no ") for label in begins)
        yield warning(f"{sentence}, and is left out", mend) if is_new else problem(f"left out: {sentence}", mend)
    if len(peers.left_out) > _SHOWN:
        yield problem(f"{len(peers.left_out) - _SHOWN} more records or subnets are left out", mend)
    for sentence in missing[:_SHOWN]:
        yield problem(f"to other nodes: {sentence}", "the next ADD of a pod makes it; what is in its way, take away")
