"""host-local as processes: concurrent, killed, on full and read-only disks, across reboots, beside the Go plugin."""

import json
import random
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from tests.netns.cni import CNI, CNIFailure
from tests.netns.node import Node

DATA_DIR = "/var/lib/cni/networks"
CONF = {"cniVersion": "1.1.0", "name": "net", "type": "host-local"}
SMALL = {**CONF, "ipam": {"type": "host-local", "subnet": "10.0.0.0/29", "statusWhenFull": "unavailable"}}
LARGE = {**CONF, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/64"}]]}}


class Runtime:
    """Calls host-local from one folder, for containers that do not exist."""

    def __init__(self, node: Node, folder: Path) -> None:
        self.node = node
        self.folder = folder
        self.cni = CNI(node, folder)

    def environ(self, verb: str, container_id: str) -> dict[str, str]:
        return self.cni.environ(verb, containerid=container_id, netns="/run/netns/none", ifname="eth0")

    def call(self, verb: str, conf: Mapping, container_id: str) -> dict | None:
        return self.cni.answer("host-local", self.environ(verb, container_id), json.dumps(conf))

    def add(self, conf: Mapping, container_id: str) -> list[str]:
        """Run ADD and return its addresses."""
        return [ip["address"] for ip in self.call("ADD", conf, container_id)["ips"]]

    def delete(self, conf: Mapping, container_id: str) -> None:
        assert self.call("DEL", conf, container_id) is None

    def failure(self, verb: str, conf: Mapping, container_id: str) -> CNIFailure:
        with pytest.raises(CNIFailure) as caught:
            self.call(verb, conf, container_id)
        return caught.value

    def attempt(self, verb: str, conf: Mapping, container_id: str) -> None:
        """Make a call that may fail."""
        with suppress(CNIFailure):
            self.call(verb, conf, container_id)

    def start(self, verb: str, conf: Mapping, container_id: str) -> subprocess.Popen:
        """Start a call without waiting for it."""
        process = self.node.start(
            [self.folder / "host-local"],
            env=self.environ(verb, container_id),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        process.stdin.write(json.dumps(conf).encode())
        process.stdin.close()
        process.stdin = None
        return process


@pytest.fixture
def ours(node: Node, bin_dir: Path) -> Runtime:
    return Runtime(node, bin_dir)


@pytest.fixture
def theirs(node: Node, reference_bin: Path) -> Runtime:
    return Runtime(node, reference_bin)


@pytest.fixture
def folder(node: Node) -> Path:
    """The network's lease folder, as a path the test can open."""
    return node.path(f"{DATA_DIR}/net")


def leases(folder: Path) -> dict[str, bytes]:
    """The lease files: address -> content."""
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.name[0] in "1f" and each.is_file()}


def entries(folder: Path) -> list[str]:
    """The entries of the index."""
    return [each.name for each in (folder / ".slash24").rglob("*:*")]


def finish(processes: list[subprocess.Popen]) -> list[dict | None]:
    """Wait for the calls, all of which must succeed, and return their results."""
    outputs = [process.communicate() for process in processes]
    failed = [output for process, output in zip(processes, outputs, strict=True) if process.returncode != 0]
    assert failed == []
    return [json.loads(stdout) if stdout else None for stdout, _ in outputs]


def addresses(results: list[dict]) -> list[str]:
    return [ip["address"].partition("/")[0] for result in results for ip in result["ips"]]


def test_250_at_once(ours: Runtime, folder: Path) -> None:
    """250 concurrent ADDs get 250 different addresses of each family; 250 DELs release all of them."""
    results = finish([ours.start("ADD", LARGE, f"c{number}") for number in range(250)])
    given = addresses(results)
    assert len(set(given)) == len(given) == 500
    assert sorted(leases(folder)) == sorted(given)
    assert len(set(leases(folder).values())) == 250
    assert finish([ours.start("DEL", LARGE, f"c{number}") for number in range(250)]) == [None] * 250
    assert (leases(folder), entries(folder)) == ({}, [])


def test_both_plugins_at_once(ours: Runtime, theirs: Runtime, folder: Path) -> None:
    """Concurrent calls of both plugins share the folder; then each deletes the other's leases."""
    both = (ours, theirs)
    results = finish([both[number % 2].start("ADD", LARGE, f"c{number}") for number in range(80)])
    given = addresses(results)
    assert len(set(given)) == len(given) == 160
    assert sorted(leases(folder)) == sorted(given)
    mixed = [both[(number + 1) % 2].start("DEL", LARGE, f"c{number}") for number in range(60)]
    mixed += [both[number % 2].start("ADD", LARGE, f"d{number}") for number in range(20)]
    given = given[120:] + addresses([result for result in finish(mixed) if result])
    assert len(set(given)) == len(given) == 80
    assert sorted(leases(folder)) == sorted(given)
    finish([both[(number + 1) % 2].start("DEL", LARGE, f"c{number}") for number in range(60, 80)])
    finish([both[(number + 1) % 2].start("DEL", LARGE, f"d{number}") for number in range(20)])
    assert (leases(folder), entries(folder)) == ({}, [])


def test_taking_over_leases_of_the_reference(ours: Runtime, theirs: Runtime, folder: Path) -> None:
    """Ours checks the Go plugin's leases, treats them as taken, allocates after them and deletes them."""
    assert theirs.add(SMALL, "a") == ["10.0.0.2/29"]
    ours.call("CHECK", SMALL, "a")
    assert "10.0.0.2 has been allocated to a" in ours.failure("ADD", SMALL, "a").msg
    assert ours.add(SMALL, "b") == ["10.0.0.3/29"]
    ours.delete(SMALL, "a")
    assert leases(folder) == {"10.0.0.3": b"b\r\neth0"}
    assert theirs.add(SMALL, "c") == ["10.0.0.4/29"]
    ours.delete(SMALL, "c")
    ours.delete(SMALL, "b")
    assert (leases(folder), entries(folder)) == ({}, [])


def test_handing_over_leases_to_the_reference(ours: Runtime, theirs: Runtime, folder: Path) -> None:
    """The Go plugin checks our leases, treats them as taken, allocates after them and deletes file and index entry."""
    assert ours.add(LARGE, "a") == ["10.0.0.2/24", "fd00::2/64"]
    theirs.call("CHECK", LARGE, "a")
    assert "10.0.0.2 has been allocated to a" in theirs.failure("ADD", LARGE, "a").msg
    assert theirs.add(LARGE, "b") == ["10.0.0.3/24", "fd00::3/64"]
    theirs.delete(LARGE, "a")
    assert leases(folder) == {"10.0.0.3": b"b\r\neth0", "fd00::3": b"b\r\neth0"}
    assert theirs.failure("CHECK", LARGE, "a").msg.startswith("host-local: Failed to find address")
    assert ours.add(LARGE, "c") == ["10.0.0.4/24", "fd00::4/64"]
    theirs.delete(LARGE, "b")
    theirs.delete(LARGE, "c")
    assert (leases(folder), entries(folder)) == ({}, [])


def test_same_files_as_the_reference(ours: Runtime, theirs: Runtime, folder: Path, node: Node) -> None:
    """Both plugins leave the same files with the same modes and contents, except our hidden folder."""

    def files(conf: dict) -> dict[str, tuple[int, bytes]]:
        top = node.path(f"{DATA_DIR}/{conf['name']}")
        return {each.name: (each.stat().st_mode, each.read_bytes()) for each in top.iterdir() if each.is_file()}

    other = {**LARGE, "name": "other"}
    ours.add(LARGE, "a")
    theirs.add(other, "a")
    assert files(LARGE) == files(other)
    assert set(files(LARGE)) == {"10.0.0.2", "fd00::2", "last_reserved_ip.0", "last_reserved_ip.1", "lock"}


def test_killed_at_random_moments(ours: Runtime, folder: Path) -> None:
    """ADDs and DELs killed at any moment leave no lease file without an owner, and leak no address."""
    ours.add(SMALL, "lives")
    begin = time.monotonic()
    ours.call("CHECK", SMALL, "lives")
    usual = time.monotonic() - begin
    killed = 0
    for number in range(60):
        ours.add(SMALL, "dying") if number % 2 else ours.delete(SMALL, "dying")
        process = ours.start("DEL" if number % 2 else "ADD", SMALL, "dying")
        time.sleep(random.uniform(0, usual) * random.random())
        process.kill()
        process.communicate()
        killed += process.returncode < 0
        ours.attempt("CHECK", SMALL, "dying")  # with an agent the killed call continues; this one runs after it
        found = leases(folder)
        assert found.pop("10.0.0.2") == b"lives\r\neth0"
        assert set(found.values()) <= {b"dying\r\neth0"}
        assert len(found) <= 1
        ours.delete(SMALL, "dying")
        assert list(leases(folder)) == ["10.0.0.2"]
    assert killed > 10
    assert sorted(address for number in range(4) for address in ours.add(SMALL, f"c{number}")) == [
        f"10.0.0.{number}/29" for number in (3, 4, 5, 6)
    ]
    assert len(entries(folder)) == 5


def test_killed_while_others_run(ours: Runtime, theirs: Runtime, folder: Path) -> None:
    """With calls of both plugins killed while others run, each result's addresses are leased to its container."""
    crowd = [(ours, theirs)[number % 2].start("ADD", LARGE, f"c{number}") for number in range(40)]
    for process in random.sample(crowd, 12):
        time.sleep(random.uniform(0, 0.05))
        process.kill()
    outputs = [process.communicate()[0] for process in crowd]
    answers = {f"c{number}": json.loads(text) for number, text in enumerate(outputs) if text.endswith(b"}")}
    held = leases(folder)
    for container_id, result in answers.items():
        assert {held[address] for address in addresses([result])} == {f"{container_id}\r\neth0".encode()}
    given = addresses(list(answers.values()))
    assert len(set(given)) == len(given)
    finish([ours.start("DEL", LARGE, f"c{number}") for number in range(40)])
    # A killed Go plugin may leave a lease file without an owner: ours treats it as free, and GC deletes it.
    assert set(leases(folder).values()) <= {b""}
    ours.call("GC", {**LARGE, "cni.dev/valid-attachments": []}, "")
    assert (leases(folder), entries(folder)) == ({}, [])


@pytest.fixture
def tiny(node: Node) -> Iterator[Path]:
    """A 64 KiB file system for dataDir."""
    node.run(["mkdir", "-p", DATA_DIR])
    node.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tiny", DATA_DIR])
    yield node.path(DATA_DIR)
    node.run(["umount", "-l", DATA_DIR])


@pytest.mark.parametrize("spare", range(2))
def test_a_full_disk(ours: Runtime, folder: Path, tiny: Path, node: Node, spare: int) -> None:
    """On a full disk ADD fails without leaving incomplete files, and DEL works; with space, ADD works again."""
    ours.add(LARGE, "before")
    # Space for no lease or for one: the disk fills up at a different step each time. (last_reserved_ip needs none.)
    node.run(["dd", "if=/dev/zero", f"of={DATA_DIR}/spare", "bs=4096", f"count={spare}"])
    node.run(["dd", "if=/dev/zero", f"of={DATA_DIR}/filler", "bs=4096"], check=False)
    (tiny / "spare").unlink()
    failure = ours.failure("ADD", LARGE, "late")
    assert (failure.code, "No space left on device" in failure.msg) == (5, True)
    assert leases(folder) == dict.fromkeys(["10.0.0.2", "fd00::2"], b"before\r\neth0")
    assert len(entries(folder)) == 2
    assert {(folder / f"last_reserved_ip.{number}").read_bytes() for number in (0, 1)} <= {
        b"10.0.0.2",
        b"fd00::2",
    }
    ours.delete(LARGE, "late")
    ours.delete(LARGE, "before")
    assert (leases(folder), entries(folder)) == ({}, [])
    (tiny / "filler").unlink()
    assert len(ours.add(LARGE, "late")) == 2


def test_empty_leases_that_the_reference_left_on_a_full_disk(
    ours: Runtime, theirs: Runtime, folder: Path, node: Node
) -> None:
    """The Go plugin leaves empty lease files and never assigns their addresses again; ours does."""
    theirs.add(SMALL, "a")
    for number in (3, 4, 5, 6):
        (folder / f"10.0.0.{number}").touch()
    assert "no IP addresses available" in theirs.failure("ADD", SMALL, "b").msg
    assert [ours.add(SMALL, container_id) for container_id in "bcde"] == [
        [f"10.0.0.{number}/29"] for number in (3, 4, 5, 6)
    ]


def test_a_read_only_data_dir(ours: Runtime, folder: Path, tiny: Path, node: Node) -> None:
    """On a read-only dataDir ADD fails with the reason, STATUS returns 50, CHECK works, and DEL of a lease fails."""
    ours.add(SMALL, "a")
    node.run(["mount", "-o", "remount,ro", DATA_DIR])
    failure = ours.failure("ADD", SMALL, "b")
    assert (failure.code, "Read-only file system" in failure.msg) == (5, True)
    assert ours.failure("STATUS", SMALL, "").code == 50
    ours.call("CHECK", SMALL, "a")
    ours.delete(SMALL, "b")
    assert ours.failure("DEL", SMALL, "a").code == 5
    node.run(["mount", "-o", "remount,rw", DATA_DIR])
    ours.delete(SMALL, "a")
    assert leases(folder) == {}


def reboot(node: Node, number: int) -> None:
    """Change the node's boot ID and keep all files."""
    node.path(f"/run/boot{number}").write_text(f"00000000-0000-4000-8000-{number:012}\n")
    node.run(["mount", "--bind", f"/run/boot{number}", "/proc/sys/kernel/random/boot_id"])


def test_a_reboot(ours: Runtime, theirs: Runtime, folder: Path, node: Node) -> None:
    """After a reboot the addresses of pods that got no DEL are assigned again; those of new pods are not."""
    reboot(node, 1)
    for number in range(3):
        ours.add(SMALL, f"a{number}")
    theirs.add(SMALL, "a3")
    ours.add(SMALL, "a4")
    assert ours.failure("STATUS", SMALL, "").code == 50
    assert "no IP addresses available" in ours.failure("ADD", SMALL, "late").msg
    reboot(node, 2)
    assert ours.call("STATUS", SMALL, "") is None
    given = [ours.add(SMALL, f"b{number}") for number in range(5)]
    assert given == [[f"10.0.0.{number}/29"] for number in (2, 3, 4, 5, 6)]
    assert "no IP addresses available" in ours.failure("ADD", SMALL, "late").msg
    for number in range(5):
        ours.delete(SMALL, f"a{number}")
    assert sorted(leases(folder).values()) == [f"b{number}\r\neth0".encode() for number in range(5)]


def test_a_reboot_after_which_the_reference_runs_first(
    ours: Runtime, theirs: Runtime, folder: Path, node: Node
) -> None:
    """Leases that the Go plugin made in this boot before our first call are kept; earlier ones are reclaimed."""
    reboot(node, 1)
    for number in range(3):
        ours.add(SMALL, f"a{number}")
    reboot(node, 2)
    assert theirs.add(SMALL, "b0") == ["10.0.0.5/29"]
    given = [ours.add(SMALL, f"c{number}") for number in range(4)]
    assert given == [[f"10.0.0.{number}/29"] for number in (6, 2, 3, 4)]
    assert "no IP addresses available" in ours.failure("ADD", SMALL, "late").msg
    ours.call("CHECK", SMALL, "b0")
