"""Records that are wrong in every way: all other nodes are served, and pods start."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.netns.node import wait_until
from tests.system.daemons import READY_SECONDS, Cluster, Served, cluster_on
from tests.system.underlay import Underlay

pytestmark = pytest.mark.cold(reason="its node has an agent of its own")

GOOD = {f"good{n}": {"addresses": [f"198.51.100.{n}"], "podCIDRs": [f"10.244.{n}.0/24"], "since": n} for n in (1, 2)}
OWN = "10.244.9.0/24"
LATE = 1 << 62
UNTIMED = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, bin_dir: Path, reference_bin: Path) -> Iterator[Served]:
    """One node, and two records of nodes that need not exist."""
    underlay, folder = Underlay(bin_dir), tmp_path_factory.mktemp("registry")
    try:
        with cluster_on(underlay, folder, bin_dir, reference_bin) as cluster:
            for name, keys in GOOD.items():
                put(folder, name, {"version": 1, "name": name, **keys})
            put(folder, "own", {"version": 1, "name": "own", "podCIDRs": [OWN], "since": 5})
            one = cluster.join("left", "own", cluster=["10.244.0.0/16"], allocate=[24])
            one.wait_until_ready()
            yield one
    finally:
        underlay.close()


@pytest.fixture
def folder(served: Served) -> Path:
    """The registry's folder as this process sees it."""
    return served.node.path("/run/registry")


def put(folder: Path, name: str, record: object) -> None:
    """Write a record, as bytes or anything else as JSON, in one step."""
    new = folder / ".new"
    new.write_bytes(record if isinstance(record, bytes) else json.dumps(record).encode())
    new.rename(folder / f"{name}.json")


GARBAGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
NETWORKS = [
    *(f"{own}/{length}" for own in ("10.244.1.0", "10.244.9.0", "10.244.0.0") for length in (16, 23, 24, 25, 32)),
    *("0.0.0.0/0", "::/0", "10.0.0.0/8", "192.0.2.0/24", "198.51.100.0/24", "127.0.0.0/8", "224.0.0.0/4"),
    *("10.244.77.1/24", "10.244.77.0", "10.244.77.0/33", "::ffff:10.244.77.0/120", "fe80::/64", "ff00::/8"),
]
ADDRESSES = [
    *("198.51.100.1", "198.51.100.9", "192.0.2.1", "192.0.2.255", "192.0.2.0", "0.0.0.0", "127.0.0.1", "224.0.0.1"),
    *("255.255.255.255", "::", "::1", "fe80::1", "ff02::1", "::ffff:192.0.2.9", "2001:db8:1::1", "10.244.9.1"),
    *("10.244.1.1", "192.0.2.9/24", "192.0.2", "host", "", " 192.0.2.9"),
]
MACS = ["02:24:0a:f4:01:00", "02:24:0a:f4:09:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "0", "00:00:00:00:00:00"]
RECORDS = st.fixed_dictionaries(
    {},
    optional={
        "version": st.sampled_from([0, 1, 2, 1 << 40, -1, "1"]) | GARBAGE,
        "name": st.sampled_from(["own", "good1", "", "x" * 300, "../../etc/passwd", "\n", "ü"]) | GARBAGE,
        "addresses": st.lists(st.sampled_from(ADDRESSES), max_size=4) | GARBAGE,
        "podCIDRs": st.lists(st.sampled_from(NETWORKS), max_size=4) | GARBAGE,
        "vtepMAC": st.sampled_from(MACS) | GARBAGE,
        "vni": st.sampled_from([1, 2, 0, -1, 1 << 24]) | GARBAGE,
        "port": st.sampled_from([4789, 8472, 0, -1, 1 << 16]) | GARBAGE,
        "since": st.sampled_from([LATE, (1 << 63) - 1, 1 << 63, -1, 1e300]),
        "zone": GARBAGE,
        "cluster": GARBAGE,
    },
)
FILES = st.sampled_from(
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\x00" * 100,
        b"\xff\xfe{}",
        b'{"a":' * 5000,
        b"{" + b" " * 2_000_000 + b"}",
        b'{"podCIDRs": ["10.244.1.0/24"], "podCIDRs": ["10.244.2.0/24"]}',
        b'{"since": NaN, "addresses": ["198.51.100.9"], "podCIDRs": ["10.244.77.0/24"]}',
    ]
)


