"""The files of this node's pods are followed."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.policies import pods as module
from daemon.policies.pods import PodChanges, PodFiles, local_pod
from linux.ownership import owner_tag
from plugins.pod import pod_files
from plugins.pod.pod_files import PodFile

A = PodFile("pods", "a", "eth0", ("10.1.0.2",), "veth0", "default", "a", "u1")
B = PodFile("pods", "b", "eth0", ("10.1.0.3",), "veth1")


class Case:
    """Files in a folder that does not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder / "pods")
        self.files = PodFiles(self.folder)

    def write(self, pod: PodFile) -> None:
        """As an ADD."""
        pod_files.write(pod, self.folder)

    def path(self) -> str:
        """The only file."""
        (name,) = pod_files.names(self.folder)
        return os.path.join(self.folder, name)


@pytest.fixture(name="case")
def new_case(tmp_path: Path) -> Case:
    """Without files."""
    return Case(tmp_path)


def test_pods_that_come_and_go_are_told_once(case: Case) -> None:
    """Those that are there at first, too."""
    case.write(A)
    assert case.files.read() == PodChanges((local_pod(A),))
    assert case.files.read() == PodChanges()
    case.write(B)
    assert case.files.read() == PodChanges((local_pod(B),))
    pod_files.delete(A.owner, case.folder)
    assert case.files.read() == PodChanges((), (owner_tag(A.owner),))
    assert (case.files.owners, case.files.networks) == ({owner_tag(B.owner)}, {"pods"})


def test_a_file_that_is_replaced_is_told_again(case: Case) -> None:
    """Even with the same content: the ADD was repeated, and has held the pod."""
    case.write(A)
    case.files.read()
    case.write(A)
    assert case.files.read() == PodChanges((local_pod(A),))
    case.write(replace(A, ips=("10.1.0.9",)))
    assert case.files.read().put[0].ips == ("10.1.0.9",)


def test_a_pod_that_was_deleted_and_added_between_two_looks_is_new(case: Case) -> None:
    """It is not gone."""
    case.write(A)
    case.files.read()
    pod_files.delete(A.owner, case.folder)
    case.write(A)
    assert case.files.read() == PodChanges((local_pod(A),))


def test_a_file_that_cannot_be_read_is_told(case: Case) -> None:
    """It is read again when it changes; its pod is as it was."""
    case.write(A)
    case.files.read()
    Path(case.path()).write_text("{")
    assert case.files.read() == PodChanges()
    (problem,) = case.files.problems
    assert case.path() in problem
    case.write(A)
    assert case.files.read() == PodChanges((local_pod(A),))
    assert case.files.problems == ()


def test_a_folder_that_is_deleted_is_made_and_watched_again(case: Case) -> None:
    """Its pods are gone: who deletes the files ends their policies, but not the rules of those that run."""
    case.write(A)
    case.files.read()
    shutil.rmtree(case.folder)
    assert case.files.read() == PodChanges((), (owner_tag(A.owner),))
    case.write(B)
    assert case.files.read() == PodChanges((local_pod(B),))


def test_without_notices_all_files_are_looked_at(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may have no watches left."""

    def refuse(_path: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "FolderWatch", refuse)
    assert case.files.read() == PodChanges()
    case.write(A)
    assert case.files.fileno() == -1
    assert case.files.read() == PodChanges((local_pod(A),))
    assert case.files.read() == PodChanges()


def test_all_files_can_be_looked_at(case: Case) -> None:
    """Other names are nobody's business."""
    case.files.read()
    case.write(A)
    Path(case.folder, "x.json.new").write_text("{")
    assert case.files.read(is_whole=True) == PodChanges((local_pod(A),))
    assert case.files.read() == PodChanges()
    assert case.files.problems == ()
