"""Where the agent's threads are: at home, whoever starts them from where."""

import os
from threading import Event

from agent.pool import Pool
from linux.netns import OWN, entered, open_netns
from linux.waiting import wait_until
from tests.netns.node import Node


def test_a_thread_that_is_started_from_a_pod_s_namespace_begins_at_home(node: Node) -> None:
    """A call that waits inside a pod's namespace lets others begin: not in there."""
    seen, may_end = [], Event()
    home = os.stat(OWN).st_ino
    fd = open_netns(f"/proc/{node.pid}/ns/net")

    def work(job: int) -> bool:
        if job == 0:
            with entered(fd), pool.aside():
                seen.append(os.stat(OWN).st_ino)
                pool.submit(1)
                may_end.wait(10)
        else:
            seen.append(os.stat(OWN).st_ino)
            may_end.set()
        return True

    pool: Pool[int] = Pool(4, work, ready=1)
    pool.submit(0)
    assert wait_until(may_end.is_set, seconds=10)
    os.close(fd)
    assert seen[0] != home
    assert seen[1] == home
