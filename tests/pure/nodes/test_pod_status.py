"""What is told of a pod's network, from what the API and the leases say."""

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.pod_status import ANNOTATION, Interface, PodStatus, find_interface, status_text
from nodes.registries.kubernetes.access import Access

ETH0 = Interface("net", "eth0", "02:00:00:00:00:01")


def waiting(*pods: object, found: Interface | None = ETH0) -> tuple[list[str], list[str]]:
    """The names of the pods that wait for the API, which is away, and what was logged."""
    log: list[str] = []
    reports = PodStatus(Access("/nowhere"), "a", lambda _ips: found, log.append)
    reports.replace([msgspec.Raw(json.dumps(pod).encode()) for pod in pods])
    for pod in pods:
        reports.change("MODIFIED", msgspec.Raw(json.dumps(pod).encode()))
    return [pod.metadata.name for pod in reports._waiting.values()], log


def pod(name: str = "p", **changes: object) -> dict:
    """A Pod of the API; `changes`: the values of "spec", "status" or "annotations"."""
    meta = {"name": name, "namespace": "n", "uid": name, "annotations": changes.pop("annotations", None)}
    return {"metadata": meta, "status": {"podIPs": [{"ip": "10.1.0.2"}]}, **changes}


def test_a_pod_with_addresses_waits_until_the_api_is_back() -> None:
    """The failure is told once."""
    names, log = waiting(pod("p"), pod("q"))
    assert names == ["p", "q"]
    assert len(log) == 1
    assert "/nowhere" in log[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"status": {}},
        {"status": {"podIPs": []}},
        {"spec": {"hostNetwork": True}},
        {"status": {"phase": "Succeeded", "podIPs": [{"ip": "10.1.0.2"}]}},
        {"status": {"podIPs": [{"ip": "nonsense"}]}},
        {"annotations": {ANNOTATION: status_text(ETH0, ["10.1.0.2"])}},
        {"annotations": {ANNOTATION: '[{"name": "other"}]'}},
        {"annotations": {ANNOTATION: '[{"name": "net"}, {"name": "other"}]'}},
        {"annotations": {ANNOTATION: "{"}},
    ],
)
def test_other_pods_need_nothing(changes: dict) -> None:
    """Without addresses of their own, with the right annotation, or with somebody else's."""
    assert waiting(pod(**changes)) == ([], [])


def test_a_pod_of_another_network_needs_nothing() -> None:
    """Its addresses are not leased in ours."""
    assert waiting(pod(), found=None) == ([], [])


def test_an_annotation_of_an_earlier_sandbox_is_replaced() -> None:
    """It names other addresses."""
    names, _ = waiting(pod(annotations={ANNOTATION: status_text(ETH0, ["10.1.0.9"])}))
    assert names == ["p"]


def test_a_mac_that_is_not_known_is_left_out() -> None:
    """The other keys are those of the standard."""
    text = status_text(Interface("net", "eth0", ""), ["10.1.0.2", "fd00::2"])
    assert json.loads(text) == [
        {"name": "net", "interface": "eth0", "ips": ["10.1.0.2", "fd00::2"], "default": True, "dns": {}}
    ]


@pytest.mark.parametrize(
    ("leases", "expected"),
    [
        ({"10.1.0.2": "id\r\neth0", "fd00::2": "id\r\neth0"}, "eth0"),
        ({"10.1.0.2": "id\r\nnet1", "fd00::2": "id\r\nnet2"}, ""),
        ({"10.1.0.2": "id\r\neth0"}, ""),
        ({"10.1.0.2": "id", "fd00::2": "id"}, ""),
        ({"10.1.0.2": "", "fd00::2": ""}, ""),
    ],
)
def test_the_interface_is_that_of_the_lease(leases: dict, expected: str, tmp_path: Path) -> None:
    """All addresses must be leased to the same one."""
    for address, owner in leases.items():
        (tmp_path / address).write_text(owner)
    found = find_interface("net", str(tmp_path), ("10.1.0.2", "fd00::2"))
    assert (found.name if found else "") == expected


KEYS = st.sampled_from(["metadata", "spec", "status", "podIPs", "ip", "name", "uid", "namespace", "annotations"])
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=9)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6))


@given(st.builds(lambda key, value: {**pod(), key: value}, KEYS, JSON) | st.dictionaries(KEYS, JSON))
def test_any_object_is_read(value: dict) -> None:
    """It affects no other pod."""
    names, _ = waiting(value, pod("q"))
    assert "q" in names
