"""The configuration of `bandwidth`, and the names of the ifb links that follow from an attachment."""

from dataclasses import dataclass

from spec.attachment import Attachment
from spec.config import NetConf, Section

_KEYS = ("ingressRate", "ingressBurst", "egressRate", "egressBurst")
_RATE_HIGHEST = (1 << 64) - 1  # bits/s: the reference plugin reads 64 bits
_BURST_HIGHEST = ((1 << 32) - 1) * 8 - 1  # bits: the kernel stores a bucket's size in bytes, in 32 bits
_IFB_PREFIX, _IFB_DIGITS = "bwp", 12  # 15 bytes, the longest link name


@dataclass(frozen=True)
class Limit:
    """The limit of one direction: `rate` in bits/s and `burst` in bits, both more than 0."""

    rate: int
    burst: int


@dataclass(frozen=True)
class Limits:
    """The limits of what the pod receives (`ingress`) and sends (`egress`); None is unlimited.

    `section` is the object that the keys were read from, for error messages.
    """

    ingress: Limit | None
    egress: Limit | None
    section: Section

    @property
    def none(self) -> bool:
        """Whether neither direction is limited."""
        return self.ingress is None and self.egress is None


def parse(conf: NetConf) -> Limits:
    """Read the limits. Raises CNIError 7.

    runtimeConfig counts only if none of the keys is at the top level, not even with the value 0: a limit in the
    configuration is the administrator's, and a pod's annotation must not lift it.
    """
    is_static = any(conf.section.has(key) for key in _KEYS)
    section = conf.section if is_static else conf.section.section("runtimeConfig").section("bandwidth")
    return Limits(
        ingress=_limit(section, "ingressRate", "ingressBurst"),
        egress=_limit(section, "egressRate", "egressBurst"),
        section=section,
    )


def ifb_name(owner: Attachment) -> str:
    """The name of the attachment's ifb if `reference_ifb_name` is taken; no other attachment has it."""
    # None of the parts can contain a slash, so the joined texts of two attachments differ.
    return _hashed(f"{owner.network}/{owner.container_id}/{owner.ifname}")


def reference_ifb_name(owner: Attachment) -> str:
    """The name that the reference plugin gives the ifb, one for all interfaces of a container on one network.

    Ours has it too unless it is taken, so that the reference plugin's CHECK and DEL find it.
    """
    return _hashed(owner.network + owner.container_id)


def _hashed(text: str) -> str:
    import hashlib

    return _IFB_PREFIX + hashlib.sha512(text.encode()).hexdigest()[:_IFB_DIGITS]


def _limit(section: Section, rate_key: str, burst_key: str) -> Limit | None:
    rate = section.integer(rate_key, 0, low=0, high=_RATE_HIGHEST)
    if 0 < rate < 8:
        raise section.error(rate_key, f"0, or an integer of 8 to {_RATE_HIGHEST} bits/s (the kernel counts bytes)")
    burst = section.integer(burst_key, 0)
    if not 0 <= burst <= _BURST_HIGHEST:
        raise section.error(burst_key, f"an integer of 0 to {_BURST_HIGHEST} bits (burst cannot be more than 4GB)")
    if rate and not burst:
        raise section.error(burst_key, "an integer of more than 0 (if rate is set, burst must also be set)")
    if burst and not rate:
        raise section.error(rate_key, "an integer of more than 0 (if burst is set, rate must also be set)")
    return Limit(rate, burst) if rate else None
