"""What a node's kernel has for policies besides what they say: made before anything is known, and taken away."""

import os
import select
import shutil
import socket
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from threading import Thread

from agent.log import NOTICE, Log
from daemon.sentences import Sentences
from linux import sysctls
from linux.netlink.socket import Netlink
from linux.nftables.messages import Set, TableName
from linux.nftables.monitor import TableMonitor
from linux.nftables.pod_table import Table
from linux.ownership import group_of
from linux.rtnl.links import find_link, find_link_by_index, list_group
from plugins.pod import pod_files
from policy.objects import LocalPod
from policy.sources.kept_files import KEPT
from rules import policy as tables
from rules import source_validation
from rules.policy import names
from spec.errors import CNIError
from state.files import delete_file

_AGAIN_SECONDS, _ROUND_SECONDS, _GATHER_SECONDS = 5.0, 60.0, 0.2


def prepare(networks: Collection[str], vlan: int = 0) -> None:
    """Make the tables that hold new pods, and have the pods of these networks routed by their gateways.

    These are on the bridges, or on their links for the VLAN. Raises OSError, CNIError.
    """
    tables.ensure_base()
    for network in networks:
        group = group_of(network)
        with Netlink() as host:
            bridges = {veth.master for veth in list_group(host, group) if veth.master}
            found = [bridge for index in sorted(bridges) if (bridge := find_link_by_index(host, index))]
            found = [gateway for one in found if (gateway := find_link(host, f"{one.name}.{vlan}") if vlan else one)]
        for gateway in found:
            tables.set_gateway(group, gateway.mac, gateway.name)
            for scope in ("all", gateway.name):
                if sysctls.read_if_there(f"ipv4/conf/{scope}/send_redirects") == "1":
                    sysctls.try_write(f"ipv4/conf/{scope}/send_redirects", "0")


def bind(pods: Iterable[LocalPod]) -> None:
    """Have attached pods send only from their own addresses, as their ADDs have: policies judge by these.

    Raises OSError.
    """
    found = {pod.owner: (pod.link, pod.ips) for pod in pods if is_there(pod.link)}
    source_validation.keep(found)
    for tag, (link, _) in found.items():
        if not is_there(link):  # a DEL deletes it first, and may have found nothing else
            source_validation.delete_tagged(tag)


def is_there(link: str) -> bool:
    """Whether there is a link of that name, in the network namespace of the calling thread."""
    with suppress(OSError):
        return bool(link and socket.if_nametoindex(link))
    return False


def open_monitor(*more: Table) -> TableMonitor:
    """Receives what others change of the tables, but for the calling thread. Elements of pods are expected.

    They come together with their addresses, and go when these have left. `more`: tables with other elements of pods.
    """
    rare = (names.GATEWAYS, names.GROUPS, names.ROUTERS, names.BRIDGES)  # which only the first pod of a network changes
    sets = [one for each in tables.BASE_SETS.values() for one in each if one not in rare]
    others = [one for table in more for one in table.sets]
    signs = [*names.PODS.values(), *names.LEFT.values()]
    passing = (names.LEFT, names.VACANT, names.CUT, names.DENIED_EGRESS, names.DENIED_INGRESS)
    kept = [one for one in sets if not any(one in each.values() for each in passing)]
    every = [*tables.BASE_SETS, *(table.name for table in more)]
    return TableMonitor(_named(every), _named([*sets, *others]), kept=_named(kept), signs=_named(signs))


def _named(ones: Iterable[TableName | Set]) -> set[bytes]:
    return {f"{one.name}\0".encode() for one in ones}


def remove(folder: str = pod_files.PODS) -> None:
    """Take the tables away, and the files of pods and copies of documents. Raises OSError."""
    tables.delete_all()
    shutil.rmtree(KEPT, ignore_errors=True)
    for name in list(pod_files.names(folder)):
        delete_file(os.path.join(folder, name))
    with suppress(OSError):
        os.rmdir(folder)


class Removal:
    """Keeps a node without policies: calls that were begun before they were disabled may make tables again."""

    def __init__(self, log: Log, remove: Callable[[], None] = remove) -> None:
        self._log, self._remove, self._sentences, self.problem = log, remove, Sentences(log), ""

    def start(self) -> None:
        """Begin, in a thread that ends with the process."""
        Thread(target=self._run, name="policy", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                with open_monitor() as monitor:
                    self._follow(monitor)
            except Exception as error:  # noqa: BLE001  (a mistake here must not end the thread)
                is_expected = isinstance(error, OSError | CNIError)
                self.problem = f"policies cannot be removed: {error if is_expected else repr(error)}"
                self._sentences.tell([self.problem])
            time.sleep(_AGAIN_SECONDS)

    def _follow(self, monitor: TableMonitor) -> None:
        """Remove at once, when somebody makes a table, and from time to time."""
        poll = select.poll()
        poll.register(monitor, select.POLLIN)
        while True:
            self._remove()
            self.problem = ""
            self._sentences.tell([])
            end = time.monotonic() + _ROUND_SECONDS
            while (left := end - time.monotonic()) > 0:
                poll.poll(left * 1000)
                if monitor.has_changed():
                    self._log(NOTICE, {"event": "policies-removed-again"})
                    time.sleep(_GATHER_SECONDS)
                    break
