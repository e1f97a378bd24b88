"""Each rule is quoted in the source: the module that creates it has the line that `nft list ruleset` prints."""

import inspect
import re
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType

import pytest

from linux.rtnl.vxlan import Vtep
from rules import (
    antispoof,
    cluster_masquerade,
    firewall,
    hairpin_duplicates,
    masquerade,
    notrack,
    policy,
    source_validation,
    vtep_filter,
)
from rules.cluster_masquerade import Scope
from rules.firewall import PodRules
from rules.policy import bridge_table, inet_table
from rules.portmap import host_ports
from rules.portmap import table as portmap_table
from rules.portmap.host_ports import Forward, HostPorts
from rules.vtep_filter import Tunnel
from spec.addresses import parse_address
from spec.attachment import Attachment
from tests.netns.nft_tools import on
from tests.netns.node import Node

POD = Attachment("net1", "alice", "eth0")
POD_V4, POD_V6 = parse_address("10.1.2.5/24"), parse_address("fd00:1::5/64")
BOTH = ["10.1.2.5/24", "fd00:1::5/64"]
FORWARDS = tuple(
    Forward(one.version, host, 6, 8080, one.packed, 80)
    for one, address in ((POD_V4, "192.0.2.1"), (POD_V6, "2001:db8::1"))
    for host in (b"", parse_address(address).packed)
)
HOST_PORTS = HostPorts(FORWARDS, {}, {4: POD_V4, 6: POD_V6})
FROM_ANYWHERE = HostPorts(FORWARDS, {}, {4: POD_V4, 6: POD_V6}, masquerade_all=(4, 6))
ISOLATED = PodRules((POD_V4.packed, POD_V6.packed), "isolated", "br0", "CNI-ADMIN", make_chain=True)
SCOPE = Scope(["10.1.2.0/24"], ["10.1.0.0/16"], ["192.0.2.2"], tunnel="vx")

FEATURES: dict[str, tuple[ModuleType | tuple[ModuleType, ...], Callable[[], object]]] = {
    "masquerade": (masquerade, partial(masquerade.ensure, POD, BOTH)),
    "antispoof": (antispoof, partial(antispoof.ensure, POD, "veth0", "02:00:00:00:00:01")),
    "source_validation": (source_validation, partial(source_validation.ensure, POD, "veth0", BOTH)),
    "cluster_masquerade": (cluster_masquerade, partial(cluster_masquerade.ensure, "net1", SCOPE)),
    "vtep_filter": (
        vtep_filter,
        partial(vtep_filter.ensure, "net1", Tunnel(1, 4789, ["192.0.2.2"], "eth0", "vx", "br0")),
    ),
    "notrack": (
        notrack,
        partial(
            notrack.ensure, "net1", Vtep("vx", 1, 4789, 2, "192.0.2.1", "02:00:00:00:00:02", 1450, tx_checksum=True)
        ),
    ),
    "hairpin_duplicates": (
        hairpin_duplicates,
        partial(hairpin_duplicates.ensure, "net1", "02:00:00:00:00:01", ["10.1.2.1/24"]),
    ),
    "firewall": (firewall, partial(firewall.ensure, POD, ISOLATED)),
    "policy": ((bridge_table, inet_table), policy.ensure_base),
    "portmap": (portmap_table, partial(host_ports.ensure, POD, HOST_PORTS)),
    "portmap from anywhere": (portmap_table, partial(host_ports.ensure, POD, FROM_ANYWHERE)),
}


def printed(ruleset: str) -> Iterator[str]:
    """The rules and hooks of our tables, without the comments that identify rules."""
    for table in re.findall(r"^table \w+ slash24_.*?^\}", ruleset, re.DOTALL | re.MULTILINE):
        for chain in re.findall(r"^\tchain .*?^\t\}", table, re.DOTALL | re.MULTILINE):
            for line in chain.splitlines()[1:-1]:
                yield re.sub(r' comment "[^"]*"$|; policy accept;$', "", line.strip())


def written(module: ModuleType) -> set[str]:
    """The lines of the comments and docstrings of a module."""
    lines = inspect.getsource(module).splitlines()
    texts = (line.rpartition("# ")[2] if "# " in line else line.strip().strip('"') for line in lines)
    return {general(text) for text in texts}


def general(text: str) -> str:
    """A rule with its variable parts made generic: IP version, transport, names, numbers and addresses."""
    text = re.sub(r"\bip6\b", "ip", text).replace("nfproto ipv6", "nfproto ipv4")
    text = re.sub(r"(@[a-z_]+)[46]\b", r"\1", text)
    text = re.sub(r"\b(tcp|udp|sctp) dport\b", "TRANSPORT dport", text)
    text = re.sub(r"\bdport \d+", "dport PORT", text)
    text = re.sub(r'"[^"]*"', "NAME", text)
    return re.sub(r"\b([0-9a-f]*:[0-9a-f:]*|\d+(\.\d+){3})(/\d+)?", "ADDRESS", text)


@pytest.mark.parametrize("feature", FEATURES)
def test_every_rule_is_quoted_in_its_module(node: Node, feature: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader can find a rule seen on a node in the feature's module, word for word."""
    monkeypatch.setattr(hairpin_duplicates.sysctls, "read", lambda _: "1")
    module, make = FEATURES[feature]
    on(node, make)
    rules = list(printed(node.ruleset()))
    assert rules
    modules = module if isinstance(module, tuple) else (module,)
    known = {line for each in modules for line in written(each)}
    unknown = {general(rule): rule for rule in rules if general(rule) not in known}
    assert not unknown, "\n".join(unknown.values())
