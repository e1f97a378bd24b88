"""Connections to the API server, and requests.

lightkube reads kubeconfigs, and makes the TLS context and the authentication of them, for its HTTP client httpx2. The
requests are ours, as lightkube 1.0 cannot do what a daemon on every node needs: it asks for no bookmarks, waits for an
event of a watch for ever, splits the lines of a watch at any separator of Unicode that a label or annotation has, lets
one object that it cannot decode end the list of all, and knows no "tls-server-name".
"""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2
import msgspec
import yaml
from lightkube.config.client_adapter import user_auth, verify_cluster
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.config.models import Cluster, User
from lightkube.core.exceptions import ConfigError

from nodes.registry import RegistryError
from spec.config import Section, absolute_path

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
JSON, MERGE, STRATEGIC = ("application/json", "application/merge-patch+json", "application/strategic-merge-patch+json")
_LONGEST = 8 << 20  # bytes of an event; etcd stores no object of more than 1.5 MiB
_TIMEOUT = httpx2.Timeout(15, connect=5)  # seconds, of each read and write
# A connection whose other end has vanished is noticed after half a minute, with or without data under way.
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
)


class Refused(RegistryError):
    """The API server answered with an error: `code` is its HTTP status."""

    def __init__(self, what: str, code: int, message: str) -> None:
        super().__init__(f"{what}: {message} ({code})")
        self.code = code


@dataclass(frozen=True)
class Access:
    """How to reach the API server: by the kubeconfig at that path, else by the pod's service account ("").

    `server`: its URL in place of theirs. `server_name`: the name in its certificate, if not the URL's host.
    """

    kubeconfig: str = ""
    server: str = ""
    server_name: str = ""


def read_access(options: Section) -> Access:
    """The keys `kubeconfig`, `server` and `tlsServerName`. Raises CNIError 7."""
    server = options.string("server").rstrip("/")
    if server and not _is_url(server):
        raise options.error("server", 'a URL like "https://192.0.2.10:6443"')
    return Access(absolute_path(options, "kubeconfig"), server, options.string("tlsServerName"))


def _is_url(text: str) -> bool:
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL:
        return False
    return url.scheme in ("https", "http") and bool(url.host) and url.path == "/" and not url.query


class Session:
    """Some requests to the API server over connections of their own."""

    def __init__(self, client: httpx2.Client, server_name: str) -> None:
        self._client = client
        self._extensions = {"sni_hostname": server_name} if server_name else {}

    @property
    def url(self) -> str:
        """The URL of the API server."""
        return str(self._client.base_url).rstrip("/")

    def get(self, path: str, **params: str) -> bytes:
        """The body of an answer. Raises RegistryError, Refused."""
        return self.send("GET", path, params=params)

    def send(
        self, method: str, path: str, body: object = None, *, kind: str = JSON, params: Mapping[str, str] | None = None
    ) -> bytes:
        """The body of the answer to a request with that JSON, whose media type is `kind`.

        Raises RegistryError, Refused.
        """
        content = None if body is None else msgspec.json.encode(body)
        headers = {"Accept": JSON} if body is None else {"Accept": JSON, "Content-Type": kind}
        what = f"{method} {self.url}{path}"
        with _connection_errors(what):
            answer = self._client.send(self._request(method, path, params or {}, headers, content))
        if answer.is_error:
            raise Refused(what, answer.status_code, _message(answer.content))
        return answer.content

    @contextmanager
    def stream(self, path: str, params: Mapping[str, str], silence: float) -> Iterator["Stream"]:
        """The answer as it arrives; `silence`: how many seconds without data it may have.

        Raises RegistryError, Refused.
        """
        what = f"watch {self.url}{path}"
        request = self._request("GET", path, params, {"Accept": JSON}, None)
        with _connection_errors(what):
            answer = self._client.send(request, stream=True)
            request.extensions["timeout"]["read"] = silence  # from now on; the answer's head had that of all requests
        try:
            if answer.is_error:
                with _connection_errors(what):
                    raise Refused(what, answer.status_code, _message(answer.read()))
            yield Stream(answer, what)
        finally:
            answer.close()

    def _request(
        self, method: str, path: str, params: Mapping[str, str], headers: Mapping[str, str], content: bytes | None
    ) -> httpx2.Request:
        extensions = dict(self._extensions)
        return self._client.build_request(
            method, path, params=params, headers=headers, content=content, extensions=extensions
        )


