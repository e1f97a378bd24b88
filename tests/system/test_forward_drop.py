"""Nodes whose iptables policy for FORWARD is DROP, as Docker sets it: docs/kubenet.md says what lets pods through."""

import re

import pytest

from tests.conftest import ROOT
from tests.netns.node import ask
from tests.system.underlay import OUTSIDE, Underlay


@pytest.mark.parametrize("kind", ["kubenet", "vxlan"])
def test_pods_reach_each_other_where_forward_drops(kind: str, underlay: Underlay) -> None:
    """The chained firewall lets pods out; packets from pods of other nodes need the documented rules."""
    members = [underlay.join("left") for _ in range(2)]
    pods, addresses = [], []
    for member in members:
        member.configure(kind, members)
        member.node.run(["iptables", "-P", "FORWARD", "DROP"])
        pod = member.add("pod")
        chained = {"cniVersion": "1.1.0", "name": "cluster", "type": "firewall", "prevResult": member.results["pod"]}
        member.cni.add(chained, pod)
        pods.append(pod)
        addresses.append(member.address(pod, 4))
    assert ask(pods[0], underlay.outside, OUTSIDE[0], 8000, "tcp") == members[0].addresses[0]
    with pytest.raises(TimeoutError):
        ask(pods[0], pods[1], addresses[1], 8000, "tcp")
    section = (ROOT / "docs" / "kubenet.md").read_text().partition("## Where the node's firewall drops")[2]
    block = re.search(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)[1]
    for member in members:
        member.node.run(["sh", "-ec", block])
    for here, there in ((0, 1), (1, 0)):
        assert ask(pods[here], pods[there], addresses[there], 8001, "tcp") == addresses[here]
