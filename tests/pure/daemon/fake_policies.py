"""Policies in place of those of a node."""


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
