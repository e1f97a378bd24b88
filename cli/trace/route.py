"""A trace from its two names to its story."""

from contextlib import ExitStack
from dataclasses import dataclass

from cli.exits import Failure
from cli.facts.attachments import read_attachments
from cli.trace.ends import End, Pods, ends, namespace
from cli.trace.node_view import Inside, Known, look_inside, next_hop_inside
from cli.trace.probe import Probe
from cli.trace.sending import send
from cli.trace.story import STOPPED, Story, Teller


@dataclass(frozen=True)
class Traced:
    """A trace. `untraced`: sentences about what the kernel could not show."""

    source: End
    target: End
    probe: Probe
    story: Story
    untraced: tuple[str, ...]

    @property
    def title(self) -> str:
        """What was sent, and where to."""
        return f"{_end(self.source)} -> {_end(self.target)}, {self.probe}"

    @property
    def verdict(self) -> str:
        """How it ended, as a sentence."""
        return f"{self.source.name} -> {self.target.name}, {self.probe}: {self.story.sentence}"

    @property
    def is_stopped(self) -> bool:
        """Whether the packet, or the answer, stopped somewhere."""
        return self.story.outcome == STOPPED

    def summary(self) -> dict[str, object]:
        """All but the hops, as a document."""
        return {
            "source": {"pod": self.source.name, "address": self.source.address},
            "destination": {"pod": self.target.name if self.target.pod else "", "address": self.target.address},
            "protocol": self.probe.protocol,
            "port": self.probe.port,
            "outcome": self.story.outcome,
            "sentence": self.story.sentence,
            "untraced": list(self.untraced),
        }


def trace(source: str, destination: str, protocol: str, port: int) -> Traced:
    """Send a packet and tell what became of it. Raises Failure."""
    pods = Pods(read_attachments())
    near, far = ends(pods, source, destination)
    with ExitStack() as stack:
        pod = stack.enter_context(namespace(near.pod))
        target = stack.enter_context(namespace(far.pod)) if far.pod else None
        inside = look_inside(pod, far.address, "")
        near = _by_its_route(pods, near, inside)
        try:
            evidence = send(pod, target, protocol, near.address, far.address, port)
        except OSError as error:
            raise Failure(f"the packet cannot be traced: {error.strerror or error}") from error

        def next_hop() -> Known:
            return next_hop_inside(pod, inside.route, far.address)

        story = Teller(evidence, near, far, pods).tell(inside, next_hop)
    return Traced(near, far, evidence.probe, story, tuple(evidence.untraced))


def _by_its_route(pods: Pods, near: End, inside: Inside) -> End:
    """The interface by which the pod sends, if it has several."""
    other = pods.beside(near.pod, inside.link)
    if not other or other is near.pod or not inside.route.source:
        return near
    return End(inside.route.source, near.name, other)


def _end(end: End) -> str:
    return end.address if end.name == end.address else f"{end.name} ({end.address})"
