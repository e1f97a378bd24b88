"""What an ADD answers is in force when it answers."""

from tests.conformance.support import DUAL, network
from tests.netns.cni import CNI
from tests.netns.node import Node

PODS = 40


def test_addresses_can_be_used_at_once(cni: CNI, node: Node) -> None:
    """A program in the pod can listen at each address in the very moment that the ADD is over, of either IP version."""
    for number in range(PODS):
        pod = node.pod(f"pod{number}")
        for ip in cni.add(network(DUAL), pod)["ips"]:
            address = ip["address"].partition("/")[0]
            with pod.socket(address, "tcp") as listener:
                listener.bind((address, 80))  # "Cannot assign requested address" while the kernel thinks about it
