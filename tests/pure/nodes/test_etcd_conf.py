"""The URL of an etcd, and its options."""

import pytest

from nodes.etcd.conf import EtcdConf, parse
from spec.config import Section
from spec.errors import CNIError


def conf(url: str, **options: object) -> EtcdConf:
    """The configuration, with "/slash24" as the default prefix."""
    return parse(url, Section(options, "etcd"), "/slash24")


def test_hosts_ports_and_prefix() -> None:
    """A port and a prefix may be left out; addresses of IPv6 are in brackets."""
    found = conf("etcd://10.0.0.9:2379,etcd-b.example:4001,[2001:db8::1],10.0.0.10/a/b/")
    hosts = ("10.0.0.9:2379", "etcd-b.example:4001", "[2001:db8::1]:2379", "10.0.0.10:2379")
    assert found.endpoints == tuple(f"http://{host}" for host in hosts)
    assert found.prefix == "/a/b"
    assert conf("flannel+etcd://10.0.0.9").prefix == conf("etcd://10.0.0.9/").prefix == "/slash24"


def test_defaults() -> None:
    """No TLS and no user; a record lasts for an hour, and a subnet for a day."""
    assert conf("etcd://a") == EtcdConf(("http://a:2379",), "/slash24", "", "", "", "", "", 3600, 86400)


@pytest.mark.parametrize("options", [{"tls": True}, {"ca": "/ca.crt"}, {"cert": "/a.crt", "key": "/a.key"}])
def test_tls(options: dict) -> None:
    """With `tls`, or with certificates."""
    assert conf("etcd://a", **options).endpoints == ("https://a:2379",)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7200), ("7d", 604800)])
def test_times(text: str, seconds: int) -> None:
    """A number and a unit."""
    assert conf("etcd://a", reserve="30d", ttl=text).ttl == seconds


WRONG = "etcd:// etcd:///slash24 etcd://a, etcd://a:0 etcd://a:65536 etcd://u:p@a etcd://a/b//c etcd://fd00::1:2379"
WRONG += " etcd://a?x etcd://http://a:2379 etcd"


@pytest.mark.parametrize("url", [*WRONG.split(), "etcd://a b", "etcd://a/b c"])
def test_wrong_urls(url: str) -> None:
    """The error names the key and shows what is expected."""
    with pytest.raises(CNIError, match='"registry": expected (hosts|a prefix)'):
        conf(url)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"ca": "ca.crt"}, "ca"),
        ({"cert": "/a.crt"}, "key"),
        ({"key": "/a.key"}, "cert"),
        ({"user": "a"}, "passwordFile"),
        ({"passwordFile": "/p"}, "user"),
        ({"tls": False, "ca": "/ca.crt"}, "tls"),
        ({"ttl": "1s"}, "ttl"),
        ({"ttl": 60}, "ttl"),
        ({"ttl": "1h30m"}, "ttl"),
        ({"reserve": "-5s"}, "reserve"),
        ({"reserve": "9999999d"}, "reserve"),
        ({"reserve": "10m"}, "reserve"),
    ],
)
def test_wrong_options(options: dict, key: str) -> None:
    """The error names the key with its table."""
    with pytest.raises(CNIError, match=f'"etcd.{key}": expected '):
        conf("etcd://a", **options)
