"""The agent's threads run in the agent's network namespace, whichever namespace they are started from."""

import os
import socket
from threading import Event

from agent import wire
from agent.calls import Call, Worker
from agent.scheduler import Turns
from agent.threads import Threads
from linux.netns import OWN, entered, open_netns
from linux.waiting import wait_until
from spec.request import Request
from spec.suite import Plugin, Suite
from tests.netns.node import Node


def test_a_thread_started_from_a_pod_s_namespace_runs_in_the_agent_s(node: Node) -> None:
    """A call that waits inside a pod's namespace releases its turn: the next call does not run in that namespace."""
    seen, may_end, turns = [], Event(), Turns(Threads(4))
    fd = open_netns(f"/proc/{node.pid}/ns/net")

    def delete(request: Request) -> None:
        if request.container_id == "first":
            with entered(fd), request.suite.released():
                seen.append(os.stat(OWN).st_ino)
                turns.submit(worker.perform, call("second"))
                may_end.wait(10)
        else:
            seen.append(os.stat(OWN).st_ino)
            may_end.set()

    def call(container_id: str) -> Call:
        environ = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": container_id, "CNI_IFNAME": "eth0", "CNI_PATH": "/"}
        request = wire.Request("plain", environ, b'{"cniVersion": "1.1.0", "name": "net", "type": "plain"}')
        connections.append(socket.socketpair())
        return Call(connections[-1][0], request, None, 60.0)

    connections: list[tuple[socket.socket, socket.socket]] = []
    suite = Suite(home=None, load={"plain": Plugin("plain", delete=delete)}.get, released=turns.released)
    outcomes = []
    worker = Worker(suite, lambda *_: None, outcomes.append)
    turns.submit(worker.perform, call("first"))
    assert wait_until(lambda: len(outcomes) == 2, seconds=10)
    os.close(fd)
    for connection in connections:
        connection[1].close()
    assert [outcome.code for outcome in outcomes] == [0, 0]
    assert seen[0] != os.stat(OWN).st_ino
    assert seen[1] == os.stat(OWN).st_ino
