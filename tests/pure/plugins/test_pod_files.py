"""The files that tell the daemon which pods a node has."""

from dataclasses import replace
from pathlib import Path

import pytest

from plugins.pod import pod_files
from plugins.pod.pod_files import PodFile

POD = PodFile("net", "c1", "eth0", ("10.1.2.5", "fd00:1::5"), "veth1", "ns", "web", "uid")


def test_a_file_reads_as_it_was_written(tmp_path: Path) -> None:
    """Its name is the owner's tag; it can be written again, and deleted twice."""
    folder = str(tmp_path / "pods")
    assert list(pod_files.names(folder)) == []
    pod_files.write(POD, folder)
    pod_files.write(POD, folder)
    assert list(pod_files.names(folder)) == ["v1:net:c1:eth0.json"]
    assert pod_files.read("v1:net:c1:eth0.json", folder) == POD
    pod_files.delete(POD.owner, folder)
    pod_files.delete(POD.owner, folder)
    assert list(pod_files.names(folder)) == []
    assert pod_files.read("v1:net:c1:eth0.json", folder) is None


def test_what_a_killed_add_has_not_finished_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not seen as a file of a pod before that."""
    folder = str(tmp_path / "pods")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pod_files.write(POD, folder)
    assert list(pod_files.names(folder)) == []
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["pods.v1:net:c1:eth0.new"]
    pod_files.delete(POD.owner, folder)
    assert [path for path in tmp_path.iterdir() if path.is_file()] == []


def test_a_new_file_replaces_none(tmp_path: Path) -> None:
    """What an ADD has written is better than what somebody else has found out."""
    assert pod_files.write_new(POD, str(tmp_path))
    assert not pod_files.write_new(replace(POD, name="other"), str(tmp_path))
    assert pod_files.find(POD.owner, str(tmp_path)) == POD
    assert [path.name for path in tmp_path.iterdir()] == ["v1:net:c1:eth0.json"]


@pytest.mark.parametrize("container", ["c" * 1024, "../../etc/passwd", "a b"])
def test_no_owner_makes_a_name_that_leads_elsewhere(tmp_path: Path, container: str) -> None:
    """A container ID that is too long for a name, or has a slash, is in it as a digest."""
    folder = tmp_path / "pods"
    pod_files.write(PodFile("net", container, "eth0", (), "veth1"), str(folder))
    (name,) = (path.name for path in tmp_path.rglob("*") if path.is_file())
    assert (folder / name).exists()
    assert pod_files.read(name, str(folder)).container_id == container


def test_addresses_are_canonical(tmp_path: Path) -> None:
    """Whatever an IPAM plugin has written; what is none is not the file of a pod."""
    pod_files.write(replace(POD, ips=("10.1.2.5", "fd00:1:0::0005")), str(tmp_path))
    assert pod_files.find(POD.owner, str(tmp_path)).ips == POD.ips
    pod_files.write(replace(POD, ips=("10.1.2.5/24",)), str(tmp_path))
    assert pod_files.find(POD.owner, str(tmp_path)) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"network": 1}', '{"ips": 3}', '{"ips": ["a"], "network": "n"}'])
def test_a_file_of_somebody_else_is_a_value_error(tmp_path: Path, text: str) -> None:
    """Whatever is in it."""
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"."):
        pod_files.read("x.json", str(tmp_path))
