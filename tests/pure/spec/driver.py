"""Serve a plugin in memory: variables from a dict, stdin and stdout as buffers."""

import io
import json
from dataclasses import dataclass

from spec.plugin import NO_SUITE, Plugin, Suite, serve
from spec.request import Request
from spec.result import Interface, IPConfig, Result

VARIABLES = {
    "CNI_CONTAINERID": "pod-1",
    "CNI_NETNS": "/run/netns/no-such-namespace",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/nowhere",
}

RESULT = Result(
    interfaces=(Interface("eth0", "0a:00:00:00:00:01", "/run/netns/no-such-namespace"),),
    ips=(IPConfig("10.1.2.3/24", "10.1.2.1", 0),),
)


@dataclass(frozen=True)
class Answer:
    """The exit status and output of a call."""

    status: int
    stdout: str
    stderr: str

    @property
    def document(self) -> dict:
        """The only JSON document on stdout; fails if anything precedes or follows it."""
        return json.loads(self.stdout)

    @property
    def error(self) -> tuple[int, str]:
        """Code and message of a failed call."""
        assert self.status == 1, self
        return (self.document["code"], self.document["msg"])


class Recorder:
    """A plugin that implements every verb and records the requests."""

    def __init__(self, result: Result = RESULT, **plugin: object) -> None:
        self.requests: list[Request] = []
        self.result = result
        verbs = dict.fromkeys(("delete", "check", "gc", "status"), self.record) | {"add": self.add} | plugin
        self.plugin = Plugin(type="recorder", **verbs)

    @property
    def verbs(self) -> list[str]:
        """The verbs that were served, in order."""
        return [request.verb for request in self.requests]

    def record(self, request: Request) -> None:
        """Record a verb other than ADD."""
        self.requests.append(request)

    def add(self, request: Request) -> Result:
        """Record an ADD and return the result."""
        self.requests.append(request)
        return self.result


def conf(version: str | None = "1.1.0", **keys: object) -> dict:
    """A network configuration; with `version` None it has no cniVersion."""
    stated = {} if version is None else {"cniVersion": version}
    return {**stated, "name": "net1", "type": "recorder", **keys}


def run(
    plugin: Plugin,
    verb: str,
    config: object = None,
    *,
    stdout: io.BytesIO | None = None,
    suite: Suite = NO_SUITE,
    **variables: str | None,
) -> Answer:
    """Serve one call. `config`: raw bytes, or a value to encode as JSON; a variable that is None is unset."""
    data = config if isinstance(config, bytes) else json.dumps(conf() if config is None else config).encode()
    environ = {"CNI_COMMAND": verb, **VARIABLES, **variables}
    environ = {name: value for name, value in environ.items() if value is not None}
    out, err = stdout or io.BytesIO(), io.StringIO()
    status = serve(plugin, environ=environ, stdin=io.BytesIO(data), stdout=out, stderr=err, suite=suite)
    return Answer(status, out.getvalue().decode(), err.getvalue())
