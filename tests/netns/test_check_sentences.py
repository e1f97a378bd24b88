"""What CHECK says: for each damage the sentence that is about it, and not any failure."""

import pytest

from tests.conformance.test_check import DAMAGES
from tests.netns.cni import CNI, CNIFailure
from tests.netns.node import Node

SENTENCES = {
    "address removed": "Failed to match addr 10.1.2.2/24 on interface eth0",
    "ipv6 address removed": "Failed to match addr fd00:1::2/64 on interface eth0",
    "default route removed": "Expected Route 0.0.0.0/0 via 10.1.2.1 not found",
    "ipv6 default route removed": "Expected Route ::/0 via fd00:1::1 not found",
    "default route leads elsewhere": "Expected Route 0.0.0.0/0 via 10.1.2.1 not found",
    "route removed": "Expected Route 10.9.0.0/16 via 10.1.2.9 not found",
    "route leads elsewhere": "Expected Route 10.9.0.0/16 via 10.1.2.9 not found",
    "link down": 'Interface "eth0" in the container is down',
    "layer 2 link down": 'Interface "eth0" in the container is down',
    "link removed": 'Interface "eth0" is not in the container',
    "layer 2 link removed": 'Interface "eth0" is not in the container',
    "link is another one": "Interface \"eth0\" in the container is not a veth but 'bridge'",
    "mac changed": 'Interface "eth0" has MAC c2:b0:57:49:47:f2, prevResult says',
    "host end left the bridge": "CNI veth created for bridge br0 was not found",
    "host end down": 'Bridge port "VETH" is down',
    "bridge removed": 'Bridge interface "br0" not found',
    "bridge down": 'Bridge "br0" is down',
    "gateway address removed": 'Gateway address 10.1.2.1/24 is not on "br0"',
    "forwarding off": "The node does not forward: net/ipv4/ip_forward is not 1",
    "lease removed": "10.1.2.2: not leased to poda eth0",
    "lease is someone else's": "10.1.2.2: not leased to poda eth0",
    "masquerade removed": "10.1.2.2 is not masqueraded",
    "nftables masquerade removed": "10.1.2.2 is not masqueraded",
    "anti-spoofing removed": "link VETH is not watched",
    "hairpin mode off": 'Bridge port "VETH" has hairpin mode off, configured is on',
    "isolation off": 'Bridge port "VETH" has isolation off, configured is on',
    "promiscuous mode off": 'Bridge "br0" is not in promiscuous mode',
}


def test_every_damage_has_a_sentence() -> None:
    """The two tables are about the same."""
    assert SENTENCES.keys() == DAMAGES.keys()


@pytest.mark.parametrize("damage", DAMAGES)
def test_check_names_the_damage(cni: CNI, node: Node, damage: str) -> None:
    """The error's message, or its details, have the sentence."""
    conf, break_it = DAMAGES[damage]
    pod = node.pod("poda")
    result = cni.add(conf, pod)
    break_it(node, pod, result)
    with pytest.raises(CNIFailure) as caught:
        cni.check(conf, pod, result)
    assert SENTENCES[damage].replace("VETH", result["interfaces"][1]["name"]) in caught.value.text
