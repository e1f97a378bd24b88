"""The configuration of a bridge and of a pod's port on it, whichever plugin it comes from."""

from dataclasses import dataclass

from spec.config import Section
from spec.result import DNS

_LONGEST_POLICY_WAIT = 60


@dataclass(frozen=True)
class PodConf:
    """A bridge, the port of one pod, and what is done for its addresses.

    `mtu` in bytes, 0 leaves it to the kernel. `vlan` 0: none; `trunk` None: no filtering, an empty one still filters.
    Another address on the bridge is a conflict; `force_address` replaces it, `keep_addresses` tolerates it.
    `accept_ra`: whether the pod's interface accepts router advertisements; None: depends on its addresses.
    `check_sources`: drop packets from addresses other than the pod's. `mac` of the pod's interface, "" for a random
    one. `dns` None: IPAM's. `ipam_type` "": no addresses. `policy_wait`: how many seconds an ADD waits for the pod's
    network policies at most; None: there are none on this node. With policies, `check_sources` is set too.
    """

    bridge: str
    ipam_type: str
    is_gateway: bool = False
    is_default_gateway: bool = False
    force_address: bool = False
    keep_addresses: bool = False
    ip_masq: bool = False
    mtu: int = 0
    hairpin: bool = False
    promiscuous: bool = False
    vlan: int = 0
    trunk: tuple[int, ...] | None = None
    preserve_default_vlan: bool = False
    check_mac: bool = False
    check_sources: bool = False
    detect_duplicates: bool = False
    container_up: bool = True
    isolated: bool = False
    accept_ra: bool | None = None
    mac: str = ""
    dns: DNS | None = None
    policy_wait: int | None = None

    @property
    def has_policies(self) -> bool:
        """Whether network policies are enforced for the pod."""
        return self.policy_wait is not None

    @property
    def filters_vlans(self) -> bool:
        """Whether the bridge has to filter VLANs."""
        return bool(self.vlan) or self.trunk is not None

    @property
    def gateway_link(self) -> str:
        """The name of the link that carries the gateway addresses."""
        return f"{self.bridge}.{self.vlan}" if self.vlan else self.bridge


def policy_wait_of(section: Section) -> int | None:
    """`policyWait` in seconds; None without the key: no network policies. Raises CNIError 7."""
    return section.integer("policyWait", None, low=0, high=_LONGEST_POLICY_WAIT)