LATE_SUBNETS = itertools.cycle(f"10.244.{number}.0/24" for number in range(100, 250))


@UNTIMED
@given(record=RECORDS | GARBAGE | FILES)
@example(record={"addresses": ["198.51.100.9"], "podCIDRs": [OWN], "since": LATE})
@example(record={"addresses": ["192.0.2.1"], "podCIDRs": ["10.244.0.0/16"], "since": LATE})
def test_a_wrong_record_never_stops_others(served: Served, folder: Path, record: object) -> None:
    """A change that comes right after it is carried out; those that were there keep their routes; pods can start."""
    put(folder, "wrong", record)
    subnet = next(LATE_SUBNETS)
    put(folder, "late", {"version": 1, "name": "late", "addresses": ["198.51.100.8"], "podCIDRs": [subnet], "since": 9})
    assert wait_until(lambda: subnet in served.routes(), timeout=READY_SECONDS), served.daemon.log[-3000:]
    assert {keys["podCIDRs"][0] for keys in GOOD.values()} <= set(served.routes())
    assert not served.problem
    assert served.daemon.is_ready, served.daemon.page("readyz")


def test_pods_start_beside_wrong_records(served: Served, folder: Path) -> None:
    """And the log and the metrics tell which records are wrong, and what is wrong with them."""
    wrong = {"noaddress": {"podCIDRs": ["10.244.50.0/24"]}, "badsubnet": {"podCIDRs": ["10.244.51.0/99"]}, "text": b"x"}
    for name, record in wrong.items():
        put(folder, name, record)
    try:
        told = wait_until(lambda: all(name in served.daemon.log for name in wrong), timeout=READY_SECONDS)
        assert told, served.daemon.log[-2000:]
        pod = served.add("pod")
        served.check(pod)
        served.delete(pod)
    finally:
        for name in wrong:
            (folder / f"{name}.json").unlink()


def test_a_node_without_a_subnet_is_reached_once_it_has_one(served: Served, folder: Path) -> None:
    """Until then its record does no harm."""
    young = {"version": 1, "name": "young", "addresses": ["198.51.100.7"], "podCIDRs": [None]}
    put(folder, "young", young)
    assert wait_until(lambda: "young" in served.daemon.log, timeout=READY_SECONDS)
    assert served.daemon.is_ready
    put(folder, "young", young | {"podCIDRs": ["10.244.60.0/24"]})
    assert wait_until(lambda: "10.244.60.0/24" in served.routes(), timeout=READY_SECONDS), served.daemon.log[-2000:]


@pytest.mark.parametrize("since", [1, LATE], ids=["older", "younger"])
def test_overlapping_subnets_belong_to_the_older_node(cluster: Cluster, since: int) -> None:
    """A record that contains this node's subnet: if it is older, this node gives no addresses and says to whom."""
    own = cluster.join("left")
    own.wait_until_ready()
    v4 = next(subnet for subnet in own.subnets if ":" not in subnet)
    wide = f"{v4.rpartition('.')[0].rpartition('.')[0]}.{int(v4.split('.')[2]) & ~1}.0/23"
    record = {"version": 1, "name": "wide", "addresses": ["198.51.100.9"], "podCIDRs": [wide], "since": since}
    put(cluster.folder, "wide", record)
    if since == LATE:
        assert wait_until(lambda: "wide" in own.daemon.log, timeout=READY_SECONDS)
        assert own.is_ready()
        own.add("pod")
        assert wide not in own.routes()
    else:
        assert wait_until(lambda: own.problem, timeout=READY_SECONDS), own.daemon.log
        assert "wide" in own.problem
        assert not own.is_ready()
