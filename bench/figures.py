"""The results of bench.warm, as values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench import burst, lab

AT_ONCE = f"{burst.PODS} pods at once"


@dataclass(frozen=True)
class Row:
    """A case: all values of ours and of the reference's, and the target ratio, if any."""

    what: str
    unit: str
    ours: Sequence[float]
    reference: Sequence[float]
    goal: float | None

    def __post_init__(self) -> None:
        """Round to microseconds, as published, so that tables and picture agree with the JSON."""
        for name in ("ours", "reference"):
            object.__setattr__(self, name, [round(value, 3) for value in getattr(self, name)])

    @property
    def ratio(self) -> float:
        """The ratio of the medians, ours to the reference's."""
        return median(self.ours) / median(self.reference)


@dataclass(frozen=True)
class Report:
    """All results of a run of bench.warm.

    `growth`: rows of bench.crowd; `floors`: the C program's runs by case and verb; `burst_floor`: its
    milliseconds by verb for many pods at once; `starting`: for starting as many processes that do nothing;
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
