"""What people call the ends of a trace."""

import pytest

from cli.exits import Failure
from cli.facts.attachments import AttachedPod
from cli.trace.ends import Pods, ends


def pod(name: str, container: str, *addresses: str, ifname: str = "eth0") -> AttachedPod:
    """An attached pod."""
    return AttachedPod("net", container, ifname, "", name, addresses, "veth" + container, 1, "", "cni0", "", 0)


PODS = Pods(
    [
        pod("shop/web", "aaa1", "10.1.2.2", "fd00::2"),
        pod("shop/db", "aab2", "10.1.2.3"),
        pod("test/db", "bbb3", "fd00::4"),
        pod("shop/two", "ccc4", "10.2.0.5", ifname="net1"),
        pod("shop/two", "ccc4", "10.1.2.5"),
    ]
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("shop/web", "10.1.2.2"),
        ("web", "10.1.2.2"),
        ("aaa", "10.1.2.2"),
        ("fd00::2", "10.1.2.2"),
        ("bbb3", "fd00::4"),
        ("two", "10.1.2.5"),
        ("10.2.0.5", "10.2.0.5"),
    ],
)
def test_a_pod_is_found(text: str, address: str) -> None:
    """By name, container or address; of two interfaces the first, unless an address names the other."""
    assert PODS.find(text).addresses[0] == address


@pytest.mark.parametrize("text", ["db", "aa"])
def test_several_pods(text: str) -> None:
    """Which they are."""
    with pytest.raises(Failure, match="2 pods"):
        PODS.find(text)


def test_both_ends_are_of_one_version() -> None:
    """Whatever addresses they have; an address may be that of a pod, or of anybody."""
    near, far = ends(PODS, "web", "bbb")
    assert (near.address, far.address, far.name) == ("fd00::2", "fd00::4", "test/db")
    near, far = ends(PODS, "web", "10.1.2.3")
    assert (near.address, far.address, far.name) == ("10.1.2.2", "10.1.2.3", "shop/db")
    near, far = ends(PODS, "web", "2001:db8::1")
    assert (near.address, far.name, far.pod) == ("fd00::2", "2001:db8::1", None)
    assert ends(PODS, "fd00::2", "fd00::4")[0].address == "fd00::2"
    for words, sentence in (
        (("shop/db", "fd00::4"), "no IP version in common"),
        (("nobody", "web"), "slash24 pods"),
        (("web", "nobody"), "no IP address"),
        (("web", ""), "no IP address"),
    ):
        with pytest.raises(Failure, match=sentence):
            ends(PODS, *words)
