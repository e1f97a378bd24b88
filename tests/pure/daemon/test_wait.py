"""`slash24-node --wait`."""

import signal
import subprocess
import sys

from tests.conftest import ROOT


def test_it_waits_for_the_signal_that_ends_a_pod() -> None:
    """It ends with 0, also as process 1 of a container, where signals have no default action."""
    # The signal must not end Python while it starts: the process inherits that it is blocked.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        process = subprocess.Popen([sys.executable, "-m", "daemon", "--wait"], cwd=ROOT)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
