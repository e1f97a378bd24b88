"""What a run of bench.warm finds out, as values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench import burst, lab

AT_ONCE = f"{burst.PODS} pods at once"


@dataclass(frozen=True)
class Row:
    """A case: every value of ours and of the reference's, and the ratio that is wanted, if any is."""

    what: str
    unit: str
    ours: Sequence[float]
    reference: Sequence[float]
    goal: float | None

    def __post_init__(self) -> None:
        """Keep microseconds, as they are published: tables and picture say the same as the JSON beside them."""
        for name in ("ours", "reference"):
            object.__setattr__(self, name, [round(value, 3) for value in getattr(self, name)])

    @property
    def ratio(self) -> float:
        """Of the medians, ours to the reference's."""
        return median(self.ours) / median(self.reference)


@dataclass(frozen=True)
class Report:
    """All that a run of bench.warm has found out.

    `growth`: rows as bench.crowd tells them; `floors`: the C program's runs by case and verb; `burst_floor`: its
    milliseconds by verb for many pods at once; `starting`: those for starting as many processes that do nothing;
    `resident`: the agent's memory in MB.
    """

    machine: str
    rounds: int
    rows: Sequence[Row]
    growth: Sequence[Mapping[str, object]]
    floors: Mapping[str, Mapping[str, Sequence[lab.Call]]]
    burst_floor: Mapping[str, Sequence[float]]
    starting: Sequence[float]
    resident: float
