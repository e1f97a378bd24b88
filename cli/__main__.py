"""`python -m cli`, frozen `slash24`."""

import os
import sys

from cli.app import slash24
from cli.exits import FAILED
from spec.errors import CNIError


def main() -> None:
    """Run the command that the arguments name; raises SystemExit with its exit status (cli/exits.py).

    What a command does not expect of the node ends it with the error's own words.
    """
    if os.environ.get("CNI_COMMAND"):
        sys.stderr.write("slash24 is not a CNI plugin\n")
        raise SystemExit(1)
    try:
        slash24(prog_name="slash24")
    except (OSError, CNIError) as error:
        sys.stderr.write(f"Error: {error}\n")
        raise SystemExit(FAILED) from error


if __name__ == "__main__":
    main()
