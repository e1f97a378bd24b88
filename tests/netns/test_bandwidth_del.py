"""`bandwidth`: DEL and GC delete everything that ADD created, in any state, and nothing else; STATUS."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from plugins.bandwidth.conf import reference_ifb_name
from spec.attachment import Attachment
from tests.netns.cni import CNI, CNIFailure, with_prev
from tests.netns.node import Node
from tests.netns.shaping_tools import BOTH, EGRESS, Link, ifbs, limited, qdiscs, state


@pytest.fixture
def link(cni: CNI) -> Link:
    """A pod's link, without limits."""
    return Link(cni)


@pytest.mark.parametrize("by", ["ours", "reference"])
def test_del_removes_everything(link: Link, reference: CNI, by: str) -> None:
    """DEL deletes ifb, buckets, filter and ingress qdisc, added by us or the reference; a repeated DEL succeeds."""
    before = state(link.node)
    result = link.add(reference if by == "reference" else link.cni, **BOTH)
    assert state(link.node) != before
    link.delete(result, **BOTH)
    assert state(link.node) == before
    link.delete(result, **BOTH)


@pytest.mark.parametrize("by", ["ours", "reference"])
@pytest.mark.parametrize(
    "broken", ["no prevResult", "no namespace", "namespace vanished", "link vanished", "no limits", "bad limits"]
)
def test_del_succeeds_in_any_state(link: Link, reference: CNI, by: str, broken: str) -> None:
    """DEL deletes the ifb whatever part of the pod or its configuration is lost."""
    result = link.add(reference if by == "reference" else link.cni, **BOTH)
    variables: dict[str, str | None] = {}
    prev, conf = result, limited(**BOTH)
    match broken:
        case "no prevResult":
            prev = None
        case "no namespace":
            variables = {"netns": None}
        case "namespace vanished":
            link.pod.vanish()
        case "link vanished":
            link.node.run(["ip", "link", "del", link.end])
        case "no limits":
            conf = limited()
        case "bad limits":
            conf = limited(ingressRate=-1, egressBurst=7)
    for _ in range(2):
        link.cni.delete(conf, link.pod, prev, **variables)
    assert ifbs(link.node) == []
    if not broken.endswith("vanished"):
        assert qdiscs(link.node, link.end) == {}
        assert link.pod.reaches("10.1.2.1")


def test_del_after_a_chain_of_the_reference(node: Node, cni: CNI, reference: CNI) -> None:
    """A host veth without an alias is found through the netns if DEL gets no prevResult."""
    link = Link(reference)
    link.add(**BOTH)
    link.delete(None, cni, **BOTH)
    assert (ifbs(node), qdiscs(node, link.end)) == ([], {})
    assert link.pod.reaches("10.1.2.1")


def test_del_keeps_the_reference_ifb_of_another_interface(link: Link, reference: CNI) -> None:
    """The reference names the ifb after the container alone; a DEL for eth1 keeps it while eth0 redirects to it."""
    second = Link(link.cni, ifname="eth1", pod=link.pod)
    first_result, second_result = link.add(reference, **EGRESS), second.add(**EGRESS)
    second.delete(second_result, **EGRESS)
    link.check(first_result, **EGRESS)
    link.delete(first_result, **EGRESS)
    assert ifbs(link.node) == []


def test_the_reference_checks_and_deletes_what_ours_added(link: Link, reference: CNI) -> None:
    """Our ifb has the name that the reference looks for, so nothing is left after switching back to the reference."""
    result = link.add(**BOTH)
    link.check(result, reference, **BOTH)
    assert ifbs(link.node) == [result["interfaces"][-1]["name"]]
    link.delete(result, reference, **BOTH)
    assert ifbs(link.node) == []


def test_interfaces_of_a_container_have_an_ifb_each(link: Link) -> None:
    """The second cannot have the reference's name; ADD, CHECK and DEL of either interface do not affect the other."""
    second = Link(link.cni, ifname="eth1", pod=link.pod)
    results = {each: each.add(**EGRESS) for each in (link, second)}
    assert len(ifbs(link.node)) == 2
    for each in (second, link):
        results[each] = each.add(**EGRESS)  # repeated: each finds its own
    assert len(ifbs(link.node)) == 2
    link.delete(results[link], **EGRESS)
    second.check(results[second], **EGRESS)
    assert ifbs(link.node) == [results[second]["interfaces"][-1]["name"]]
    link.add(**EGRESS)
    second.delete(results[second], **EGRESS)
    link.check(results[link], **EGRESS)


