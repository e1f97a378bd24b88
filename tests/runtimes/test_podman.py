"""podman with its CNI backend: the networks that it generates, and what its commands do to them."""

from collections.abc import Iterator

import pytest

from tests.netns.node import NODE_V4, NODE_V6, OUTSIDE_V4, OUTSIDE_V6, Host, Pod, ask, wait_until
from tests.runtimes.cri import ipv4
from tests.runtimes.engines import Podman
from tests.runtimes.leftovers import leftovers
from tests.runtimes.machine import Machine

WEB = [(8080, 80)]


@pytest.fixture
def tidy(machine: Machine, podman: Podman, outside: Pod) -> Iterator[Podman]:
    """podman with two networks that it generates, "one" for both IP versions; nothing of a container is left."""
    podman.run("network", "create", "--ipv6", "--subnet=10.50.1.0/24", "--subnet=fd00:50:1::/64", "one")
    podman.run("network", "create", "two")
    yield podman
    podman.run("rm", "--all", "--force", "--time", "0")
    podman.run("network", "rm", "one", "two")
    assert wait_until(lambda: not leftovers(machine)), leftovers(machine)


def is_published(outside: Host, pod: Host) -> bool:
    """Whether the outside host reaches the pod by the node's port, and is seen as who it is."""
    return ask(outside, pod, "0.0.0.0", 80, "tcp", to=(NODE_V4, 8080)) == OUTSIDE_V4


def test_the_default_network(tidy: Podman, outside: Pod) -> None:
    """Debian's list "podman": containers reach each other and outside, and are reached by their ports."""
    web, other = tidy.start("podman", "web", WEB), tidy.start("podman", "other")
    assert other.reaches(ipv4(web))
    assert ask(other, outside, OUTSIDE_V4, 80, "tcp") == NODE_V4
    assert is_published(outside, web)


def test_a_generated_network_for_both_ip_versions(tidy: Podman, outside: Pod) -> None:
    """The ports are published for both."""
    web, other = tidy.start("one", "web", WEB), tidy.start("one", "other")
    v4, v6 = sorted(address.partition("/")[0] for address in web.addresses("eth0"))
    assert other.reaches(v4)
    assert other.reaches(v6)
    assert is_published(outside, web)
    assert ask(outside, web, v6, 80, "tcp", to=(NODE_V6, 8080)) == OUTSIDE_V6


def test_a_container_in_two_networks(tidy: Podman, outside: Pod) -> None:
    """It reaches the containers of both, and its ports are published once."""
    both = tidy.start("one,two", "both", WEB)
    first, second = tidy.start("one", "first"), tidy.start("two", "second")
    assert both.reaches(ipv4(first))
    assert both.reaches(ipv4(second))
    assert is_published(outside, both)


def test_connect_and_disconnect(tidy: Podman, outside: Pod) -> None:
    """A running container joins another network and leaves it, and keeps its port."""
    web = tidy.start("one", "web", WEB)
    second = tidy.start("two", "second")
    tidy.run("network", "connect", "two", "web")
    assert web.reaches(ipv4(second))
    assert is_published(outside, web)
    tidy.run("network", "disconnect", "two", "web")
    assert set(web.links()) == {"lo", "eth0"}
    assert is_published(outside, web)


def test_a_port_moves_on_when_its_network_is_left(tidy: Podman, outside: Pod) -> None:
    """As docs/portmap.md says, by `podman network reload`."""
    web = tidy.start("one", "web", WEB)
    tidy.run("network", "connect", "two", "web")
    tidy.run("network", "disconnect", "one", "web")
    tidy.run("network", "reload", "web")
    assert is_published(outside, web)


def test_restart(tidy: Podman, outside: Pod) -> None:
    """A container that is restarted is published as before."""
    tidy.start("one", "web", WEB)
    tidy.run("restart", "--time", "0", "web")
    assert is_published(outside, tidy.netns("web"))


def test_reload_after_the_rules_were_flushed(tidy: Podman, machine: Machine, outside: Pod) -> None:
    """`podman network reload` writes the rules of a running container again."""
    web = tidy.start("one", "web", WEB)
    machine.run(["nft", "flush", "ruleset"])
    tidy.run("network", "reload", "--all")
    assert is_published(outside, web)
    assert ask(web, outside, OUTSIDE_V4, 80, "tcp") == NODE_V4
