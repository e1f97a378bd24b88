"""A folder of documents: whatever is written there, and however."""

import json
import os
import time
from pathlib import Path

import pytest

from policy.objects import EVERYTHING, NETWORK, Namespace, Pod, PodPeer, Policy, Rule
from policy.sources import folder
from policy.sources.folder import FolderSource
from tests.pure.policy.kept import running

POLICY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "p", "namespace": "a"},
    "spec": {"ingress": [{}]},
}
IN_FORCE = Policy(NETWORK, "a", "p", PodPeer(EVERYTHING, None, "a"), (Rule(where="ingress[0]"),))
KEY = ("NetworkPolicy", "a", "p")


def namespace(name: str, **labels: str) -> dict:
    """The document of a namespace."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def write(path: Path, *documents: object) -> None:
    """Write a file, in place; JSON is YAML."""
    path.write_text("\n---\n".join(each if isinstance(each, str) else json.dumps(each) for each in documents))


def source(path: Path, patience: float = 0.5) -> FolderSource:
    """A source that has little patience."""
    return FolderSource(str(path), poll=1.0, patience=patience)


def test_documents_are_followed(tmp_path: Path) -> None:
    """New files, changed ones and deleted ones; several documents a file, lists, JSON."""
    write(tmp_path / "a.yaml", POLICY, namespace("a"), {"apiVersion": "apps/v1", "kind": "Deployment"})
    with running(source(tmp_path)) as kept:
        kept.wait(lambda: kept.objects is not None)
        assert kept.objects[KEY] == IN_FORCE
        assert kept.names == {"p", "a"}
        write(tmp_path / "b.json", {"apiVersion": "v1", "kind": "List", "items": [namespace("b"), namespace("c")]})
        kept.wait(lambda: kept.names == {"p", "a", "b", "c"})
        write(tmp_path / "new", namespace("b", x="y"))
        (tmp_path / "new").rename(tmp_path / "b.json")
        kept.wait(lambda: kept.names == {"p", "a", "b"})
        assert kept.objects["Namespace", "", "b"] == Namespace("b", {"x": "y", "kubernetes.io/metadata.name": "b"})
        (tmp_path / "a.yaml").unlink()
        kept.wait(lambda: kept.names == {"b"})
        assert (kept.problems, kept.why) == ({}, "")


def test_a_change_is_passed_on_at_once(tmp_path: Path) -> None:
    """By inotify, long before the next look."""
    with running(FolderSource(str(tmp_path), poll=3600)) as kept:
        kept.wait(lambda: kept.objects is not None)
        before = time.monotonic()
        for number in range(10):
            write(tmp_path / f"{number}.yml", namespace(f"n{number}"))
            kept.wait(lambda number=number: f"n{number}" in kept.names)
        assert time.monotonic() - before < 5


def test_a_folder_may_appear_and_vanish(tmp_path: Path) -> None:
    """Until it is there it is an empty one; and it may be another one with the same name."""
    path = tmp_path / "policies"
    with running(source(path)) as kept:
        kept.wait(lambda: kept.objects == {})
        path.mkdir()
        write(path / "a.yaml", namespace("a"))
        kept.wait(lambda: kept.names == {"a"})
        path.rename(tmp_path / "away")
        kept.wait(lambda: kept.objects == {})
        path.mkdir()
        write(path / "b.yaml", namespace("b"))
        kept.wait(lambda: kept.names == {"b"})
        assert kept.why == ""


@pytest.mark.parametrize(
    "broken", ["", "{", "apiVersion: v1\nkind: Names", "- ", "kind: NetworkPolicy\napiVersion: v1"]
)
def test_a_half_written_file_keeps_its_last_content(tmp_path: Path, broken: str) -> None:
    """It is told after a while; when it is whole again, it counts."""
    write(tmp_path / "a.yaml", POLICY, namespace("a"))
    with running(source(tmp_path)) as kept:
        kept.wait(lambda: kept.objects)
        write(tmp_path / "a.yaml", namespace("b"), broken + "\n[")
        kept.wait(lambda: "a.yaml" in kept.problems)
        assert kept.objects[KEY] == IN_FORCE
        assert kept.names == {"p", "a"}
        assert kept.problems["a.yaml"].endswith("; its last content stays in force")
        write(tmp_path / "a.yaml", namespace("b"))
        kept.wait(lambda: kept.names == {"b"})
        assert kept.problems == {}


def test_a_file_that_was_never_good_is_told(tmp_path: Path) -> None:
    """And does not affect the others."""
    write(tmp_path / "a.yaml", "{")
    write(tmp_path / "b.yaml", namespace("b"))
    with running(source(tmp_path)) as kept:
        kept.wait(lambda: kept.problems)
        assert kept.names == {"b"}
        assert kept.problems["a.yaml"].startswith("a.yaml: document 1, line 2: ")


def test_the_first_list_waits_for_files_that_are_being_written(tmp_path: Path) -> None:
    """Or a policy would not be in force for a moment after a start; but it does not wait for ever."""
    write(tmp_path / "a.yaml", "{")
    with running(source(tmp_path, patience=5)) as kept:
        time.sleep(0.5)
        assert kept.objects is None
        write(tmp_path / "a.yaml", POLICY)
        kept.wait(lambda: kept.objects is not None)
        assert set(kept.objects) == {KEY}


def test_a_wrong_document_keeps_its_last_content_and_the_others_count(tmp_path: Path) -> None:
    """With the number of the document, its kind and name."""
    wrong = {**POLICY, "spec": {"podSelector": [], "ingress": []}}
    write(tmp_path / "a.yaml", POLICY)
    with running(source(tmp_path)) as kept:
        kept.wait(lambda: kept.objects)
        write(tmp_path / "a.yaml", namespace("b"), wrong)
        kept.wait(lambda: kept.problems)
        assert kept.objects[KEY] == IN_FORCE
        assert kept.names == {"p", "b"}
        assert kept.problems == {
            "a.yaml, document 2, NetworkPolicy a/p": "a.yaml, document 2, NetworkPolicy a/p: "
            '"spec.podSelector": expected an object, got []; its last content stays in force'
        }
        write(tmp_path / "a.yaml", namespace("b"))
        kept.wait(lambda: kept.names == {"b"})
        assert kept.problems == {}


def test_a_new_policy_that_is_wrong_isolates(tmp_path: Path) -> None:
    """Its rules are not in force."""
    write(tmp_path / "a.yaml", {**POLICY, "spec": {"ingress": [{"form": []}]}})
    with running(source(tmp_path)) as kept:
        kept.wait(lambda: kept.objects)
        assert kept.objects[KEY] == Policy(NETWORK, "a", "p", PodPeer(EVERYTHING, None, "a"), ())
        assert "ingress[0] is not in force" in "".join(kept.problems.values())


def test_of_a_policy_that_was_never_right_the_newest_content_counts(tmp_path: Path) -> None:
    """And then the last that was."""
    write(tmp_path / "a.yaml", {**POLICY, "spec": {"ingress": [7]}})
    with running(source(tmp_path)) as kept:
        kept.wait(lambda: kept.objects)
        assert kept.objects[KEY].ingress == ()
        write(tmp_path / "a.yaml", {**POLICY, "spec": {"ingress": [7, {}]}})
        kept.wait(lambda: kept.objects[KEY].ingress == (Rule(where="ingress[1]"),))
        write(tmp_path / "a.yaml", POLICY)
        kept.wait(lambda: kept.objects[KEY] == IN_FORCE)
        for number in (1, 2):
            write(tmp_path / "a.yaml", {**POLICY, "spec": {"ingress": [7] * number}})
            count = len(kept.calls)
            kept.wait(lambda count=count: kept.problems and len(kept.calls) > count)
            assert kept.objects[KEY] == IN_FORCE


def test_what_is_missing_beside_a_nameless_document_stays(tmp_path: Path) -> None:
    """It may be that one."""
    write(tmp_path / "a.yaml", POLICY, namespace("a"))
    with running(source(tmp_path)) as kept:
        kept.wait(lambda: kept.objects)
        write(tmp_path / "a.yaml", {**POLICY, "metadata": {}}, namespace("a"))
        kept.wait(lambda: kept.problems)
        assert kept.objects[KEY] == IN_FORCE
        assert '"metadata.name": expected' in kept.problems["a.yaml, document 1"]


@pytest.mark.parametrize("broken", ["{", json.dumps({**POLICY, "spec": {"podSelector": []}})])
def test_what_is_in_force_outlives_the_daemon(tmp_path: Path, broken: str) -> None:
    """A file that is wrong at its start has the content that it had last; one that is gone has none."""
    files, kept_files = tmp_path / "files", tmp_path / "kept"
    files.mkdir()
    write(files / "a.yaml", POLICY)
    write(files / "b.yaml", namespace("b"))
    with running(FolderSource(str(files), kept=str(kept_files), patience=0.5)) as kept:
        kept.wait(lambda: kept.objects)
    assert sorted(os.listdir(kept_files)) == ["a.yaml", "b.yaml"]
    write(files / "a.yaml", broken)
    (files / "b.yaml").unlink()
    for _ in range(2):
        with running(FolderSource(str(files), kept=str(kept_files), patience=0.5)) as kept:
            kept.wait(lambda kept=kept: kept.problems)
            assert kept.objects == {KEY: IN_FORCE}
            assert next(iter(kept.problems.values())).endswith("its last content stays in force")
    assert os.listdir(kept_files) == ["a.yaml"]
    write(files / "a.yaml", namespace("a"))
    with running(FolderSource(str(files), kept=str(kept_files), patience=0.5)) as kept:
        kept.wait(lambda: kept.names == {"a"})
        assert kept.problems == {}


def test_a_full_disk_keeps_no_copies(tmp_path: Path) -> None:
    """And stops nothing."""
    write(tmp_path / "a.yaml", POLICY)
    with running(FolderSource(str(tmp_path), kept="/proc/nowhere", patience=0.5)) as kept:
        kept.wait(lambda: kept.objects)
        assert kept.problems == {}


def test_of_duplicates_the_first_by_name_counts(tmp_path: Path) -> None:
    """The other is told; it counts when the first is gone."""
    write(tmp_path / "b.yaml", namespace("x", from_="b"), namespace("x", from_="b2"))
    write(tmp_path / "a.yaml", namespace("x", from_="a"))
    with running(source(tmp_path)) as kept:
        kept.wait(lambda: kept.problems)
        assert kept.objects["Namespace", "", "x"].labels["from_"] == "a"
        assert list(kept.problems.values()) == [
            f"b.yaml, document {number}, Namespace x: Namespace x is in a.yaml, document 1 too, and that one counts"
            for number in (1, 2)
        ]
        (tmp_path / "a.yaml").unlink()
        kept.wait(lambda: kept.objects["Namespace", "", "x"].labels["from_"] == "b")
        assert len(kept.problems) == 1


def test_a_file_that_is_replaced_is_never_gone(tmp_path: Path) -> None:
    """A program may delete a file before it writes it again."""
    write(tmp_path / "a.yaml", POLICY)
    with running(source(tmp_path, patience=2)) as kept:
        kept.wait(lambda: kept.objects)
        for _ in range(20):
            (tmp_path / "a.yaml").unlink()
            time.sleep(0.01)
            write(tmp_path / "a.yaml", POLICY)
            time.sleep(0.01)
        write(tmp_path / "b.yaml", namespace("b"))
        kept.wait(lambda: "b" in kept.names)
        assert not [call for call in kept.calls if call[0] == "remove"]


def test_a_file_counts_when_its_writer_has_closed_it(tmp_path: Path) -> None:
    """A valid beginning of a policy would be another policy."""
    text = json.dumps(namespace("a"))
    with running(source(tmp_path)) as kept:
        kept.wait(lambda: kept.objects is not None)
        with (tmp_path / "a.yaml").open("w") as file:
            file.write(f"{text}\n---\n")
            file.flush()
            time.sleep(0.5)
            assert kept.objects == {}
            file.write(json.dumps(namespace("b")))
        kept.wait(lambda: kept.names == {"a", "b"})
        assert kept.problems == {}


def test_a_file_without_documents_counts_after_a_while(tmp_path: Path) -> None:
    """Somebody may be writing it anew; nothing is wrong with it."""
    write(tmp_path / "a.yaml", POLICY)
    with running(source(tmp_path, patience=1)) as kept:
        kept.wait(lambda: kept.objects)
        (tmp_path / "a.yaml").write_text("# nothing")
        time.sleep(0.5)
        assert kept.objects
        kept.wait(lambda: not kept.objects)
        assert kept.problems == {}


def test_other_names_are_ignored(tmp_path: Path) -> None:
    """Temporary files of editors, hidden ones, backups."""
    for name in (".a.yaml", ".a.yaml.swp", "a.yaml~", "#a.yaml#", ".#a.yaml", "~a.yaml", "a.yaml.new", "a", "4913"):
        write(tmp_path / name, namespace("hidden"))
    (tmp_path / "sub.yaml").mkdir()
    write(tmp_path / "sub.yaml" / "a.yaml", namespace("below"))
    write(tmp_path / "b.yaml", namespace("b"))
    with running(source(tmp_path)) as kept:
        kept.wait(lambda: kept.problems)
        assert kept.names == {"b"}
        assert kept.problems == {"sub.yaml": "sub.yaml: not a regular file"}


def test_hostile_files_neither_hang_nor_stop_others(tmp_path: Path) -> None:
    """A pipe, links in a circle and to a device, a file of a terabyte, a bomb of aliases, a name that is no text."""
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "circle.yaml").symlink_to("circle.yaml")
    (tmp_path / "device.yaml").symlink_to("/dev/zero")
    with (tmp_path / "huge.yaml").open("wb") as file:
        file.truncate(1 << 40)
    lists = [f"{chr(each + 1)}: &{chr(each + 1)} [{','.join([f'*{chr(each)}'] * 9)}]" for each in range(97, 110)]
    write(tmp_path / "bomb.yaml", "\n".join(["a: &a [x, x]", *lists]))
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n.yaml")).write_text("[")
    write(tmp_path / "z.yaml", namespace("z"))
    with running(source(tmp_path)) as kept:
        kept.wait(lambda: len(kept.problems) == 6)
        assert kept.names == {"z"}
        assert kept.problems["bomb.yaml"] == (
            "bomb.yaml: document 1, more than 500000 values in the file, counting those of aliases"
        )
        assert kept.problems["huge.yaml"] == "huge.yaml: more than 4194304 bytes"
        assert "".join(kept.problems.values()).isprintable()


def test_a_volume_of_a_configmap_is_followed(tmp_path: Path) -> None:
    """Its files are links to a folder that is replaced by renaming a link."""
    for number in (1, 2):
        (tmp_path / f"..{number}").mkdir()
        write(tmp_path / f"..{number}" / "a.yaml", namespace(f"n{number}"))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    with running(FolderSource(str(tmp_path), poll=3600, patience=0.5)) as kept:
        kept.wait(lambda: kept.names == {"n1"})
        (tmp_path / "..new").symlink_to("..2")
        (tmp_path / "..new").rename(tmp_path / "..data")
        kept.wait(lambda: kept.names == {"n2"})


def test_without_watches_the_folder_is_polled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel has limits; and a share tells nothing of what other machines write."""
    monkeypatch.setattr("linux.folder_notices.FolderWatch", lambda _path: (_ for _ in ()).throw(OSError(28, "full")))
    with running(source(tmp_path)) as kept:
        kept.wait(lambda: kept.objects is not None)
        write(tmp_path / "a.yaml", namespace("a"))
        kept.wait(lambda: kept.names == {"a"})


