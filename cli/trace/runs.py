"""The steps of a trace by base chain: what a packet met on its way through one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cli.trace.probe import BACK, UDP, Probe, direction_of, ends_of
from linux.nflog import LoggedPacket
from linux.nftables.messages import TableName
from linux.nftables.trace import Step
from spec.addresses import pack

NAME = "slash24_trace"
"""Of the tables that have packets traced, whose own steps say nothing."""


@dataclass
class Run:
    """A packet in a base chain. `direction`: as `probe.direction_of`. `ends`: its addresses when it came there."""

    table: TableName
    chain: str
    direction: str
    ends: LoggedPacket
    steps: list[Step] = field(default_factory=list)

    @property
    def is_dropped(self) -> bool:
        """Whether the packet ended here."""
        return any(step.is_dropped for step in self.steps)


def runs_of(probe: Probe, steps: Iterable[Step]) -> list[Run]:
    """In the order in which they began, without those of packets that are not the probe's."""
    runs: list[Run] = []
    current: dict[int, Run | None] = {}
    for step in steps:
        if step.packet:
            run = current[step.number] = _run(probe, step)
            if run:
                runs.append(run)
        if run := current.get(step.number):
            run.steps.append(step)
    return _without_strangers(probe, runs)


def _run(probe: Probe, step: Step) -> Run | None:
    direction, ends = direction_of(probe, step.packet), ends_of(step.packet)
    if not direction or not ends or step.table.name == NAME:
        return None
    return Run(step.table, step.chain, direction, ends)


def _without_strangers(probe: Probe, runs: Sequence[Run]) -> list[Run]:
    """A datagram to the probe's source port counts as an answer only if it is of an end of the probe."""
    if probe.protocol != UDP:
        return list(runs)
    known = {pack(probe.source), pack(probe.destination)}
    known |= {end for run in runs if run.direction != BACK for end in (run.ends.source, run.ends.destination)}
    return [run for run in runs if run.direction != BACK or run.ends.source in known]
