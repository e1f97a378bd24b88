"""The registry of Kubernetes while API servers die, hang, forget, and change their credentials."""

import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from nodes.registries.kubernetes import access, following
from nodes.registries.kubernetes.registry import KubernetesRegistry
from nodes.registry import RegistryError, Wish
from spec.config import Section
from tests.kubernetes.apiserver import ApiServer, Refused, encoded
from tests.kubernetes.certificates import Authority
from tests.kubernetes.watching import Seen, delete_nodes, make_node, registry, watched


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server for all tests of this module."""
    with ApiServer(tmp_path_factory.mktemp("api"), names=["api.example"]) as made:
        yield made


@pytest.fixture
def api(shared: ApiServer) -> Iterator[ApiServer]:
    """The API server, with the Nodes "a" and "b"."""
    delete_nodes(shared)
    make_node(shared, "a", 1)
    make_node(shared, "b", 2)
    yield shared
    shared.signal(signal.SIGCONT)


def test_a_server_that_was_killed_is_found_again(api: ApiServer) -> None:
    """The records stay, and what changed meanwhile is passed on."""
    with watched(registry(api)) as seen:
        api.stop(how=signal.SIGKILL)
        seen.wait_for("lost", 2)
        assert sorted(seen.nodes) == ["a", "b"]
        assert api.url in seen.why[-1]
        assert "Connection refused" in seen.why[-1]
        api.start()
        make_node(api, "c", 3)
        api.request("DELETE", "/api/v1/nodes/b")
        seen.wait(lambda: sorted(seen.nodes) == ["a", "c"], "c has joined and b has left")


def test_a_server_that_hangs_is_noticed(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """First the watch that is silent is opened again; that nobody answers is told."""
    monkeypatch.setattr(following, "_SILENCE", 2.0)
    with watched(registry(api)) as seen:
        api.signal(signal.SIGSTOP)
        seen.wait_for("lost")
        assert "timed out" in seen.why[0]
        with pytest.raises(RegistryError, match="timed out"):
            registry(api).lease(Wish())
        api.signal(signal.SIGCONT)
        make_node(api, "c", 3)
        seen.wait(lambda: "c" in seen.nodes, "c has joined")


def test_silence_of_a_server_that_answers_is_no_loss(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch is opened again, at its version."""
    monkeypatch.setattr(following, "_SILENCE", 0.5)
    monkeypatch.setattr(following, "_SHORT", 0.1)
    with watched(registry(api)) as seen:
        seen.wait_for("alive", 4)
        make_node(api, "c", 3)
        seen.wait(lambda: "c" in seen.nodes, "c has joined")
        assert (seen.calls.count("replace"), seen.calls.count("lost")) == (1, 0)


