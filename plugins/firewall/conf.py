"""The configuration of `firewall`."""

from dataclasses import dataclass

from spec.config import Section

BACKENDS = ("", "iptables", "nftables", "firewalld")
ZONE = "trusted"
_POLICIES = ("open", "same-bridge", "isolated")
_LONGEST_CHAIN = 28  # characters, the limit of iptables
# Targets of iptables and its extensions.
_TARGETS = """
ACCEPT AUDIT CHECKSUM CLASSIFY CLUSTERIP CONNMARK CONNSECMARK CT DNAT DNPT DROP DSCP ECN ERROR HL HMARK IDLETIMER LED
LOG MARK MASQUERADE MIRROR NETMAP NFLOG NFQUEUE NOTRACK QUEUE RATEEST REDIRECT REJECT RETURN SECMARK SET SNAT SNPT
SYNPROXY TCPMSS TCPOPTSTRIP TEE TOS TPROXY TRACE TTL ULOG
"""
_RESERVED = {*_TARGETS.split(), "INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING", "CNI-FORWARD"}


@dataclass(frozen=True)
class FirewallConf:
    """`backend`: "" for any; `admin_chain`: the iptables chain evaluated first; `policy`: the ingress policy.

    `zone`: firewalld's zone for pods.
    """

    backend: str
    admin_chain: str
    policy: str
    zone: str


def parse(section: Section) -> FirewallConf:
    """Read the keys. Raises CNIError 7."""
    return FirewallConf(
        backend=section.string("backend", choices=BACKENDS),
        admin_chain=_admin_chain(section),
        policy=section.string("ingressPolicy", choices=("", *_POLICIES)) or "open",
        zone=_zone(section),
    )


def firewalld_zone(section: Section) -> str:
    """The zone of pods, "" if the backend is not firewalld. For a DEL: never raises, whatever the keys hold."""
    backend, zone = section.raw("backend"), section.raw("firewalldZone")
    if backend in ("iptables", "nftables"):
        return ""
    return zone if isinstance(zone, str) and _is_zone(zone) else ZONE


def _admin_chain(section: Section) -> str:
    name = section.string("iptablesAdminChainName") or "CNI-ADMIN"
    is_plain = name.isascii() and name[0].isalpha() and all(char.isalnum() or char in "-_./" for char in name)
    if not is_plain or len(name) > _LONGEST_CHAIN or name in _RESERVED:
        expected = f"a chain of your own: at most {_LONGEST_CHAIN} letters, digits and - _ . /, starting with a letter"
        raise section.error("iptablesAdminChainName", f"{expected}, and not a target or chain of iptables")
    return name


def _zone(section: Section) -> str:
    zone = section.string("firewalldZone") or ZONE
    if not _is_zone(zone):
        raise section.error("firewalldZone", "a zone of firewalld: letters, digits and - _ /")
    return zone


def _is_zone(name: str) -> bool:
    return bool(name) and all(char.isalnum() or char in "-_/" for char in name)
