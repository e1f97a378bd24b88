"""Registries with records of nodes that do not exist, for measurements: a folder, and etcd."""

import base64
import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from bench import lab

CLUSTER = "10.0.0.0/8"
ETCD, ETCD_URL = lab.ROOT / "build" / "etcd" / "usr" / "bin" / "etcd", "http://127.0.0.1:2379"
START_SECONDS = 20


def name_of(number: int) -> str:
    """The name of that node, as long as those of a cloud."""
    return f"node-{number:05}.eu-central-1.compute.internal"


def subnet_of(number: int) -> str:
    """Its pods' subnet, 10.0.0.0/24 and following."""
    return "10.{}.{}.0/24".format(*divmod(number, 256))


def record(number: int, *, underlay: str = "172.16") -> dict[str, object]:
    """Its record; `underlay`: the beginning of its address."""
    high, low = divmod(number, 256)
    known = {"version": 1, "name": name_of(number), "addresses": [f"{underlay}.{high}.{low}"]}
    return known | {"podCIDRs": [subnet_of(number)], "vni": 1, "port": 4789, "since": 1 + number}


class Folder:
    """A folder of JSON files."""

    name = "file"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)
        self.url = f"file://{folder}"

    def put(self, number: int, value: Mapping[str, object]) -> None:
        """Write a record in one step, as the registry's other users do."""
        new = self._folder / f".{os.getpid()}.new"
        new.write_text(json.dumps(value) + "\n")
        new.rename(self._folder / f"{name_of(number)}.json")

    def fill(self, count: int) -> None:
        """Have the records of that many nodes, and no others but this node's own."""
        for number in range(count):
            self.put(number, record(number))
        self.drop(range(count, count + 1000))

    def drop(self, numbers: Iterable[int]) -> None:
        """Delete records, if they exist."""
        for number in numbers:
            with suppress(FileNotFoundError):
                (self._folder / f"{name_of(number)}.json").unlink()

    def close(self) -> None:
        """Nothing to end."""


class Etcd:
    """A server of Debian's etcd, with records under /slash24; written by its HTTP gateway."""

    name = "etcd"

    def __init__(self, folder: Path) -> None:
        log = folder.with_suffix(".log").open("wb")
        argv = [str(ETCD), "--data-dir", str(folder), "--unsafe-no-fsync"]
        argv += ["--listen-client-urls", ETCD_URL, "--advertise-client-urls", ETCD_URL]
        argv += ["--listen-peer-urls", "http://127.0.0.1:2380"]
        self._process = subprocess.Popen(argv, stdout=log, stderr=log)
        self.url = "etcd://127.0.0.1:2379/slash24"
        end = time.monotonic() + START_SECONDS
        while not _answers() and time.monotonic() < end:
            time.sleep(0.05)

    def put(self, number: int, value: Mapping[str, object]) -> None:
        """Write a record."""
        _post("kv/put", {"key": _key(name_of(number)), "value": _base64(json.dumps(value))})

    def fill(self, count: int) -> None:
        """Have the records of that many nodes, and no others but this node's own."""
        for number in range(count):
            self.put(number, record(number))
        self.drop(range(count, count + 1000))

    def drop(self, numbers: Iterable[int]) -> None:
        """Delete records, if they exist."""
        for number in numbers:
            _post("kv/deleterange", {"key": _key(name_of(number))})

    def close(self) -> None:
        """End the server."""
        self._process.terminate()
        self._process.wait(START_SECONDS)


def _key(name: str) -> str:
    return _base64(f"/slash24/nodes/{name}")


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _post(path: str, value: Mapping[str, object]) -> bytes:
    request = urllib.request.Request(f"{ETCD_URL}/v3/{path}", json.dumps(value).encode())
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read()


def _answers() -> bool:
    with suppress(OSError):
        return bool(_post("maintenance/status", {}))
    return False