def test_an_unmounted_share_keeps_what_it_had(tmp_path: Path) -> None:
    """An empty folder on another file system is its mount point; that it cannot be read is told."""
    write(tmp_path / "a.yaml", POLICY)
    mine = source(tmp_path, patience=20)
    with running(mine) as kept:
        kept.wait(lambda: kept.objects)
        mine._device += 1
        (tmp_path / "a.yaml").rename(tmp_path / "away")
        kept.wait(lambda: "mount the share again" in kept.why)
        assert set(kept.objects) == {KEY}


def test_a_limited_number_of_files_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory does not grow with the others."""
    monkeypatch.setattr(folder, "MOST", 5)
    for number in range(20):
        write(tmp_path / f"{number}.yaml", namespace(f"n{number}"))
    with running(source(tmp_path)) as kept:
        kept.wait(lambda: kept.objects is not None)
        assert len(kept.objects) == 5


def test_a_pod_document_gives_labels(tmp_path: Path) -> None:
    """Without Kubernetes nothing else knows them; one that has ended is none."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "labels": {"app": "y"}}}
    write(tmp_path / "a.yaml", pod, {**pod, "metadata": {"name": "z"}, "status": {"phase": "Failed"}})
    with running(source(tmp_path)) as kept:
        kept.wait(lambda: kept.objects is not None)
        assert list(kept.objects.values()) == [Pod("default", "x", {"app": "y"})]
        assert kept.problems == {}
