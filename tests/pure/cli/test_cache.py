"""libcni's cache: what its files tell, and that no content breaks what reads them."""

import json
from base64 import b64encode
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.facts.cache import read_cache
from cli.facts.owners import Owners
from linux.ownership import owner_tag
from spec.attachment import Attachment

LIST = {"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge", "ipam": {"type": "host-local"}}]}
RESULT = {
    "interfaces": [{"name": "cni0"}, {"name": "veth1"}, {"name": "eth0", "sandbox": "/run/netns/a"}],
    "ips": [{"address": "10.1.0.2/24"}, {"address": "FD00:0::2/64"}],
}
FILE = {
    "kind": "cniCacheV1",
    "containerId": "abc",
    "config": b64encode(json.dumps(LIST).encode()).decode(),
    "ifName": "eth0",
    "networkName": "net",
    "netns": "/run/netns/a",
    "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "shop"], ["K8S_POD_NAME", "web-0"]],
    "capabilityArgs": {"portMappings": []},
    "result": RESULT,
}


def test_a_file_of_libcni(tmp_path: Path) -> None:
    """All that it tells."""
    (tmp_path / "net-abc-eth0").write_text(json.dumps(FILE))
    (one,) = read_cache((str(tmp_path), str(tmp_path / "missing")))
    assert one.attachment == Attachment("net", "abc", "eth0")
    assert (one.netns, one.pod, one.links) == ("/run/netns/a", "shop/web-0", ("cni0", "veth1"))
    assert one.addresses == ("10.1.0.2", "fd00::2")
    assert (one.kind, one.ipam, one.conf) == ("bridge", {"type": "host-local"}, LIST)
    assert (one.result, one.capabilities) == (RESULT, {"portMappings": []})
    assert one.since == (tmp_path / "net-abc-eth0").stat().st_mtime


def test_a_file_of_an_older_libcni(tmp_path: Path) -> None:
    """As containerd 1.6 has it: the namespace is only in the result."""
    (tmp_path / "a").write_text(json.dumps({key: value for key, value in FILE.items() if key != "netns"}))
    assert read_cache((str(tmp_path),))[0].netns == "/run/netns/a"


def test_a_result_of_the_oldest_version(tmp_path: Path) -> None:
    """Its addresses are under ip4 and ip6."""
    old = {**FILE, "result": {"ip4": {"ip": "10.1.0.2/24"}, "ip6": {"ip": "fd00::2/64"}}}
    (tmp_path / "a").write_text(json.dumps(old))
    assert read_cache((str(tmp_path),))[0].addresses == ("10.1.0.2", "fd00::2")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"kind": "cniCacheV1"}', "\x00" * 9, "1" * 2_000_000])
def test_what_is_no_file_of_the_cache_is_left_out(tmp_path: Path, text: str) -> None:
    """As are folders, pipes and dangling links."""
    (tmp_path / "a").write_text(text)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    assert read_cache((str(tmp_path),)) == []


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda one: st.lists(one, max_size=3))


@given(st.sampled_from(sorted(FILE)), JSON)
def test_no_value_breaks_it(tmp_path_factory: pytest.TempPathFactory, key: str, value: object) -> None:
    """Whatever a key has for a value."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "a").write_text(json.dumps({**FILE, key: value}))
    for one in read_cache((str(folder),)):
        assert one.network
        assert isinstance(one.kind, str)
        assert one.ipam is not None


def test_owners_of_tags() -> None:
    """Short names are in the tag, long ones are found by what is on disk, or at least the network is."""
    long = Attachment("n" * 70, "c" * 64, "eth0")
    owners = Owners([long], ["m" * 90])
    assert owners.of("v1:net:abc:eth0") == Attachment("net", "abc", "eth0")
    assert owners.of(owner_tag(long)) == long
    assert owners.of(owner_tag(Attachment("n" * 70, "d" * 64, "eth0"))) == Attachment("n" * 70, "", "")
    assert owners.of(owner_tag(Attachment("m" * 90, "d" * 64, "eth0"))) == Attachment("m" * 90, "", "")
    assert owners.of("v1#0:1") == owners.of("v1:a:b:c:d") == Attachment("", "", "")
