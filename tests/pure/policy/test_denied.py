"""Totals of denied packets, from counters of the kernel that start again."""

from hypothesis import given
from hypothesis import strategies as st

from policy.compiled import EGRESS, INGRESS, Compiled, Enforced
from policy.denied import Denied

WEB, CLIENT = "10.1.2.5", "10.1.2.6"


def pods(**names: str) -> Compiled:
    """Pods with these names at the addresses `web` and `client`, each isolated both ways by policies."""
    both = (INGRESS, "shop/deny-all"), (EGRESS, "shop/deny-all"), (INGRESS, "shop/allow-web")
    addresses = {"web": WEB, "client": CLIENT}
    return Compiled(pods={addresses[key]: Enforced("o", "veth", name, policies=both) for key, name in names.items()})


def test_packets_count_for_each_policy_of_the_direction() -> None:
    """Any of them could have allowed them."""
    denied = Denied()
    denied.update({(INGRESS, WEB): 3, (EGRESS, WEB): 2}, pods(web="shop/web"))
    denied.update({(INGRESS, WEB): 4, (EGRESS, WEB): 2}, pods(web="shop/web"))
    assert denied.totals == {
        (INGRESS, "shop/web", "shop/deny-all"): 4,
        (INGRESS, "shop/web", "shop/allow-web"): 4,
        (EGRESS, "shop/web", "shop/deny-all"): 2,
    }


def test_what_no_policy_denied_counts_without_one() -> None:
    """As the metadata service, or a port of the node."""
    denied = Denied()
    denied.update({(EGRESS, WEB): 2}, Compiled(pods={WEB: Enforced("o", "veth", "shop/web")}))
    assert denied.totals == {(EGRESS, "shop/web", ""): 2}


def test_a_pod_without_a_name_counts_by_its_address() -> None:
    """As one that was attached without CNI_ARGS."""
    denied = Denied()
    denied.update({(EGRESS, WEB): 2}, Compiled(pods={WEB: Enforced("o", "veth", "")}))
    assert denied.totals == {(EGRESS, WEB, ""): 2}


def test_the_next_pod_of_an_address_starts_from_nothing() -> None:
    """What was denied to the first one stays its own, and what its last reading had missed."""
    denied = Denied()
    denied.update({(INGRESS, WEB): 3}, pods(web="shop/old"))
    denied.update({(INGRESS, WEB): 5}, pods())
    denied.update({}, pods())
    denied.update({(INGRESS, WEB): 5}, pods(web="shop/new"))
    totals = denied.totals
    assert totals[INGRESS, "shop/old", "shop/deny-all"] == 5
    assert totals[INGRESS, "shop/new", "shop/deny-all"] == 5


def test_pods_that_have_been_gone_for_an_hour_are_forgotten() -> None:
    """Not those that have been denied nothing for long, nor before everybody has read the last of them."""
    now = 0.0
    denied = Denied(clock=lambda: now)
    denied.update({(INGRESS, WEB): 3, (INGRESS, CLIENT): 1}, pods(web="shop/web", client="shop/client"))
    now = 3000.0
    denied.update({(INGRESS, CLIENT): 1}, pods(client="shop/client"))
    assert denied.totals[INGRESS, "shop/web", "shop/deny-all"] == 3
    now = 3700.0
    denied.update({}, pods(client="shop/client"))
    assert {pod for _, pod, _ in denied.totals} == {"shop/client"}


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.booleans()), max_size=30))
def test_totals_are_what_was_denied(rounds: list[tuple[int, bool, bool]]) -> None:
    """Whatever the kernel forgets after it was read, and however often it is read; and they never shrink."""
    denied, counter, expected, before = Denied(), 0, 0, {}
    for packets, is_forgotten, is_gone in rounds:
        counter += packets
        expected += packets
        denied.update({(INGRESS, WEB): counter} if counter else {}, pods() if is_gone else pods(web="shop/web"))
        totals = denied.totals
        assert all(totals[key] >= before[key] for key in before)
        before = totals
        if is_forgotten:
            counter = 0
            denied.update({}, pods(web="shop/web"))
        if is_gone:
            denied.update({(INGRESS, WEB): counter} if counter else {}, pods(web="shop/web"))
    # At first no pod may have had the address; then nobody is to blame.
    unknown = rounds[0][0] if rounds and rounds[0][2] else 0
    assert denied.totals.get((INGRESS, "shop/web", "shop/deny-all"), 0) == expected - unknown
