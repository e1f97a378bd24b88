"""What only root can look at."""

import os

from cli.exits import Failure


def require_root(what: str) -> None:
    """Raises Failure for others than root. `what`: continues the sentence "root is needed to ..."."""
    if os.geteuid() != 0:
        raise Failure(f"root is needed to {what}: run the command with sudo")
