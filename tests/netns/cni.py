"""The runtime's side of CNI for tests: calls of one plugin, and of the real `cnitool`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

from tests.netns.node import Node, Pod

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


class CNIFailure(Exception):
    """The error that a plugin returned: one JSON object on stdout and a non-zero exit status."""

    def __init__(self, document: Mapping[str, object], stderr: str) -> None:
        super().__init__(f"{document} (stderr: {stderr!r})")
        self.code, self.msg, self.details = document["code"], document["msg"], document.get("details", "")
        self.text = f"{self.msg} {self.details}"
        self.raw = document


def one_document(text: str) -> dict:
    """Parse `text`, which must be exactly one JSON object; anything else is an AssertionError."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise AssertionError(f"stdout is not exactly one JSON document ({error}): {text!r}") from error
    assert isinstance(document, dict), f"stdout is no JSON object: {text!r}"
    return document


@dataclass(frozen=True)
class CNI:
    """Calls the plugins of a folder on a node, as a runtime does, and checks every answer against the protocol."""

    node: Node
    folder: Path
    more: tuple[str | Path, ...] = ()  # folders searched before the plugins' own
    plugin: str = ""  # the executable to call, if not the one that the configuration names

    def environ(self, verb: str, pod: Pod | None = None, **variables: str | None) -> dict[str, str]:
        """The environment of a call; the pod's name is its container ID. A variable that is None is left out."""
        env = {"PATH": PATH, "CNI_COMMAND": verb, "CNI_PATH": ":".join(map(str, (*self.more, self.folder)))}
        if pod is not None:
            env |= {"CNI_CONTAINERID": pod.name, "CNI_NETNS": pod.path, "CNI_IFNAME": "eth0"}
        env |= {f"CNI_{name.upper()}": value for name, value in variables.items()}
        return {name: value for name, value in env.items() if value is not None}

    def raw(self, plugin: str, env: Mapping[str, str], stdin: str) -> CompletedProcess:
        """Run the plugin and return the completed process, unchecked."""
        return self.node.run([self.folder / plugin], env=env, stdin=stdin, check=False)

    def answer(self, plugin: str, env: Mapping[str, str], stdin: str) -> dict | None:
        """Run the plugin; return the document that it printed, or None. CNIFailure if it returned an error."""
        done = self.raw(plugin, env, stdin)
        assert "Traceback" not in done.stdout, done.stdout
        if done.returncode == 0:
            document = one_document(done.stdout) if done.stdout else None
            assert not document or "code" not in document, f"an error, and exit status 0: {document}"
            return document
        document = one_document(done.stdout)
        assert isinstance(document.get("code"), int), f"an error without a code: {document}"
        assert isinstance(document.get("msg"), str), f"an error without a message: {document}"
        raise CNIFailure(document, done.stderr)

    def call(self, verb: str, conf: Mapping, pod: Pod | None = None, **variables: str | None) -> dict | None:
        """One call of the plugin that `conf` names; `variables` as for environ."""
        return self.answer(self.plugin or conf["type"], self.environ(verb, pod, **variables), json.dumps(conf))

    def add(self, conf: Mapping, pod: Pod, **variables: str | None) -> dict:
        """ADD; the result."""
        result = self.call("ADD", conf, pod, **variables)
        assert result is not None, "a successful ADD printed no result"
        return result

    def delete(self, conf: Mapping, pod: Pod, prev: Mapping | None = None, **variables: str | None) -> None:
        """DEL, with the result of the ADD if given; must print nothing."""
        assert self.call("DEL", with_prev(conf, prev), pod, **variables) is None

    def check(self, conf: Mapping, pod: Pod, prev: Mapping | None, **variables: str | None) -> None:
        """CHECK against the result of the ADD; must print nothing."""
        assert self.call("CHECK", with_prev(conf, prev), pod, **variables) is None

    def gc(self, conf: Mapping, *valid: Pod | tuple[str, str]) -> None:
        """GC with these valid attachments: pods with eth0, or pairs of container ID and ifname."""
        pairs = [(v.name, "eth0") if isinstance(v, Pod) else v for v in valid]
        entries = [{"containerID": container_id, "ifname": ifname} for container_id, ifname in pairs]
        assert self.call("GC", {**conf, "cni.dev/valid-attachments": entries}) is None

    def status(self, conf: Mapping) -> None:
        """STATUS; must print nothing."""
        assert self.call("STATUS", conf) is None


def with_prev(conf: Mapping, prev: Mapping | None) -> dict:
    """The configuration with the result of an earlier ADD as `prevResult`."""
    return dict(conf) if prev is None else {**conf, "prevResult": prev}


@dataclass(frozen=True)
class Cnitool:
    """The real `cnitool`, with a folder of network configuration lists on the node."""

    node: Node
    executable: Path
    path: tuple[Path, ...]  # CNI_PATH

    def write(self, conflist: Mapping) -> None:
        """Write the list to NETCONFPATH, as an administrator does."""
        folder = self.node.path("/run/net.d")
        folder.mkdir(exist_ok=True)
        (folder / f"10-{conflist['name']}.conflist").write_text(json.dumps(conflist, indent=2))

    def run(
        self,
        verb: str,
        network: str,
        pod: Pod,
        *,
        capabilities: Mapping | None = None,
        ifname: str = "eth0",
        args: str = "",
    ) -> CompletedProcess:
        """One call, unchecked; `capabilities` are what a runtime would put into runtimeConfig, `args` CNI_ARGS."""
        env = {
            "PATH": PATH,
            "CNI_PATH": ":".join(map(str, self.path)),
            "NETCONFPATH": "/run/net.d",
            "CNI_IFNAME": ifname,
            "CAP_ARGS": json.dumps(capabilities or {}),
            **({"CNI_ARGS": args} if args else {}),
        }
        return self.node.run([self.executable, verb, network, pod.path], env=env, check=False)

    def ok(self, verb: str, network: str, pod: Pod, **options: object) -> dict | None:
        """One call that must succeed; returns the result if one was printed."""
        done = self.run(verb, network, pod, **options)
        assert done.returncode == 0, f"cnitool {verb}: {done.stdout}{done.stderr}"
        return json.loads(done.stdout) if done.stdout.strip() else None
