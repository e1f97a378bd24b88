"""The networks of the chaos test, the files of a node with peers, and a foreign IPAM plugin for one of the networks."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.netns.node import OUTSIDE_V4, Node

MOODS = ("", "slow", "hang-before", "hang-after")
"""What a call may tell the foreign plugin to be: as it should; slow; hanging before or after it has done its work."""

HANG_SECONDS = 4
FOREIGN_LEASES = "/run/foreign"

# A lease is a symbolic link from an address to its owner: created atomically.
_FOREIGN = f"""#!/bin/sh
conf=$(cat)
owner=$CNI_CONTAINERID:$CNI_IFNAME
fail() {{ echo '{{"cniVersion": "1.1.0", "code": 11, "msg": "'"$1"'"}}'; exit 1; }}
mkdir -p {FOREIGN_LEASES} && cd {FOREIGN_LEASES} || fail "no folder"
case $conf in
*hang-before*) sleep {HANG_SECONDS}; fail "hung before" ;;
*'"slow"'*) sleep 0.3 ;;
esac
take() {{
    number=2 vain=0
    while [ $number -lt 250 ] && [ $vain -lt 5 ]; do
        if [ ! -L 10.43.0.$number ]; then
            ln -s "$owner" 10.43.0.$number 2>/dev/null && return
            vain=$((vain + 1)) # somebody was faster, or there is no room
        fi
        number=$((number + 1))
    done
    return 1
}}
release() {{ # all whose owner is, or with "not" is not, among the other arguments' words
    for lease in 10.43.0.*; do
        [ -L "$lease" ] || continue
        case " $2 " in
        *" $(readlink "$lease") "*) [ "$1" = is ] && rm -f "$lease" ;;
        *) [ "$1" = not ] && rm -f "$lease" ;;
        esac
    done
}}
case $CNI_COMMAND in
ADD)
    take || fail "no address"
    ;;
DEL) release is "$owner" ;;
GC) release not "$(printf %s "$conf" | tr -d ' \\n' | grep -o '"containerID":"[^"]*","ifname":"[^"]*"' |
    sed 's/"containerID":"\\([^"]*\\)","ifname":"\\([^"]*\\)"/\\1:\\2/' | tr '\\n' ' ')" ;;
