"""The other nodes of a network: what the records say, and whether the kernel has the way to each."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from cli.status.picture import Device, PeerPicture
from linux.netlink.socket import Netlink
from linux.rtnl import forwarding, vxlan
from linux.rtnl.forwarding import PeerPath
from plugins.node import peers, state, tunnel
from plugins.node.conf import NodeConf
from plugins.node.records import Node
from plugins.node.selection import Peers, Verdict
from spec.config import Section

_EXPLAINED = 20
"""Stale peers of which each missing object is named; that reads all objects for each."""


@dataclass(frozen=True)
class Others:
    """The VTEP, None without a tunnel; the other nodes; and sentences about the records and this node."""

    vtep: Device | None
    peers: tuple[PeerPicture, ...]
    problems: tuple[str, ...]


def read_others(host: Netlink, section: Section, node: NodeConf, own_name: str) -> Others:
    """The peers of a network of `kubenet` or `vxlan`. `own_name`: of this node's record. Raises CNIError, OSError."""
    known = peers.records_of(section)
    known = replace(known, nodes=tuple(one for one in known.nodes if not own_name or one.name != own_name))
    conf = vtep = device = None
    if section.string("type") == "vxlan":
        conf = tunnel.with_lasting_mac(host, node, tunnel.parse_section(section))
        vtep = tunnel.plan(host, node, conf)
        about = tuple(vxlan.differences(host, vtep, tunnel.addresses_of(node)))
        device = Device(vtep.name, (vtep.local,), f"VNI {vtep.vni}, UDP port {vtep.port}", about)
    others = state.select(host, known, node, conf, vtep)
    problems = [*known.left_out, *others.about_this, *state.not_forwarding(host, node, conf, others)]
    problems += [others.own_conflict] if others.own_conflict else []
    index = state.index_of(host, vtep.name) if vtep else 0
    return Others(device, tuple(_pictures(host, others, index)), tuple(problems))


def _pictures(host: Netlink, others: Peers, device: int) -> Iterator[PeerPicture]:
    there = forwarding.in_place(host, others.paths, device=device)
    explained = 0
    for node, verdict in zip(others.records, others.verdicts, strict=True):
        if verdict.is_of_this and not verdict.sentences:
            continue
        paths = [claim.path for claim in verdict.claims if not claim.refusal]
        stale = [path for path in paths if path not in there]
        explained += bool(stale)
        problems = [_about(node, one) for one in verdict.sentences]
        problems += _missing(host, stale, device) if explained <= _EXPLAINED else map(_stale, stale)
        yield _picture(node, verdict, paths, problems)


def _picture(node: Node, verdict: Verdict, paths: list[PeerPath], problems: list[str]) -> PeerPicture:
    used = next((claim.node for claim in verdict.claims if not claim.refusal), node)
    address = next((path.underlay or path.via for path in paths), next(iter(used.addresses), ""))
    way = "" if not paths else "tunnel" if any(path.mac for path in paths) else "route"
    return PeerPicture(node.name or node.label, address, node.subnets, way, tuple(problems))


def _about(node: Node, sentence: str) -> str:
    """A sentence without the name that begins it."""
    return sentence.removeprefix(f"{node.label} ")


def _missing(host: Netlink, paths: list[PeerPath], device: int) -> list[str]:
    return forwarding.missing(host, paths, device=device) or list(map(_stale, paths)) if paths else []


def _stale(path: PeerPath) -> str:
    objects = "route, neighbour or FDB entry" if path.mac else "route"
    return f"its {objects} for {path.subnet} is missing"
