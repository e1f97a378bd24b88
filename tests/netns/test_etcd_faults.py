"""The registry in etcd when members die or hang, history is compacted, and users and certificates are asked for."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from nodes.registries.etcd import EtcdRegistry
from nodes.registry import RegistryError, Wish
from plugins.node.records import Node
from spec.config import Section
from tests.kubernetes.certificates import Authority
from tests.netns.etcd_server import Etcd, Relay
from tests.netns.node import wait_until
from tests.netns.seen import watching

WISH = Wish(("10.244.0.0/16",), (24,))


@contextmanager
def running(folder: Path, **options: object) -> Iterator[Etcd]:
    """An etcd."""
    etcd = Etcd(folder, **options)
    try:
        yield etcd
    finally:
        etcd.close()


@contextmanager
def joined(server: Etcd, name: str, **options: object) -> Iterator[EtcdRegistry]:
    """The registry, for a node."""
    registry = EtcdRegistry(f"etcd://{server.hosts}", name, Section(options, "etcd"))
    try:
        yield registry
    finally:
        registry.close()


def over(relay: Relay) -> EtcdRegistry:
    """The registry, for a node "c" that reaches etcd through a relay."""
    return EtcdRegistry(f"etcd://127.0.0.1:{relay.port}", "c", Section({}))


def node(name: str, subnet: str | int) -> Node:
    """A record."""
    return Node(name, ("192.0.2.1",), (subnet if isinstance(subnet, str) else f"10.244.{subnet}.0/24",))


def enable_authentication(server: Etcd) -> None:
    """Create the user "node", who may use the keys below /slash24, and the user "root"."""
    server.ctl("role", "add", "nodes")
    server.ctl("role", "grant-permission", "--prefix=true", "nodes", "readwrite", "/slash24/")
    for user, role in (("root", "root"), ("node", "nodes")):
        server.ctl("user", "add", f"{user}:secret")
        server.ctl("user", "grant-role", user, role)
    server.ctl("auth", "enable")
    server.login = ["--user=root:secret"]


def eventually(registry: EtcdRegistry, record: Node) -> None:
    """Publish as the daemon does: again, if it fails."""

    def is_published() -> bool:
        with suppress(RegistryError):
            registry.publish(record)
            return True
        return False

    assert wait_until(is_published, timeout=60)


def test_members_die(tmp_path: Path) -> None:
    """With two of three members everything continues; nothing that happened meanwhile is missed."""
    with running(tmp_path, members=3) as server, joined(server, "a") as one, joined(server, "b") as two:
        with watching(two) as seen:
            for number in range(3):
                server.kill(number)
                eventually(one, node("a", number))
                assert seen.becomes(lambda seen, number=number: seen.nodes.get("a") == (f"10.244.{number}.0/24",))
                server.start(number)
                server.wait()
        assert seen.calls.count("replace") == 1


@pytest.mark.slow
def test_a_member_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member whose connections are open but silent is left for another one, by requests and by the watch."""
    monkeypatch.setattr("nodes.etcd.client.randrange", lambda _: 0)
    with running(tmp_path, members=3) as server, joined(server, "a") as one, joined(server, "b", ttl="5s") as two:
        two.publish(node("b", 2))
        with watching(two) as seen:
            server.hang(0)
            eventually(one, node("a", 1))
            assert seen.becomes(lambda seen: "a" in seen.nodes, timeout=60)


def test_etcd_is_gone_and_returns(tmp_path: Path) -> None:
    """The watch says that it is lost, and continues where it was; records are still there."""
    with running(tmp_path) as server, joined(server, "a") as one, joined(server, "b") as two:
        one.publish(node("a", 1))
        with watching(two) as seen:
            server.kill()
            assert seen.becomes(lambda seen: "lost" in seen.calls)
            with pytest.raises(RegistryError, match="etcd cannot be reached: http://127.0.0.1:.*refused"):
                one.publish(node("a", 2))
            server.start()
            server.wait()
            one.publish(node("a", 3))
            assert seen.becomes(lambda seen: seen.nodes["a"] == ("10.244.3.0/24",))
            assert seen.calls.count("replace") == 1