def test_a_foreign_link_with_the_reference_s_name_is_kept(link: Link) -> None:
    """The foreign link is kept; the ifb gets its alternative name, by which CHECK, ADD and DEL find it."""
    name = reference_ifb_name(Attachment("net", link.pod.name, "eth0"))
    link.node.run(["ip", "link", "add", name, "type", "ifb"])
    link.node.run(["ip", "link", "set", name, "alias", "a stranger's"])
    result = link.add(**EGRESS)
    own = result["interfaces"][-1]["name"]
    assert sorted(ifbs(link.node)) == sorted([name, own])
    link.check(link.add(**EGRESS), **EGRESS)
    link.delete(result, **EGRESS)
    assert ifbs(link.node) == [name]


def test_add_takes_over_from_the_reference(link: Link, reference: CNI) -> None:
    """An ADD after the reference's replaces its limits and its ifb."""
    link.add(reference, **BOTH)
    result = link.add(**{**BOTH, "egressRate": 8_000_000})
    link.check(result, **{**BOTH, "egressRate": 8_000_000})
    assert ifbs(link.node) == [result["interfaces"][-1]["name"]]


def test_del_keeps_foreign_qdiscs_and_filters(link: Link) -> None:
    """DEL keeps a qdisc with another handle, filters that redirect elsewhere, and the bucket of a veth not of a pod."""
    node = link.node
    node.run(["ip", "link", "add", "other", "type", "ifb"])
    node.run(["tc", "qdisc", "add", "dev", link.end, "root", "handle", "7:", "pfifo"])
    node.run(["tc", "qdisc", "add", "dev", link.end, "ingress"])
    redirect = ["u32", "match", "u32", "0", "0", "action", "mirred", "egress", "redirect", "dev", "other"]
    node.run(["tc", "filter", "add", "dev", link.end, "ingress", "prio", "5", *redirect])
    node.run(["ip", "link", "add", "gateway", "type", "veth", "peer", "name", "inner"])
    bucket = ["tbf", "rate", "1mbit", "burst", "20000", "limit", "30000"]
    node.run(["tc", "qdisc", "add", "dev", "gateway", "root", "handle", "1:", *bucket])
    before = state(node)
    result = {**link.result, "interfaces": [*link.result["interfaces"], {"name": "gateway"}]}
    link.delete(result, **BOTH)
    assert state(node) == before


def test_gc_deletes_the_ifbs_of_stale_attachments(link: Link) -> None:
    """GC keeps those of other networks, of valid attachments and foreign ones; a stale pod stays connected."""
    valid, elsewhere = Link(link.cni, "podb"), Link(link.cni, "podc")
    link.node.run(["ip", "link", "add", "other", "type", "ifb"])
    stale_ifb = link.add(**BOTH)["interfaces"][-1]["name"]
    kept = [valid.add(**BOTH)["interfaces"][-1]["name"]]
    conf = with_prev({**limited(**BOTH), "name": "net2"}, elsewhere.result)
    kept.append(link.cni.add(conf, elsewhere.pod)["interfaces"][-1]["name"])
    link.cni.gc(limited(), valid.pod)
    assert stale_ifb not in ifbs(link.node)
    assert ifbs(link.node) == sorted([*kept, "other"])
    assert link.pod.reaches("10.1.2.1")
    link.cni.gc(limited())
    assert ifbs(link.node) == sorted([kept[1], "other"])


def test_concurrent_calls_for_many_pods(cni: CNI, node: Node) -> None:
    """ADD, CHECK and DEL of twelve pods concurrently: each gets its own ifb, and nothing is left."""
    links = [Link(cni, f"pod{number}") for number in range(12)]
    before = state(node)
    with ThreadPoolExecutor(12) as pool:
        results = list(pool.map(lambda link: link.add(**BOTH), links))
        list(pool.map(lambda link, result: link.check(result, **BOTH), links, results))
        list(pool.map(lambda link, result: link.delete(result, **BOTH), links, results))
    assert len({result["interfaces"][-1]["name"] for result in results}) == 12
    assert state(node) == before


def test_status(cni: CNI, node: Node) -> None:
    """STATUS succeeds if the kernel has all that is needed, and changes nothing; error 7 for a bad configuration."""
    before = state(node)
    cni.status(limited(**BOTH))
    cni.status(limited())
    assert state(node) == before
    with pytest.raises(CNIFailure) as caught:
        cni.status(limited(ingressRate=7, ingressBurst=8))
    assert caught.value.code == 7


def test_status_without_a_packet_scheduler(cni: CNI, node: Node) -> None:
    """STATUS returns error 50 if the kernel has no traffic control."""
    script = "mount -t tmpfs none /proc && exec env CNI_COMMAND=STATUS CNI_PATH=/nowhere $0"
    argv = ["unshare", "--mount", "sh", "-c", script, cni.folder / "bandwidth"]
    done = node.run(argv, stdin=json.dumps(limited()), check=False)
    answer = json.loads(done.stdout)
    assert (answer["code"], answer["msg"].split(": ")[0]) == (50, "the kernel cannot limit bandwidth")