def test_bookmarks_are_signs_of_life(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one comes just before a watch ends, after the seconds that it was opened for; then it goes on."""
    monkeypatch.setattr(following, "_LONGEST_WATCH", 3)
    monkeypatch.setattr(following, "_SHORT", 1.0)
    with watched(registry(api)) as seen:
        seen.wait_for("alive", 4)
        make_node(api, "c", 3)
        seen.wait(lambda: "c" in seen.nodes, "c has joined")
        assert (seen.calls.count("replace"), seen.calls.count("lost")) == (1, 0)


def forget(api: ApiServer) -> None:
    """Restart the API server, without any version of before."""
    api.stop(how=signal.SIGKILL)
    api.etcdctl("put", "/elsewhere", "1")
    status = api.etcdctl("put", "/elsewhere", "2")
    api.etcdctl("compact", str(status["header"]["revision"]))
    api.start()


def test_a_version_that_the_server_has_forgotten_leads_to_a_new_list(api: ApiServer) -> None:
    """What has changed meanwhile is in it."""
    with watched(registry(api)) as seen:
        forget(api)
        seen.wait_for("replace", 2)
        make_node(api, "c", 3)
        seen.wait(lambda: sorted(seen.nodes) == ["a", "b", "c"], "c has joined")


def test_a_list_that_cannot_be_continued_begins_again(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first pages are not passed on."""
    monkeypatch.setattr(following, "PAGE", 1)
    original, half_way, further = following.list_all, threading.Event(), threading.Event()

    def interrupted(*arguments: object) -> Iterator[msgspec.Raw]:
        for item in original(*arguments):
            half_way.set()
            assert further.wait(60)
            yield item

    monkeypatch.setattr(following, "list_all", interrupted)

    def remove_and_forget() -> None:
        assert half_way.wait(60)
        api.request("DELETE", "/api/v1/nodes/a")
        forget(api)
        further.set()

    with watched(registry(api), meanwhile=remove_and_forget) as seen:
        assert list(seen.nodes) == ["b"]
        assert seen.calls.count("replace") == 1


def test_a_watch_that_is_closed_while_the_server_is_away_ends(api: ApiServer) -> None:
    """`watched` waits for its end."""
    opened, seen = registry(api, server="https://127.0.0.1:1"), Seen()
    thread = threading.Thread(target=opened.watch, args=(seen,))
    thread.start()
    seen.wait_for("lost", 2)
    opened.close()
    thread.join(20)
    assert not thread.is_alive()
    opened.watch(seen)


def account(api: ApiServer, name: str) -> str:
    """A token of a service account that may do everything; those of before are no longer valid."""
    path, subject = "/api/v1/namespaces/kube-system/serviceaccounts", {"kind": "ServiceAccount", "name": name}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    binding = {
        "metadata": {"name": f"test-{name}"},
        "roleRef": role,
        "subjects": [subject | {"namespace": "kube-system"}],
    }
    with suppress(Refused):  # there is none
        api.request("DELETE", f"{path}/{name}")
    api.request("POST", path, {"metadata": {"name": name}})
    with suppress(Refused):  # it is there
        api.request("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
    return api.service_token(name)


def test_in_a_pod_the_service_account_is_used(api: ApiServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its token is read again after it was replaced; and the service's address, or the one that is configured."""
    monkeypatch.setattr(access, "SERVICE_ACCOUNT", str(tmp_path))
    opened = registry(api, kubeconfig=None)
    with pytest.raises(RegistryError, match='no service account .*; outside a pod, set "kubeconfig"'):
        opened.lease(Wish())
    (tmp_path / "token").write_text(account(api, "rotating"))
    shutil.copy(api.ca, tmp_path / "ca.crt")
    with pytest.raises(RegistryError, match='no KUBERNETES_SERVICE_HOST; set "server"'):
        opened.lease(Wish())
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", api.address)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
    assert opened.lease(Wish()).subnets == ("10.0.1.0/24",)
    (tmp_path / "token").write_text("expired")
    with pytest.raises(RegistryError, match="Unauthorized"):
        opened.lease(Wish())
    (tmp_path / "token").write_text(account(api, "rotating"))
    assert opened.lease(Wish()).subnets == ("10.0.1.0/24",)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    assert registry(api, kubeconfig=None, server=api.url).lease(Wish()).subnets == ("10.0.1.0/24",)


def test_a_watch_survives_another_authority_and_token(api: ApiServer, tmp_path: Path) -> None:
    """Until their files are replaced the reason is told."""
    ca, token = tmp_path / "ca.crt", tmp_path / "token"
    shutil.copy(api.ca, ca)
    token.write_text(account(api, "watching"))
    path = api.write_kubeconfig("files", tokenFile=str(token))
    path.write_text(path.read_text().replace(str(api.ca), str(ca)))
    first = api.authority
    try:
        with watched(registry(api, kubeconfig=str(path))) as seen:
            api.stop(how=signal.SIGKILL)
            api.authority = Authority(tmp_path / "other")
            api.certify(api.address)
            api.ca = tmp_path / "both.crt"  # clients' certificates are of the first
            api.ca.write_text(first.certificate.read_text() + api.authority.certificate.read_text())
            api.start()
            seen.wait(lambda: "CERTIFICATE_VERIFY_FAILED" in str(seen.why), "the authority is unknown")
            fresh = account(api, "watching")
            shutil.copy(api.authority.certificate, ca)
            seen.wait(lambda: "Unauthorized" in str(seen.why), "the token is unknown")
            token.write_text(fresh)
            make_node(api, "c", 3)
            seen.wait(lambda: "c" in seen.nodes, "c has joined")
    finally:
        api.authority, api.ca = first, first.certificate
        api.certify(api.address, "api.example")
        api.stop(how=signal.SIGKILL)
        api.start()


def test_a_client_certificate_and_an_authority_may_be_in_the_kubeconfig(api: ApiServer, tmp_path: Path) -> None:
    """In base64, as administrators' kubeconfigs have them."""
    api.authority.issue(tmp_path / "client", "somebody", group="system:masters")
    data = {
        "client-certificate-data": encoded(tmp_path / "client.crt"),
        "client-key-data": encoded(tmp_path / "client.key"),
    }
    path = api.write_kubeconfig("certificate", **data)
    path.write_text(
        path.read_text().replace(
            f'"certificate-authority": "{api.ca}"', f'"certificate-authority-data": "{encoded(api.ca)}"'
        )
    )
    assert registry(api, kubeconfig=str(path)).lease(Wish()).subnets == ("10.0.1.0/24",)


def test_the_server_s_certificate_may_have_another_name(api: ApiServer) -> None:
    """By `tlsServerName`, or by the kubeconfig's "tls-server-name"; a wrong name is refused."""
    for name in ("api.example", "kubernetes.default.svc"):
        assert registry(api, tlsServerName=name).lease(Wish()).subnets == ("10.0.1.0/24",)
    with pytest.raises(RegistryError, match="Hostname mismatch"):
        registry(api, tlsServerName="elsewhere.example").lease(Wish())
    path = api.write_kubeconfig("named", token=api.token)
    path.write_text(path.read_text().replace('"server":', '"tls-server-name": "elsewhere.example", "server":'))
    with pytest.raises(RegistryError, match="Hostname mismatch"):
        registry(api, kubeconfig=str(path)).lease(Wish())


KUBECONFIG = """
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (KUBECONFIG, "Connection refused"),
        (KUBECONFIG.replace("127.0.0.1:1", "[::1"), "no access to the API server by"),
        (KUBECONFIG.replace("user: {}", "user: {tokenFile: /nowhere}"), "/nowhere not found"),
        (KUBECONFIG.replace("user: {}", "user: {client-certificate: /nowhere, client-key: /nowhere}"), "No such file"),
        (
            KUBECONFIG.replace("user: {}", "user: {client-certificate-data: AAAA, client-key-data: AAAA}"),
            "no access to the API server by",
        ),
        (KUBECONFIG.replace("server:", "certificate-authority-data: AAAA, server:"), "no access to the API server by"),
        (KUBECONFIG.replace("cluster: c", "cluster: d"), "KeyError: 'd'"),
        (KUBECONFIG.replace("current-context: x", ""), "No current context"),
        ("", "no access to the API server by"),
        ("[]", "no access to the API server by"),
        ("clusters: 7", "no access to the API server by"),
        ("{", "ParserError"),
        ("\0", "no access to the API server by"),
        (None, "No such file or directory"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_an_error_to_be_repeated(
    text: str | None, expected: str, tmp_path: Path
) -> None:
    """Since it may be about to change; for a watch too."""
    path = tmp_path / "config"
    if text is not None:
        path.write_text(text)
    opened = KubernetesRegistry("kubernetes", "a", Section({"kubeconfig": str(path)}))
    assert expected in failure(opened)


def failure(opened: KubernetesRegistry) -> str:
    """The text of a lease's error; the error itself would keep temporary files with certificates open."""
    try:
        opened.lease(Wish())
    except RegistryError as error:
        return str(error)
    return ""
