"""Masquerade (table `inet slash24_masquerade`): packets of a pod to outside its subnet leave with the node's address.

A map leads from each pod's address to the chain of its subnet, which returns on packets to the subnet. A packet costs
one lookup however many pods there are, and a pod that comes or goes is an element, not a rule.
"""

from collections.abc import Collection, Sequence
from functools import lru_cache

from linux import kernel
from linux.errors import reason
from linux.nftables import messages, pod_table, uapi
from linux.nftables.expressions import RETURN, in_network, ip_daddr, ip_saddr, masquerade, nfproto, vmap
from linux.nftables.messages import IPV4_ADDR, IPV6_ADDR, VERDICT, Element, Hook, Set, TableName
from linux.nftables.pod_table import Chain, Rule, Table
from linux.ownership import owner_tag
from spec.addresses import Address, parse_address
from spec.attachment import Attachment
from spec.errors import CNIError, Code

_MAPS = {
    4: Set("pods4", (IPV4_ADDR,), (VERDICT,)),  # type ipv4_addr : verdict
    6: Set("pods6", (IPV6_ADDR,), (VERDICT,)),  # type ipv6_addr : verdict
}

_MULTICAST = {4: bytes([224, 0, 0, 0]), 6: bytes([255, *[0] * 15])}

TABLE = Table(
    TableName(messages.INET, "slash24_masquerade"),
    "slash24: what pods send beyond their subnet leaves with the node's address",
    tuple(_MAPS.values()),
    (
        Chain(
            "postrouting",
            (
                # ip daddr 224.0.0.0/4 return
                Rule("multicast v4", (*nfproto(4), ip_daddr(4), *in_network(_MULTICAST[4], 4), RETURN)),
                # ip6 daddr ff00::/8 return
                Rule("multicast v6", (*nfproto(6), ip_daddr(6), *in_network(_MULTICAST[6], 8), RETURN)),
                # ip saddr vmap @pods4
                Rule("pods v4", (*nfproto(4), ip_saddr(4), vmap("pods4"))),
                # ip6 saddr vmap @pods6
                Rule("pods v6", (*nfproto(6), ip_saddr(6), vmap("pods6"))),
            ),
            Hook("nat", uapi.NF_INET_POST_ROUTING, uapi.NF_IP_PRI_NAT_SRC),  # type nat hook postrouting priority srcnat
        ),
    ),
)


def ensure(owner: Attachment, addresses: Sequence[str]) -> None:
    """Masquerade these addresses (CIDR, "10.1.2.5/24"; the prefix is the pod's own subnet), and no others, for `owner`.

    An address that another owner has is taken over: IPAM gave it to `owner`, so the other is stale. Raises
    NetlinkError, ValueError for an invalid address.
    """
    tag, wanted, chains = _desired(owner, [parse_address(address) for address in addresses])
    keys = {(element.set, element.key) for element in wanted}
    pod_table.put(
        TABLE,
        chains,
        wanted,
        is_stale=lambda element: element.owner == tag or (element.set, element.key) in keys,
        terms=_terms(tag, wanted),
    )


def delete(owner: Attachment, addresses: Sequence[str] = ()) -> None:
    """Masquerade nothing for `owner` any more; nothing to do is success. Raises NetlinkError.

    `addresses`: those of its last ADD, if known, with or without a prefix: then the table need not be read.
    """
    tag = owner_tag(owner)
    try:
        places = {_place(parse_address(address)) for address in addresses}
    except ValueError:
        places = set()
    pod_table.remove(TABLE, lambda element: element.owner == tag, terms={tag.encode()}, places=sorted(places))


def problems(owner: Attachment, addresses: Sequence[str]) -> list[str]:
    """What differs from the result of `ensure`, a sentence each; [] if all is well. Raises NetlinkError."""
    pods = [parse_address(address) for address in addresses]
    tag, wanted, chains = _desired(owner, pods)
    state = pod_table.inspect(TABLE, chains, _terms(tag, wanted))
    sentences = pod_table.drift(TABLE, state.drifted)
    present = {(element.set, element.key): element for element in state.elements}
    for pod, element in zip(pods, wanted, strict=True):
        other, where = present.get((element.set, element.key)), f"map {element.set} of table {TABLE.name}"
        if not other:
            sentences.append(f"{pod} is not masqueraded: {where} has no element for it; recreate the pod")
        elif other.owner != tag:
            sentences.append(f"{pod} is masqueraded for {other.owner or 'another program'}, not for {tag}: see {where}")
        elif other.chain != element.chain:
            sentences.append(f"{pod} is masqueraded by chain {other.chain}, not by {element.chain}; recreate the pod")
    return sentences


def sweep(network: str, valid: Collection[Attachment]) -> int:
    """Masquerade nothing for attachments to `network` that are not `valid`; returns how many. Raises NetlinkError."""
    return pod_table.sweep(TABLE, network, valid)


def check_ready() -> None:
    """Raises CNIError 50 if this kernel cannot masquerade. The dry run of the table is done on old kernels only."""
    if not kernel.is_old():
        return
    try:
        pod_table.dry_run(TABLE)
    except OSError as error:
        raise CNIError(Code.PLUGIN_NOT_AVAILABLE, f"the kernel can not masquerade: {reason(error)}") from error


def _desired(owner: Attachment, pods: Sequence[Address]) -> tuple[str, list[Element], list[Chain]]:
    """The owner's tag, the elements, and the chains that they lead to."""
    tag = owner_tag(owner)
    chains = [_subnet_chain(pod.network) for pod in pods]
    # 10.1.2.5 comment "v1:..." : goto subnet-10.1.2.0/24
    elements = [Element(*_place(pod), tag, chain.name) for pod, chain in zip(pods, chains, strict=True)]
    return tag, elements, list(dict.fromkeys(chains))


@lru_cache(maxsize=32)  # many pods, few subnets
def _subnet_chain(subnet: Address) -> Chain:
    """The chain for the pods of one subnet; its name has no colons, which `nft -f` does not read in names."""
    version, in_subnet = subnet.version, in_network(subnet.packed, subnet.prefix)
    return Chain(
        f"subnet-{subnet.cidr.replace(':', '_')}",
        (
            # ip daddr 10.1.2.0/24 return
            Rule("own subnet", (*nfproto(version), ip_daddr(version), *in_subnet, RETURN)),
            # masquerade
            Rule("beyond", (masquerade(),)),
        ),
    )


def _place(pod: Address) -> tuple[str, bytes]:
    """The map and the key of a pod's element."""
    return _MAPS[pod.version].name, pod.packed


def _terms(tag: str, wanted: Sequence[Element]) -> set[bytes]:
    return {tag.encode(), *(element.key for element in wanted)}
