"""The networks of the chaos test, and the IPAM plugin of others on one of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MOODS = ("", "slow", "hang-before", "hang-after")
"""What a call may tell the foreign plugin to be: as it should; slow; hanging before or after it has done its work."""

HANG_SECONDS = 4
FOREIGN_LEASES = "/run/foreign"

# A lease is a symbolic link from an address to its owner: made in one step, or not at all.
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
    """A network configuration list. `elements`: how many elements of nftables a pod has there; `ifbs`, the same."""

    name: str
    plugins: tuple[Mapping, ...]
    elements: int
    ifbs: int = 0

    @property
    def is_foreign(self) -> bool:
        """Whether its addresses are another's."""
        return self.plugins[0]["ipam"]["type"] == "foreign"

    def configurations(self, slot: int, mood: str) -> list[dict]:
        """What a runtime gives each plugin, in order, for the pod of that number."""
        limits = {"ingressRate": 4_000_000, "ingressBurst": 160_000, "egressRate": 2_000_000, "egressBurst": 160_000}
        capabilities = {
            "portMappings": [{"hostPort": 8000 + slot, "containerPort": 80, "protocol": "tcp"}],
            "bandwidth": limits,
        }
        found = []
        for plugin in self.plugins:
            conf = {**json.loads(json.dumps(plugin)), "cniVersion": "1.1.0", "name": self.name}
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
)


def write_foreign(folder: Path) -> None:
    """Put the IPAM plugin of others there."""
    file = folder / "foreign"
    file.write_text(_FOREIGN)
    file.chmod(0o755)
