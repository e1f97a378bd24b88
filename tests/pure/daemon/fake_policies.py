"""Policies in place of those of a node, and what their loop asks."""

from dataclasses import dataclass, field

from daemon.policies.adoption import Adopted
from linux.nftables.monitor import NOTHING


class FakePolicies:
    """Policies that may be impossible."""

    refused: str = ""
    unknown: str = ""
    wrong: tuple[str, ...] = ()

    def refusal(self) -> str:
        """Why no pod is to be added."""
        return self.refused

    def pending(self) -> str:
        """Why nothing is in force yet."""
        return self.unknown

    def unready(self) -> str:
        """Why pods would be held."""
        return self.refused or self.unknown

    def problems(self) -> tuple[str, ...]:
        """What is wrong besides."""
        return self.wrong


@dataclass
class FakeMonitor:
    """What others have changed."""

    found: int = NOTHING

    def changes(self) -> int:
        found, self.found = self.found, NOTHING
        return found

    def fileno(self) -> int:
        return -1


@dataclass
class FakeAdoption:
    """Pods without a file."""

    answer: Adopted = field(default_factory=Adopted)

    def look(self, *_: object) -> Adopted:
        answer, self.answer = self.answer, Adopted()
        return answer