class Silence(RegistryError):
    """Nothing was heard from the API server for a while."""


class Stream:
    """An answer without an end."""

    def __init__(self, answer: httpx2.Response, what: str) -> None:
        self._answer, self._what = answer, what

    def lines(self) -> Iterator[bytes]:
        """Its lines as they arrive; only a newline ends one. Raises RegistryError; Silence if nothing arrives."""
        chunks, rest = self._answer.iter_bytes(), b""
        while True:
            with _connection_errors(self._what):
                chunk = next(chunks, None)
            if chunk is None:
                return
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole
            if len(rest) > _LONGEST:
                raise RegistryError(f"{self._what}: an event of more than {_LONGEST} bytes")

    def interrupt(self) -> None:
        """End it from another thread."""
        connection = self._answer.extensions["network_stream"].get_extra_info("socket")
        # Not SSLSocket.shutdown, which takes the TLS object from under the thread that reads.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


@contextmanager
def connect(access: Access) -> Iterator[Session]:
    """A session. All files are read again, since tokens, certificates and authorities are replaced while we run.

    Raises RegistryError.
    """
    with _configuration_errors(access.kubeconfig or SERVICE_ACCOUNT):
        config, server_name = _from_kubeconfig(access) if access.kubeconfig else _from_account(access)
        user = config.user or User()
        context = verify_cluster(config.cluster, user, config.abs_file, trust_env=False)
        transport = httpx2.HTTPTransport(verify=context, trust_env=False, socket_options=_KEEPALIVE)
        client = httpx2.Client(
            base_url=access.server or config.cluster.server,
            auth=user_auth(user),
            timeout=_TIMEOUT,
            transport=transport,
            trust_env=False,
        )
    with client:
        yield Session(client, access.server_name or server_name)


def _from_kubeconfig(access: Access) -> tuple[SingleConfig, str]:
    """The current context of a kubeconfig, and its "tls-server-name"."""
    with open(access.kubeconfig, "rb") as file:
        document = yaml.safe_load(file)
    config = KubeConfig.from_dict(document, fname=access.kubeconfig).get()
    names = {entry["name"]: entry["cluster"].get("tls-server-name", "") for entry in document["clusters"]}
    return config, names[config.context.cluster]


def _from_account(access: Access) -> tuple[SingleConfig, str]:
    """The service account that the kubelet gives to every pod."""
    token = f"{SERVICE_ACCOUNT}/token"
    if not os.path.exists(token):
        raise ConfigError(f'there is no service account ({token}); outside a pod, set "kubeconfig" in [kubernetes]')
    cluster = Cluster(server=access.server or _service(), certificate_auth=f"{SERVICE_ACCOUNT}/ca.crt")
    return KubeConfig.from_one(cluster=cluster, user=User(token_file=token)).get(), ""


def _service() -> str:
    """The URL of the cluster's service "kubernetes", from the variables of every pod."""
    host, port = (os.environ.get(f"KUBERNETES_SERVICE_{name}", "") for name in ("HOST", "PORT"))
    if not host or not port:
        raise ConfigError('there is no KUBERNETES_SERVICE_HOST; set "server" in [kubernetes]')
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


@contextmanager
def _connection_errors(what: str) -> Iterator[None]:
    """Raise the errors of the HTTP client, and of the token that it reads, as RegistryError."""
    try:
        yield
    except httpx2.ReadTimeout as error:
        raise Silence(f"{what}: no answer") from error
    except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, ConfigError, OSError) as error:
        raise RegistryError(f"{what}: {error or type(error).__name__}") from error


@contextmanager
def _configuration_errors(path: str) -> Iterator[None]:
    """Raise the errors of a kubeconfig, and of the files that it names, as RegistryError."""
    try:
        yield
    except (ConfigError, OSError) as error:
        raise RegistryError(f'no access to the API server by "{path}": {error}') from error
    except (ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError, httpx2.InvalidURL) as error:
        raise RegistryError(f'no access to the API server by "{path}": {type(error).__name__}: {error}') from error


class _Status(msgspec.Struct):
    """What the API answers in place of an object."""

    message: str = ""


def _message(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_Status).message or "no message"
    except ValueError:
        return body[:200].decode(errors="replace").strip() or "no message"
