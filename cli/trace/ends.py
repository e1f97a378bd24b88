"""The two ends of a trace: a pod of this node, and a pod of this node or an address."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from cli.exits import Failure
from cli.facts.attachments import AttachedPod
from linux.netns import open_netns
from spec.addresses import parse_ip


@dataclass(frozen=True)
class End:
    """An end: its `address`, its name for people, and if it is a pod of this node the attachment."""

    address: str
    name: str
    pod: AttachedPod | None = None


class Pods:
    """The pods of this node, found by what people call them."""

    def __init__(self, attached: Sequence[AttachedPod]) -> None:
        self._attached = attached

    def find(self, text: str) -> AttachedPod | None:
        """The pod with that name ("namespace/name", or "name"), beginning of a container ID, or address; None if none.

        Of several interfaces the first is meant, unless an address is given. Raises Failure if there are several pods.
        """
        for is_meant in (
            lambda one: one.pod == text,
            lambda one: text in one.addresses,
            lambda one: one.pod.rpartition("/")[2] == text,
            lambda one: one.container == text,
            lambda one: one.container.startswith(text),
        ):
            found = [one for one in self._attached if text and is_meant(one)]
            if len({one.container for one in found}) > 1:
                names = ", ".join(f"{name_of(one)} ({', '.join(one.addresses)})" for one in found[:5])
                raise Failure(f"{text} is the name of {len(found)} pods: {names}; name an address")
            if found:
                return min(found, key=lambda one: one.ifname)
        return None

    def beside(self, pod: AttachedPod, ifname: str) -> AttachedPod | None:
        """The attachment of the same container with an interface of that name."""
        return next((one for one in self._attached if (one.container, one.ifname) == (pod.container, ifname)), None)

    def at(self, address: str) -> AttachedPod | None:
        """The pod with an address, None if none of this node has it."""
        return next((one for one in self._attached if address in one.addresses), None)

    def name_at(self, address: str) -> str:
        """The name of the pod with an address; else the address."""
        pod = self.at(address)
        return name_of(pod) if pod else address

    def by_veth(self, name: str) -> AttachedPod | None:
        """The pod with that host veth."""
        return next((one for one in self._attached if one.veth == name), None)


def name_of(pod: AttachedPod) -> str:
    """A pod for people."""
    return pod.pod or f"container {pod.container[:13]}"


def ends(pods: Pods, source: str, destination: str) -> tuple[End, End]:
    """Both ends, with addresses of the same IP version. Raises Failure."""
    sender = pods.find(source)
    if not sender:
        raise Failure(f"no pod of this node is called {source}: `slash24 pods` lists them")
    receiver = pods.find(destination)
    if receiver:
        given = [destination] if destination in receiver.addresses else receiver.addresses
    else:
        try:
            given = [str(parse_ip(destination))]
        except ValueError as error:
            raise Failure(f"no pod of this node is called {destination}, and it is no IP address") from error
        receiver = pods.at(given[0])
    own = [source] if source in sender.addresses else sender.addresses
    for target in given:
        for address in own:
            if (":" in target) == (":" in address):
                far = End(target, name_of(receiver) if receiver else target, receiver)
                return End(address, name_of(sender), sender), far
    raise Failure(
        f"{source} ({', '.join(own) or 'no address'}) and {destination} ({', '.join(given) or 'no address'})"
        " have no IP version in common"
    )


@contextmanager
def namespace(pod: AttachedPod) -> Iterator[int]:
    """A descriptor of a pod's network namespace. Raises Failure if it cannot be opened."""
    if not pod.netns:
        raise Failure(f"the network namespace of {name_of(pod)} cannot be found")
    try:
        fd = open_netns(pod.netns)
    except OSError as error:
        raise Failure(f"the network namespace of {name_of(pod)}, {pod.netns}: {error.strerror}") from error
    try:
        yield fd
    finally:
        os.close(fd)
