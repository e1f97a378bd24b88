"""The lines about denied packets: who wanted what, and which policies say no."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.policies.denials import fields_of
from linux.nflog import LoggedPacket
from policy.compiled import ALLOW, DROP, EGRESS, INGRESS, Chain, ChainRule, Compiled, Enforced
from policy.verdicts import Judge
from spec.addresses import pack

WEB, CLIENT, METADATA, NODE = "10.1.2.5", "10.1.9.6", "169.254.169.254", "192.0.2.1"
TCP = socket.IPPROTO_TCP
NAMES = {CLIENT: "team-b/client"}


def isolated(*policies: tuple[str, str], comment: str = "isolated by x", verdict: str = DROP) -> Compiled:
    """A pod default/web with these policies, both of whose chains give one verdict."""
    chains = {name: Chain(name, (ChainRule(verdict, comment=comment),)) for name in (INGRESS, EGRESS)}
    return Compiled(pods={WEB: Enforced("o", "veth", "default/web", INGRESS, EGRESS, policies=policies)}, chains=chains)


def line(
    prefix: str, source: str, to: str, compiled: Compiled, *, port: int = 8080, protocol: int = TCP, **kwargs: bool
) -> dict:
    """What is logged about a packet."""
    judge = Judge(
        compiled, metadata_deny=True, node_access=[(TCP, 53, 53)], is_own_node=lambda address: address == pack(NODE)
    )
    packet = LoggedPacket(prefix, pack(source), pack(to), protocol, 40000 if port else 0, port)
    return dict(fields_of(packet, compiled, judge, lambda address: NAMES.get(address, ""), **kwargs))


def test_the_line_names_the_pods_and_the_policies() -> None:
    """Those that isolate the pod in the direction of the packet, and no others."""
    compiled = isolated((INGRESS, "default/deny-all"), (EGRESS, "default/other"))
    assert line("ingress ", CLIENT, WEB, compiled) == {
        "event": "denied",
        "direction": "ingress",
        "source": CLIENT,
        "sourcePod": "team-b/client",
        "destination": WEB,
        "destinationPod": "default/web",
        "protocol": "tcp",
        "port": 8080,
        "policies": "default/deny-all",
        "msg": 'default/web is isolated by NetworkPolicy "default/deny-all"; none of its policies allows tcp 8080 '
        "from team-b/client",
    }


def test_egress_is_told_of_the_sender() -> None:
    """Who is named by its address if nobody knows its name."""
    compiled = isolated((EGRESS, "default/a"), (EGRESS, "default/b"), (INGRESS, "default/c"))
    found = line("egress ", WEB, "198.51.100.7", compiled, port=0, protocol=socket.IPPROTO_ICMP)
    assert found["msg"] == (
        'default/web is isolated by NetworkPolicies "default/a" and "default/b"; none of its policies allows icmp '
        "to 198.51.100.7"
    )
    assert "destinationPod" not in found
    assert "port" not in found


def test_a_cluster_wide_policy_is_told_with_its_rule() -> None:
    """It may deny what a NetworkPolicy would allow, so only the rule says why."""
    compiled = isolated((INGRESS, "no-strangers"), (INGRESS, "default/a"), comment="no-strangers ingress[0]")
    found = line("ingress ", CLIENT, WEB, compiled)
    assert found["policies"] == "no-strangers,default/a"
    assert found["msg"].startswith("default/web is denied tcp 8080 from team-b/client (")
    assert "no-strangers ingress[0]" in found["msg"]


@pytest.mark.parametrize(("to", "is_to_node", "why"), [(METADATA, False, "metadataAccess"), (NODE, True, "nodeAccess")])
def test_what_no_policy_is_about_is_told_as_such(to: str, is_to_node: bool, why: str) -> None:
    """The metadata service and the node itself, although the pod is isolated."""
    found = line("egress ", WEB, to, isolated((EGRESS, "default/a")), is_to_node=is_to_node)
    assert "isolated" not in found["msg"]
    assert why in found["msg"]


def test_policies_that_have_changed_since_are_not_blamed() -> None:
    """A packet may be older than what is in force."""
    compiled = isolated((INGRESS, "default/a"), verdict=ALLOW)
    assert line("ingress ", CLIENT, WEB, compiled)["msg"] == (
        "default/web was denied tcp 8080 from team-b/client, by policies that have changed since"
    )
    assert "changed since" in line("ingress ", CLIENT, WEB, Compiled())["msg"]


@given(
    st.text(max_size=10),
    st.sampled_from([WEB, CLIENT, METADATA, "fd00::1"]),
    st.sampled_from([WEB, CLIENT, METADATA, "fd00::2"]),
    st.integers(0, 255),
    st.integers(0, 65535),
)
def test_any_packet_gives_a_line(prefix: str, source: str, to: str, protocol: int, port: int) -> None:
    """Whatever is logged, and whoever it is from."""
    found = line(prefix, source, to, isolated((INGRESS, "default/a")), port=port, protocol=protocol)
    assert found["direction"] in (INGRESS, EGRESS)
    assert found["msg"]
