"""Who reaches whom: pods, nodes and a host outside probe each other at once, and the model says what must arrive."""

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from tests.netns.node import Host
from tests.policy import model

PROBER = Path(__file__).with_name("policy_prober.py")
PORTS = (80, 81)
SECONDS = 0.3
_PATIENCE = (1.0, 2.0, 4.0)  # seconds in which an answer is waited for again

TRIED = [(kind, port) for kind in (model.TCP, model.UDP, model.SCTP) for port in PORTS] + [(model.ICMP, 0)]
"""What is tried from everybody to everybody."""


@dataclass(frozen=True, eq=False)
class Party:
    """One who probes and is probed: its name in tables, who it is to the model, its host, addresses by IP version."""

    name: str
    end: model.End
    host: Host
    addresses: Mapping[int, str]

    @property
    def is_pod(self) -> bool:
        """Whether it is a pod."""
        return isinstance(self.end, model.Pod)

    def end_of(self, version: int) -> model.End:
        """What the model is asked about."""
        return model.Outside(self.addresses[version]) if isinstance(self.end, model.Outside) else self.end


@dataclass(frozen=True)
class Probe:
    """A connection that is tried. `address`, `port`: where it is sent; a Service may send it on to the target."""

    source: Party
    target: Party
    kind: str
    port: int
    version: int
    address: str

    @property
    def column(self) -> str:
        """What it has in common with those of one table."""
        return f"{self.kind}{f'/{self.port}' if self.port else ''} IPv{self.version}"


Expect = Callable[[Probe], bool]


class Probers:
    """A prober process for each party, until `close`."""

    def __init__(self, parties: Sequence[Party]) -> None:
        self.parties = parties
        self._tokens = count(1)
        self._sources: dict[tuple[str, str], str] = {}
        pipe = subprocess.PIPE
        self._processes = {}
        for party in parties:
            argv = [sys.executable, "-S", "-E", PROBER, ",".join(map(str, PORTS)), *party.addresses.values()]
            self._processes[party.name] = party.host.start(argv, stdin=pipe, stdout=pipe, text=True)
        for process in self._processes.values():
            assert process.stdout.readline() == '"ready"\n', "a prober did not start"

    def close(self) -> None:
        """End them."""
        for process in self._processes.values():
            process.stdin.close()
            process.wait(10)
            process.stdout.close()

    def everything(self) -> list[Probe]:
        """All probes from and to pods."""
        found = []
        for source in self.parties:
            for target in self.parties:
                if not (source.is_pod or target.is_pod):
                    continue
                for version in source.addresses.keys() & target.addresses.keys():
                    address = target.addresses[version]
                    found += [Probe(source, target, kind, port, version, address) for kind, port in TRIED]
        return found

    def send(self, probes: Iterable[Probe], seconds: float) -> tuple[set[Probe], set[Probe]]:
        """Send the probes; which have arrived (those of TCP: were answered), and which were answered."""
        probes = dict(zip(self._tokens, probes, strict=False))
        commands = defaultdict(list)
        for token, one in probes.items():
            commands[one.source.name].append((token, one.kind, one.address, one.port))
        answered = {
            probes[token]
            for token in self._ask({name: {"probes": listed, "seconds": seconds} for name, listed in commands.items()})
            if token in probes
        }
        arrived = self._ask({name: {"arrived": True} for name in self._processes})
        return {probes[token] for token in arrived if token in probes} | answered, answered

    def source_of(self, probe: Probe) -> str:
        """The address from which a probe is sent."""
        key = probe.source.name, probe.address
        if key not in self._sources:
            (self._sources[key],) = self._ask({probe.source.name: {"sources": [probe.address]}})
        return self._sources[key]

    def _ask(self, commands: Mapping[str, Mapping]) -> list:
        """The answers to commands, by name of the party, all together."""
        for name, command in commands.items():
            stream = self._processes[name].stdin
            stream.write(json.dumps(command) + "\n")
            stream.flush()
        found = []
        for name in commands:
            line = self._processes[name].stdout.readline()
            assert line, f"the prober of {name} has ended"
            found += json.loads(line)
        return found

    def differences(self, is_allowed: Expect, probes: Sequence[Probe] | None = None) -> str:
        """A table of what passes but must not ("P"), and of what must pass but does not ("d"); "" if there is none.

        What must pass is tried again, as a busy machine may be slow; what must not pass may never pass.
        """
        probes = self.everything() if probes is None else list(probes)
        allowed = {one for one in probes if is_allowed(one)}
        overflows = _overflows()
        arrived, answered = self.send(probes, SECONDS)
        passing, missing = arrived - allowed, allowed - answered
        for seconds in _PATIENCE:
            if not missing:
                break
            missing -= self.send(missing, seconds)[1]
        if not passing and not missing:
            return ""
        still = self.send(passing, SECONDS)[0]
        notes = [
            f"{len(passing - still)} passed only once",
            f"{_overflows() - overflows} overflows of neighbour tables",
        ]
        return "\n".join([*_table(probes, passing, missing, allowed), *notes])


def _overflows() -> int:
    """How often the machine had no room for a neighbour: all network namespaces share one table for a family."""
    found = 0
    for name in ("arp_cache", "ndisc_cache"):
        with suppress(OSError):
            lines = Path(f"/proc/1/net/stat/{name}").read_text().splitlines()
            found += sum(int(line.split()[lines[0].split().index("table_fulls")], 16) for line in lines[1:])
    return found


def _table(probes: Sequence[Probe], passing: set[Probe], missing: set[Probe], allowed: set[Probe]) -> Iterable[str]:
    """A matrix for each kind, port and IP version that has a difference: rows of sources, columns of targets."""
    by_table = defaultdict(dict)
    for one in probes:
        mark = "P" if one in passing else "d" if one in missing else "+" if one in allowed else "."
        by_table[one.column][one.source.name, one.target.name] = mark
    yield 'expected "+" passes, "." does not; "P" passes but must not, "d" must pass but does not'
    for title, cells in by_table.items():
        if not {"P", "d"} & set(cells.values()):
            continue
        rows, columns = ([*dict.fromkeys(pair[place] for pair in cells)] for place in (0, 1))
        width = max(map(len, (*rows, *columns, title)))
        yield f"{title:>{width}}  {' '.join(f'{name:>7}' for name in columns)}"
        for row in rows:
            marks = [cells.get((row, name), " ") for name in columns]
            yield f"{row:>{width}}  {' '.join(f'{mark:>7}' for mark in marks)}"


def by_model(probers: Probers, documents: Sequence[Mapping], settings: model.Settings = model.DEFAULTS) -> Expect:
    """What the model says of a probe; a node is asked for by the source address that it uses."""

    def is_allowed(probe: Probe) -> bool:
        source, target = (one.end_of(probe.version) for one in (probe.source, probe.target))
        if isinstance(source, model.Node):
            source = model.Node(source.name, (probers.source_of(probe),))
        return model.allows(documents, source, target, probe.kind, probe.port, family=probe.version, settings=settings)

    return is_allowed
