"""What the network needs of the kernel, tried where it touches nothing: in an empty network namespace of its own."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from errno import EOPNOTSUPP
from functools import partial

from cli.validate.findings import Finding, not_applicable, or_ok, problem
from cli.validate.node import Facts
from cli.validate.pods import OWN, PodNetwork
from linux.errors import reason
from linux.netlink.attributes import nested, text
from linux.netlink.socket import NLM_F_CREATE, NLM_F_EXCL, Netlink, NetlinkError
from linux.rtnl import links, uapi
from linux.scratch_netns import in_empty_netns
from spec.errors import CNIError

_NAME = "slash24probe"
_NFT, _VLANS, _SHAPING = "nf_tables with NAT", "bridges that filter VLANs", "token buckets and ifb"

_OPTIONS = {
    _NFT: ("nf_tables nft_chain_nat nft_masq", "CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT and CONFIG_NFT_MASQ"),
    "bridge": ("bridge", "CONFIG_BRIDGE"),
    "veth": ("veth", "CONFIG_VETH"),
    "vxlan": ("vxlan", "CONFIG_VXLAN"),
    _VLANS: ("bridge", "CONFIG_BRIDGE_VLAN_FILTERING"),
    _SHAPING: ("ifb sch_tbf act_mirred", "CONFIG_IFB, CONFIG_NET_SCH_TBF and CONFIG_NET_ACT_MIRRED"),
}
"""By feature the modules, and the options of the kernel."""


def check(facts: Facts) -> Iterable[Finding]:
    """The kernel can do what the network's plugins do."""
    needed = needs(facts.pods)
    if not needed:
        return [not_applicable("no plugin of slash24 is used")]
    return or_ok(judge(in_empty_netns(partial(_try_all, needed))), f"it has {', '.join(needed)}")


def needs(pods: PodNetwork) -> list[str]:
    """The features that a network needs."""
    if pods.kind not in OWN:
        return []
    wanted = [_NFT, "bridge", "veth"]
    wanted += ["vxlan"] if pods.kind == "vxlan" else []
    wanted += [_VLANS] if pods.is_vlan else []
    return wanted + ([_SHAPING] if "bandwidth" in pods.chained else [])


def judge(refused: Mapping[str, str]) -> Iterator[Finding]:
    """What the kernel has refused, by feature, with the reason."""
    for feature, why in refused.items():
        modules, options = _OPTIONS[feature]
        mend = f"modprobe -a {modules}; if there are no such modules, boot a kernel with {options}"
        yield problem(f"the kernel has no {feature}: {why}", mend)


def _try_all(features: Iterable[str]) -> dict[str, str]:
    refused = {}
    for feature in features:
        try:
            _TRIES.get(feature, partial(_create, feature))()
        except OSError as error:
            refused[feature] = reason(error)
        except CNIError as error:
            refused[feature] = str(error)
    return refused


def _create(kind: str) -> None:
    """Create a link of a kind. Raises NetlinkError if the kernel does not know the kind."""
    info = nested(uapi.IFLA_LINKINFO, text(uapi.IFLA_INFO_KIND, kind))
    with Netlink() as netlink:
        try:
            netlink.change(
                bytes(16) + text(uapi.IFLA_IFNAME, _NAME) + info, uapi.RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL
            )
        except NetlinkError as error:
            if error.errno == EOPNOTSUPP:  # another error is about parameters that are missing here
                raise
            return
        link = links.find_link(netlink, _NAME)
        if link:
            links.delete_link(netlink, link.index)


def _filter_vlans() -> None:
    with Netlink() as netlink:
        links.create_bridge(netlink, _NAME, mtu=0, filters_vlans=True)


def _masquerade() -> None:
    from linux.nftables.pod_table import dry_run
    from rules.masquerade import TABLE

    dry_run(TABLE)


def _shape() -> None:
    from plugins.bandwidth.shaping import check_kernel

    check_kernel()


_TRIES: Mapping[str, Callable[[], None]] = {_NFT: _masquerade, _VLANS: _filter_vlans, _SHAPING: _shape}
"""How to try what is not the kind of a link."""