esac
case $conf in
*hang-after*) sleep {HANG_SECONDS}; fail "hung after" ;;
esac
[ $CNI_COMMAND = ADD ] || exit 0
echo '{{"cniVersion": "1.1.0", "ips": [{{"address": "10.43.0.'$number'/24", "gateway": "10.43.0.1"}}]}}'
"""


@dataclass(frozen=True)
class Network:
    """A network configuration list. `elements`, `ifbs`: how many nftables elements and ifbs a pod has.

    `is_reference`: its plugins are the Go suite's. `filters_vlans`: it needs a kernel with VLAN filtering.
    """

    name: str
    plugins: tuple[Mapping, ...]
    elements: int
    ifbs: int = 0
    is_reference: bool = False
    filters_vlans: bool = False

    @property
    def is_foreign(self) -> bool:
        """Whether its addresses come from the foreign IPAM plugin."""
        return self._ipam.get("type") == "foreign"

    @property
    def has_our_leases(self) -> bool:
        """Whether its addresses come from our host-local."""
        return not self.is_foreign and not self.is_reference

    @property
    def is_overlay(self) -> bool:
        """Whether it is an overlay, whose peers are read from files."""
        return self.plugins[0]["type"] == "vxlan"

    @property
    def bridge(self) -> str:
        """The bridge of its pods."""
        return self.plugins[0]["bridge"]

    @property
    def _ipam(self) -> Mapping:
        return self.plugins[0].get("ipam", {})

    def configurations(self, slot: int, mood: str) -> list[dict]:
        """The configuration that a runtime passes to each plugin, in order, for the pod in this slot."""
        limits = {"ingressRate": 4_000_000, "ingressBurst": 160_000, "egressRate": 2_000_000, "egressBurst": 160_000}
        capabilities = {
            "portMappings": [{"hostPort": 8000 + slot, "containerPort": 80, "protocol": "tcp"}],
            "bandwidth": limits,
        }
        found = []
        for plugin in self.plugins:
            conf = {"cniVersion": "1.1.0", **json.loads(json.dumps(plugin)), "name": self.name}
            wanted = {name: capabilities[name] for name in conf.pop("capabilities", {})}
            if self.is_foreign and mood:
                conf["ipam"]["mood"] = mood
            found.append({**conf, "runtimeConfig": wanted} if wanted else conf)
        return found


def _bridge(name: str, ipam: Mapping, **keys: object) -> dict:
    return {"type": "bridge", "bridge": name, "isDefaultGateway": True, "ipam": ipam, **keys}


def _host_local(*subnets: str) -> dict:
    return {"type": "host-local", "ranges": [[{"subnet": subnet}] for subnet in subnets]}


NETWORKS = (
    Network(
        "masq",
        (_bridge("masq0", _host_local("10.41.0.0/24", "fd00:41::/64"), ipMasq=True, macspoofchk=True),),
        elements=4,
    ),
    Network(
        "chain",
        (
            _bridge("chain0", _host_local("10.42.0.0/24", "fd00:42::/64"), hairpinMode=True),
            {"type": "portmap", "capabilities": {"portMappings": True}},
            {"type": "bandwidth", "capabilities": {"bandwidth": True}},
        ),
        elements=4,
        ifbs=1,
    ),
    Network("foreign", (_bridge("foreign0", {"type": "foreign"}, ipMasq=True),), elements=1),
    Network(
        "six",
        (
            _bridge("six0", _host_local("fd00:44::/64"), ipMasq=True, macspoofchk=True),
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ),
        elements=5,
    ),
    Network("overlay", ({"type": "vxlan", "bridge": "cbr0", "sourceAddressValidation": True},), elements=5),
    # Pods of a second suite on the same bridge as ours, but with another gateway.
    Network(
        "guest",
        ({"type": "bridge", "bridge": "chain0", "ipam": _host_local("10.45.0.0/24")},),
        elements=0,
        is_reference=True,
    ),
    Network(
        "vlans",
        (_bridge("vlan0", _host_local("10.46.0.0/24", "fd00:46::/64"), vlan=100, ipMasq=True),),
        elements=2,
        filters_vlans=True,
    ),
)

NODE_FILE, PEERS_FILE = "/run/slash24/node.json", "/run/slash24/peers.json"
NODE = {"podCIDRs": ["10.47.1.0/24", "fd00:47:0:1::/64"], "clusterCIDRs": ["10.47.0.0/16", "fd00:47::/48"]}


def peer(number: int) -> dict:
    """The record of another node."""
    subnets = [f"10.47.{number}.0/24", f"fd00:47:0:{number}::/64"]
    return {"name": f"node{number}", "addresses": [f"192.0.2.{number}"], "podCIDRs": subnets}


PEERS = [peer(2), peer(3)]
BROKEN_FILES = ("", "{", '{"peers": [{"name": "node2", "addr', "[]", '{"peers": null}')
"""What a file of peers may be after a crash, for which an ADD may fail."""

WRONG_RECORDS = (
    None,
    {},
    {**peer(4), "podCIDRs": []},
    {**peer(4), "podCIDRs": [None]},
    {**peer(4), "podCIDRs": ["0.0.0.0/0"]},
    {**peer(4), "podCIDRs": ["10.47.2.128/25"]},
    {**peer(4), "podCIDRs": NODE["podCIDRs"]},
    {**peer(4), "podCIDRs": ["192.0.2.0/24"]},
    {**peer(4), "addresses": []},
    {**peer(4), "addresses": ["2001:db8::4"]},
    {**peer(4), "vtepMAC": "ff:ff:ff:ff:ff:ff"},
    {**peer(4), "name": ["node4"]},
)
"""Records beside good ones, for which none may: of a node that is not there yet, of a liar."""


def begin_overlay(node: Node) -> None:
    """Prepare the node for the overlay: the uplink, and the files with the records of the nodes."""
    node.outside()
    node.run(["ip", "route", "add", "default", "via", OUTSIDE_V4])
    node.path(NODE_FILE).parent.mkdir(exist_ok=True)
    write_whole(node.path(NODE_FILE), json.dumps(NODE))
    write_whole(node.path(PEERS_FILE), json.dumps({"peers": PEERS}))


def write_whole(file: Path, text: str) -> None:
    """Replace the file atomically."""
    new = file.with_name(f".{file.name}.new")
    new.write_text(text)
    new.rename(file)


def usable(node: Node) -> list[Network]:
    """The networks that this kernel supports."""
    made = node.run(["ip", "link", "add", "probe", "type", "bridge", "vlan_filtering", "1"], check=False)
    node.run(["ip", "link", "del", "probe"], check=False)
    return [network for network in NETWORKS if made.returncode == 0 or not network.filters_vlans]


def write_foreign(folder: Path) -> None:
    """Install the foreign IPAM plugin in the folder."""
    file = folder / "foreign"
    file.write_text(_FOREIGN)
    file.chmod(0o755)