def test_history_is_compacted(tmp_path: Path) -> None:
    """A watch that was cut off while history was compacted lists everything again."""
    with running(tmp_path) as server, joined(server, "a") as one, joined(server, "b") as two:
        one.publish(node("a", 1))
        two.publish(node("b", 2))
        with Relay(server.port) as relay, watching(over(relay)) as seen:
            assert seen.becomes(lambda seen: "alive" in seen.calls)
            relay.cut()
            assert seen.becomes(lambda seen: "lost" in seen.calls)
            one.publish(node("a", 3))
            two.withdraw()
            server.compact()
            relay.mend()
            assert seen.becomes(lambda seen: seen.nodes == {"a": ("10.244.3.0/24",)})
            assert seen.calls.count("replace") == 2


def test_a_password(tmp_path: Path) -> None:
    """A node's user may only touch the prefix; a token that etcd has forgotten is replaced by a new one."""
    (tmp_path / "password").write_text("secret\n")
    user = {"user": "node", "passwordFile": str(tmp_path / "password")}
    with running(tmp_path) as server:
        with joined(server, "early", **user) as registry:
            registry.publish(node("early", 1))  # authentication is not enabled yet
        enable_authentication(server)
        with joined(server, "a", **user) as one, joined(server, "b", **user) as two, watching(two) as seen:
            one.publish(node("a", *one.lease(WISH).subnets))
            assert seen.becomes(lambda seen: "a" in seen.nodes)
            server.kill()
            server.start()
            server.wait()
            one.publish(node("a", "10.244.9.0/24"))
            assert seen.becomes(lambda seen: seen.nodes["a"] == ("10.244.9.0/24",))


def test_a_password_is_refused(tmp_path: Path) -> None:
    """The sentence says which user, or that there is none, or what it may not do, or which file is missing."""
    (tmp_path / "password").write_text("wrong")
    (tmp_path / "right").write_text("secret")
    cases = [
        ({"user": "node", "passwordFile": str(tmp_path / "password")}, 'does not accept user "node": .*invalid user'),
        ({"user": "node", "passwordFile": str(tmp_path / "none")}, 'the password file ".*/none" cannot be read: '),
        ({}, "user name is empty"),
    ]
    with running(tmp_path) as server:
        enable_authentication(server)
        for options, message in cases:
            with joined(server, "a", **options) as registry, pytest.raises(RegistryError, match=message):
                registry.lease(WISH)
        options = {"user": "node", "passwordFile": str(tmp_path / "right")}
        elsewhere = EtcdRegistry(f"etcd://{server.hosts}/elsewhere", "a", Section(options))
        with pytest.raises(RegistryError, match="permission denied"):
            elsewhere.lease(WISH)
        with watching(elsewhere) as seen:
            assert "permission denied" in seen.reasons[0]


def test_certificates_and_a_password(tmp_path: Path) -> None:
    """With certificates on both sides and a password; certificates of another authority are refused."""
    ours, theirs = Authority(tmp_path / "ca"), Authority(tmp_path / "other")
    # With a common name, etcd would take it for the user's.
    ours.issue(tmp_path / "etcd", "", group="nodes", names=["127.0.0.1"])
    theirs.issue(tmp_path / "foreign", "", group="nodes")
    (tmp_path / "password").write_text("secret")
    files = {"ca": tmp_path / "ca.crt", "cert": tmp_path / "etcd.crt", "key": tmp_path / "etcd.key"}
    options = {key: str(path) for key, path in files.items()}
    options |= {"user": "node", "passwordFile": str(tmp_path / "password")}
    with running(tmp_path, tls=files) as server:
        enable_authentication(server)
        with joined(server, "a", **options) as one, joined(server, "b", **options) as two, watching(two) as seen:
            one.publish(node("a", *one.lease(WISH).subnets))
            assert seen.becomes(lambda seen: "a" in seen.nodes)
        wrong = [
            {"ca": str(tmp_path / "other.crt")},
            {"cert": str(tmp_path / "foreign.crt"), "key": str(tmp_path / "foreign.key")},
        ]
        for changed in wrong:
            refused = pytest.raises(RegistryError, match="etcd cannot be reached: https://.*")
            with joined(server, "a", **options | changed) as registry, refused:
                registry.lease(WISH)
        refused = pytest.raises(RegistryError, match="the certificates for etcd cannot be used")
        with joined(server, "a", **options | {"key": str(tmp_path / "none")}) as registry, refused:
            registry.lease(WISH)
