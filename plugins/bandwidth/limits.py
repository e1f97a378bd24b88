"""The limits of a pod, as values."""

from dataclasses import dataclass

from spec.config import Section


@dataclass(frozen=True)
class Limit:
    """How fast one direction may be: `rate` in bits a second, `burst` in bits, both more than 0."""

    rate: int
    burst: int


@dataclass(frozen=True)
class Limits:
    """What the pod may receive (`ingress`) and send (`egress`); None: as fast as it can.

    `section` is where the keys stand, for messages.
    """

    ingress: Limit | None
    egress: Limit | None
    section: Section

    @property
    def none(self) -> bool:
        """Whether there is nothing to limit."""
        return self.ingress is None and self.egress is None
