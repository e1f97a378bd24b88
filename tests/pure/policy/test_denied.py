"""Totals of denied packets, from counters of the kernel that start again."""

import itertools
import time
from threading import Thread

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


def update(denied: Denied, readings: dict[tuple[str, str], int], compiled: Compiled) -> None:
    """Have the totals take in what was read."""
    denied.update(lambda: readings, compiled)


def test_packets_count_for_each_policy_of_the_direction() -> None:
    """Any of them could have allowed them."""
    denied = Denied()
    update(denied, {(INGRESS, WEB): 3, (EGRESS, WEB): 2}, pods(web="shop/web"))
    update(denied, {(INGRESS, WEB): 4, (EGRESS, WEB): 2}, pods(web="shop/web"))
    assert denied.totals == {
        (INGRESS, "shop/web", "shop/deny-all"): 4,
        (INGRESS, "shop/web", "shop/allow-web"): 4,
        (EGRESS, "shop/web", "shop/deny-all"): 2,
    }


def test_what_no_policy_denied_counts_without_one() -> None:
    """As the metadata service, or a port of the node."""
    denied = Denied()
    update(denied, {(EGRESS, WEB): 2}, Compiled(pods={WEB: Enforced("o", "veth", "shop/web")}))
    assert denied.totals == {(EGRESS, "shop/web", ""): 2}


def test_a_pod_without_a_name_counts_by_its_address() -> None:
    """As one that was attached without CNI_ARGS."""
    denied = Denied()
    update(denied, {(EGRESS, WEB): 2}, Compiled(pods={WEB: Enforced("o", "veth", "")}))
    assert denied.totals == {(EGRESS, WEB, ""): 2}


def test_the_next_pod_of_an_address_starts_from_nothing() -> None:
    """What was denied to the first one stays its own, and what its last reading had missed."""
    denied = Denied()
    update(denied, {(INGRESS, WEB): 3}, pods(web="shop/old"))
    update(denied, {(INGRESS, WEB): 5}, pods())
    update(denied, {}, pods())
    update(denied, {(INGRESS, WEB): 5}, pods(web="shop/new"))
    totals = denied.totals
    assert totals[INGRESS, "shop/old", "shop/deny-all"] == 5
    assert totals[INGRESS, "shop/new", "shop/deny-all"] == 5


def test_pods_that_have_been_gone_for_an_hour_are_forgotten() -> None:
    """Not those that have been denied nothing for long, nor before everybody has read the last of them."""
    now = 0.0
    denied = Denied(clock=lambda: now)
    update(denied, {(INGRESS, WEB): 3, (INGRESS, CLIENT): 1}, pods(web="shop/web", client="shop/client"))
    now = 3000.0
    update(denied, {(INGRESS, CLIENT): 1}, pods(client="shop/client"))
    assert denied.totals[INGRESS, "shop/web", "shop/deny-all"] == 3
    now = 3700.0
    update(denied, {}, pods(client="shop/client"))
    assert {pod for _, pod, _ in denied.totals} == {"shop/client"}


def test_policies_that_have_been_gone_for_an_hour_are_forgotten() -> None:
    """Who may write policies could otherwise fill the daemon's memory with names of such as are gone."""
    now = 0.0
    denied = Denied(clock=lambda: now)
    for turn in range(100):
        now += 600
        policies = ((INGRESS, f"shop/p{turn}"), (INGRESS, "shop/always"))
        web = Enforced("o", "veth", "shop/web", policies=policies)
        update(denied, {(INGRESS, WEB): turn + 1}, Compiled(pods={WEB: web}))
    assert denied.totals[INGRESS, "shop/web", "shop/always"] == 100
    assert {policy for *_, policy in denied.totals} == {"shop/always", *(f"shop/p{turn}" for turn in range(93, 100))}


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.booleans()), max_size=30))
def test_totals_are_what_was_denied(rounds: list[tuple[int, bool, bool]]) -> None:
    """Whatever the kernel forgets after it was read, and however often it is read; and they never shrink."""
    denied, counter, expected, before = Denied(), 0, 0, {}
    for packets, is_forgotten, is_gone in rounds:
        counter += packets
        expected += packets
        update(denied, {(INGRESS, WEB): counter} if counter else {}, pods() if is_gone else pods(web="shop/web"))
        totals = denied.totals
        assert all(totals[key] >= before[key] for key in before)
        before = totals
        if is_forgotten:
            counter = 0
            update(denied, {}, pods(web="shop/web"))
        if is_gone:
            update(denied, {(INGRESS, WEB): counter} if counter else {}, pods(web="shop/web"))
    # At first no pod may have had the address; then nobody is to blame.
    unknown = rounds[0][0] if rounds and rounds[0][2] else 0
    assert denied.totals.get((INGRESS, "shop/web", "shop/deny-all"), 0) == expected - unknown


def test_readings_of_several_threads_are_taken_in_their_order() -> None:
    """Or one that is older than the last would look like that of a kernel that has started again."""
    denied, counter = Denied(), itertools.count(1)
    web = pods(web="shop/web")

    def read() -> dict[tuple[str, str], int]:
        packets = next(counter)
        time.sleep(0.0005 * (packets % 3))
        return {(INGRESS, WEB): packets}

    threads = [Thread(target=lambda: [denied.update(read, web) for _ in range(20)]) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert denied.totals[INGRESS, "shop/web", "shop/deny-all"] == 100
