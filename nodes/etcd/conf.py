"""Where an etcd is and how to reach it: a URL, and the table [etcd] that `docs/registry-etcd.md` describes."""

import re
from dataclasses import dataclass

from spec.config import Section, absolute_path, wrong_value

_ENDPOINT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)(?::([0-9]{1,5}))?", re.ASCII)
_PORT = 2379
_PREFIX = re.compile(r"(/[^/\x00-\x20\x7f]+)*", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = 10 * 365 * 86400
_SHORTEST = 5  # seconds; etcd itself allows 2, which a busy machine misses


@dataclass(frozen=True)
class EtcdConf:
    """`endpoints`: URLs without a path. `prefix` of all keys: "" or "/..." without a slash at the end.

    `ca`, `cert`, `key`, `password_file`: paths, "" if not given. `ttl`, `reserve`: how long this node's record and its
    subnets remain after its last sign of life, in seconds.
    """

    endpoints: tuple[str, ...]
    prefix: str
    ca: str
    cert: str
    key: str
    user: str
    password_file: str
    ttl: int
    reserve: int


def parse(url: str, options: Section, prefix: str) -> EtcdConf:
    """Read "etcd://HOST:PORT,.../PREFIX" and the table. `prefix`: the one of a URL without any. Raises CNIError 7."""
    hosts, _, path = url.partition("://")[2].partition("/")
    path = f"/{path}".rstrip("/") or prefix
    if not _PREFIX.fullmatch(path):
        raise wrong_value("registry", 'a prefix of keys such as "/slash24" after the hosts', path)
    paths = {key: absolute_path(options, key) for key in ("ca", "cert", "key", "passwordFile")}
    user = options.string("user")
    _require_both(options, "cert", "key")
    _require_both(options, "user", "passwordFile")
    has_files = bool(paths["ca"] or paths["cert"])
    is_tls = options.boolean("tls", default=has_files)
    if has_files and not is_tls:
        raise options.error("tls", 'true, or no "ca" and "cert"')
    ttl = _seconds(options, "ttl", 3600)
    reserve = _seconds(options, "reserve", 86400)
    if reserve < ttl:
        raise options.error("reserve", 'a time that is not shorter than "ttl"')
    scheme = "https" if is_tls else "http"
    return EtcdConf(
        endpoints=tuple(f"{scheme}://{_endpoint(host)}" for host in hosts.split(",")),
        prefix=path,
        ca=paths["ca"],
        cert=paths["cert"],
        key=paths["key"],
        user=user,
        password_file=paths["passwordFile"],
        ttl=ttl,
        reserve=reserve,
    )


def _endpoint(text: str) -> str:
    match = _ENDPOINT.fullmatch(text)
    if match is None or not 0 < int(match[2] or _PORT) < 65536:
        raise wrong_value("registry", 'hosts such as "192.0.2.1:2379,[2001:db8::1]:2379"', text)
    return f"{match[1]}:{match[2] or _PORT}"


def _require_both(options: Section, one: str, other: str) -> None:
    for key, missing in ((one, other), (other, one)):
        if options.string(key) and not options.string(missing):
            raise options.error(missing, f'a value, because "{options.path_of(key)}" is given')


def _seconds(options: Section, key: str, default: int) -> int:
    """A time such as "90s", "10m", "24h" or "7d"."""
    text = options.string(key)
    if not text:
        return default
    seconds = int(text[:-1]) * _UNITS[text[-1]] if re.fullmatch("[0-9]{1,9}[smhd]", text, re.ASCII) else 0
    if not _SHORTEST <= seconds <= _LONGEST:
        raise options.error(key, f'a time of at least "{_SHORTEST}s", such as "90s", "10m" or "24h"')
    return seconds
