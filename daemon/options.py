"""The command line of the daemon."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass

from agent.log import LEVELS
from agent.options import place
from daemon.config import CONFIG_FILE
from plugins.__main__ import VERSION


@dataclass(frozen=True)
class Options:
    """See `--help`. `listen`: "" (nowhere), a path, or HOST:PORT; `install`: "" or a folder."""

    config: str
    check: bool
    uninstall: bool
    install: str
    wait: bool
    listen: str
    log_level: str
    log_format: str


def parse(argv: Sequence[str]) -> Options:
    """Raises SystemExit, with a message on stderr, if an option is invalid."""
    parser = argparse.ArgumentParser(
        prog="slash24-node",
        description="Makes the nodes of a cluster known to each other, and keeps this node's network true.",
    )
    parser.add_argument("--version", action="version", version=VERSION)
    parser.add_argument(
        "--config", metavar="FILE", type=os.path.abspath, default=CONFIG_FILE, help=f"default: {CONFIG_FILE}"
    )
    parser.add_argument(
        "--listen",
        metavar="WHERE",
        type=place,
        default="",
        help="serve /healthz, /readyz and /metrics on a unix socket (a path) or a loopback address (127.0.0.1:9325)",
    )
    parser.add_argument(
        "--log-level", choices=tuple(LEVELS), default="info", help="the least important lines to log (default: info)"
    )
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help='lines of key=value pairs, or a JSON object a line (default: "text")',
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--check", action="store_true", help="only check the configuration, and explain every mistake")
    instead.add_argument(
        "--uninstall",
        action="store_true",
        help="only remove everything that slash24 has made on this node, except what belongs to pods that run",
    )
    instead.add_argument(
        "--install",
        metavar="DIR",
        default="",
        help="only copy the plugins, beside which this program is installed, into a folder such as /opt/cni/bin",
    )
    instead.add_argument("--wait", action="store_true", help="only wait for SIGTERM, for a pod that has nothing to do")
    return Options(**vars(parser.parse_args(argv)))
