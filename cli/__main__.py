"""`python -m cli`, frozen `slash24`."""

import os
import sys

from cli.app import slash24


def main() -> None:
    """Run the command that the arguments name; raises SystemExit with its exit status (cli/exits.py)."""
    if os.environ.get("CNI_COMMAND"):
        sys.stderr.write("slash24 is not a CNI plugin\n")
        raise SystemExit(1)
    slash24(prog_name="slash24")


if __name__ == "__main__":
    main()
