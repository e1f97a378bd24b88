"""What libcni keeps of each ADD until its DEL, for runtimes and cnitool: one JSON file per attachment.

The files are others' and may be of any content: what cannot be read is left out, and no value is relied on.
"""

import os
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from cli.facts.paths import CACHES
from spec.addresses import canonical_ip
from spec.attachment import Attachment
from spec.jsontext import loads
from state.files import read_file

_KIND = "cniCacheV1"
_LARGEST = 1 << 20  # bytes of a file
_MOST = 20_000  # files of a folder
_POD = ("K8S_POD_NAMESPACE", "K8S_POD_NAME")


@dataclass(frozen=True)
class Cached:
    """A file of the cache: whose ADD it was, and what it gave.

    `netns`: the path of the namespace, as the runtime named it. `pod`: "namespace/name" of Kubernetes, "" if not told.
    `addresses`: without prefix lengths. `links`: the names of the result's interfaces on the node. `since`: when the
    file was written, in seconds since 1970. `conf`: the network configuration list; `result`: what the ADD returned;
    `capabilities`: its runtimeConfig; all three as libcni wrote them, {} if they are not there.
    """

    path: str
    network: str
    container: str
    ifname: str
    netns: str
    pod: str
    addresses: tuple[str, ...]
    links: tuple[str, ...]
    since: float
    args: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    conf: Mapping[str, object] = field(default_factory=dict, repr=False, hash=False)
    result: Mapping[str, object] = field(default_factory=dict, repr=False, hash=False)
    capabilities: Mapping[str, object] = field(default_factory=dict, repr=False, hash=False)

    @property
    def attachment(self) -> Attachment:
        """Whose file it is."""
        return Attachment(self.network, self.container, self.ifname)

    @property
    def kind(self) -> str:
        """The type of the main plugin, the first of the list; "" if the list is unreadable."""
        return _text(self._main.get("type"))

    @property
    def ipam(self) -> Mapping[str, object]:
        """The main plugin's `ipam`; {} if it has none."""
        return _object(self._main.get("ipam"))

    @property
    def plugins(self) -> tuple[Mapping[str, object], ...]:
        """The configurations of the list's plugins."""
        return tuple(_objects(self.conf.get("plugins")))

    @property
    def _main(self) -> Mapping[str, object]:
        return next(iter(self.plugins), {})


def read_cache(folders: tuple[str, ...] = CACHES) -> list[Cached]:
    """The files of the cache, by path. Raises OSError if a folder exists and cannot be read."""
    found = []
    for folder in folders:
        with suppress(FileNotFoundError, NotADirectoryError):
            for name in sorted(os.listdir(folder))[:_MOST]:
                with suppress(OSError, ValueError):  # deleted meanwhile, or no such file
                    path = os.path.join(folder, name)
                    found += _read(path, loads(read_file(path, _LARGEST)), os.stat(path).st_mtime)
    return found


def _read(path: str, document: object, since: float) -> Iterator[Cached]:
    """The entry of a document, if it is one of the cache's."""
    values = _object(document)
    owner = [_text(values.get(key)) for key in ("networkName", "containerId", "ifName")]
    if values.get("kind") != _KIND or "" in owner:
        return
    args = tuple(_args(values.get("cniArgs")))
    namespace, name = (dict(args).get(key, "") for key in _POD)
    result = _object(values.get("result"))
    yield Cached(
        path,
        *owner,
        netns=_text(values.get("netns")) or _sandbox(result),
        pod=f"{namespace}/{name}" if name else "",
        addresses=tuple(dict.fromkeys(_addresses(result))),
        links=tuple(_text(one.get("name")) for one in _objects(result.get("interfaces")) if not one.get("sandbox")),
        since=since,
        args=args,
        conf=_conf(values.get("config")),
        result=result,
        capabilities=_object(values.get("capabilityArgs")),
    )


def _sandbox(result: Mapping[str, object]) -> str:
    """The namespace of a result's interfaces; before 1.2, libcni names it nowhere else."""
    return next((path for one in _objects(result.get("interfaces")) if (path := _text(one.get("sandbox")))), "")


def _addresses(result: Mapping[str, object]) -> Iterator[str]:
    """Those of a result of any version."""
    oldest = [_object(result.get(key)).get("ip") for key in ("ip4", "ip6")]
    for cidr in (*oldest, *(one.get("address") for one in _objects(result.get("ips")))):
        with suppress(ValueError):
            yield canonical_ip(_text(cidr).partition("/")[0])


def _args(value: object) -> Iterator[tuple[str, str]]:
    for pair in value if isinstance(value, list) else ():
        if isinstance(pair, list) and len(pair) == 2:
            yield _text(pair[0]), _text(pair[1])


def _conf(text: object) -> Mapping[str, object]:
    try:
        return _object(loads(b64decode(_text(text), validate=True)))
    except ValueError:
        return {}


def _objects(value: object) -> list[Mapping[str, object]]:
    return [_object(one) for one in value] if isinstance(value, list) else []


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
