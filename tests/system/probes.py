"""Echo requests between two hosts while something happens to the network: how many were lost, and for how long."""

import itertools
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.netns.node import Host

_INTERVAL = 0.02  # seconds


@dataclass
class Loss:
    """What `ping` counted; filled in at the end. `longest`: seconds between two answers."""

    sent: int = 0
    lost: int = 0
    longest: float = 0.0


@contextmanager
def probing(source: Host, address: str) -> Iterator[Loss]:
    """Send an echo request every 20 ms meanwhile."""
    assert source.reaches(address, timeout=10), f"no echo from {address}"
    argv = ["ping", "-n", "-D", "-i", str(_INTERVAL), address]
    ping = source.start(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    loss = Loss()
    try:
        assert ping.stdout.readline().startswith("PING")
        yield loss
    finally:
        ping.send_signal(signal.SIGINT)
        text = ping.communicate(timeout=20)[0]
    sent, received = map(int, re.search(r"(\d+) packets transmitted, (\d+) received", text).groups())
    answered = [float(stamp) for stamp in re.findall(r"^\[([\d.]+)\] \d+ bytes from", text, re.MULTILINE)]
    loss.sent, loss.lost = sent, sent - received
    loss.longest = max((after - before for before, after in itertools.pairwise(answered)), default=0.0)
