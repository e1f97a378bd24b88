"""The command line of the agent."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plugins.__main__ import VERSION
from spec.addresses import family_of, pack

SOCKET = "/run/slash24/cni.sock"


@dataclass(frozen=True)
class Options:
    """See `--help`. `host_root`: "" for none; `listen`: "" (nowhere), a path, or HOST:PORT."""

    socket: str
    home: str | None
    host_root: str
    listen: str
    workers: int
    deadline: float


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Options:
    """Raises SystemExit, with a message on stderr, if an option is invalid."""
    frozen = getattr(sys, "frozen", False)
    parser = argparse.ArgumentParser(
        prog="slash24-agent",
        description="Serves CNI calls on a Unix socket, with the plugins of slash24.",
    )
    parser.add_argument("--version", action="version", version=VERSION)
    parser.add_argument(
        "--socket",
        metavar="PATH",
        type=os.path.abspath,
        default=environ.get("SLASH24_SOCKET") or SOCKET,
        help=f"where launchers connect (default: $SLASH24_SOCKET, else {SOCKET}), unless systemd passes a socket",
    )
    parser.add_argument(
        "--home",
        metavar="DIR",
        type=_absolute,
        default=os.path.dirname(os.path.dirname(os.path.realpath(sys.executable))) if frozen else None,
        help="the folder of slash24's executables, as in the runtime's CNI_PATH (default: where this one is installed)",
    )
    parser.add_argument(
        "--host-root",
        metavar="DIR",
        type=_folder,
        default="",
        help="in a container: where the host's root is mounted; every other path is then a path of the host",
    )
    parser.add_argument(
        "--listen",
        metavar="WHERE",
        type=place,
        default="",
        help="serve /healthz, /readyz and /metrics on a unix socket (a path) or a loopback address (127.0.0.1:9324)",
    )
    parser.add_argument(
        "--workers", metavar="N", type=_count, default=128, help="maximum number of concurrent calls (default: 128)"
    )
    parser.add_argument(
        "--deadline", metavar="SECONDS", type=_seconds, default=240.0, help="maximum duration of a call (default: 240)"
    )
    return Options(**vars(parser.parse_args(argv)))


def _absolute(text: str) -> str:
    if not text.startswith("/"):
        raise argparse.ArgumentTypeError(f"expected an absolute path, got {text!r}")
    return text


def _folder(text: str) -> str:
    if text and not os.path.isdir(_absolute(text)):
        raise argparse.ArgumentTypeError(f"not a folder: {text!r}")
    return text.rstrip("/")


def place(text: str) -> str:
    """For argparse: where to serve pages, "" for nowhere, a path or HOST:PORT of a loopback address."""
    if not text or text.startswith("/"):
        return text
    try:
        split_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a path, 127.0.0.1:PORT or [::1]:PORT, got {text!r}") from error
    return text


def split_address(text: str) -> tuple[int, str, int]:
    """(address family, address, port) of HOST:PORT. Raises ValueError unless it is a loopback address."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise ValueError("not a port")
    packed = pack(host)
    if packed[0] != 127 if len(packed) == 4 else packed != bytes(15) + b"\1":
        raise ValueError("not a loopback address")
    return family_of(host), host, int(port)


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"expected a number of 1 to 1000, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"expected seconds, 0.1 to 86400, got {text!r}")
    return value
