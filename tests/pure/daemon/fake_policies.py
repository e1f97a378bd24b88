"""Policies in place of those of a node."""


class FakePolicies:
    """Policies that may be impossible."""

    refused: str = ""
    wrong: tuple[str, ...] = ()

    def refusal(self) -> str:
        """Why no pod is to be added."""
        return self.refused

    def problems(self) -> tuple[str, ...]:
        """What is wrong besides."""
        return self.wrong
