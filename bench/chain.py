"""A network configuration list run by cnitool: bridge, portmap with two ports, bandwidth in both directions."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from bench import cni, lab

TOOL = lab.REFERENCE / "cnitool"
PLUGINS = ("bridge", "portmap", "bandwidth")

_CAPABILITIES = {
    "portMappings": [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 8443, "containerPort": 443, "protocol": "tcp"},
    ],
    "bandwidth": {"ingressRate": 100_000_000, "ingressBurst": 10_000_000, "egressRate": 100_000_000}
    | {"egressBurst": 10_000_000},
}


def network(suite: str) -> str:
    """The name of a suite's network."""
    return f"{suite}-list"


def measure(suites: Mapping[str, lab.Suite], rounds: int) -> dict[str, list[cni.Turn]]:
    """The runs of each suite."""
    return cni.alternate({name: _taker(name, suite) for name, suite in suites.items()}, rounds)


def _taker(name: str, suite: lab.Suite) -> partial[cni.Turn]:
    folder = Path(f"/run/{network(name)}")
    folder.mkdir()
    conf = cni.configuration("IPv4, gateway", name) | {"bridge": f"{name}9"}
    shared = {key: conf.pop(key) for key in ("cniVersion", "name")} | {"name": network(name)}
    chained = [{"type": "portmap", "capabilities": {"portMappings": True}}]
    chained += [{"type": "bandwidth", "capabilities": {"bandwidth": True}}]
    (folder / "list.conflist").write_text(json.dumps(shared | {"plugins": [conf, *chained]}))
    env = {"NETCONFPATH": str(folder), "CNI_PATH": str(suite.folder), "PATH": lab.PATH}
    env |= {"CAP_ARGS": json.dumps(_CAPABILITIES)} | suite.environ
    call = partial(_call, env, network(name))
    return partial(cni.turn_of, suite, call)


def _call(env: Mapping[str, str], name: str, verb: str) -> lab.Call:
    return lab.timed([str(TOOL), verb.lower(), name, "/run/netns/pod"], env)
