"""Two nodes with few addresses for pods, whose policies are files in one folder, and pods that talk all the time."""

import ipaddress
import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from daemon.policies.inbox import digest_of, key_of, text_of
from policy.documents import read_document
from tests.chaos import policy_talker
from tests.chaos.policy_history import History, Life
from tests.netns.agent_tools import Agent
from tests.netns.node import Pod, wait_until
from tests.policy import cluster as documents_of
from tests.system.daemons import NETWORK, Cluster, Served, cluster_on
from tests.system.underlay import Underlay

DOCUMENTS = "/run/policies"
WAIT_SECONDS = 1
"""`policyWait` of the nodes."""
IN_FORCE_SECONDS = 40
TARGETS = 10
"""The most addresses of a subnet to which a pod speaks: the kernel has one table of 1024 neighbours for all nodes."""
NAMED_PORTS = [("web", "TCP", policy_talker.PORTS[0]), ("web", "UDP", policy_talker.PORTS[1])]
_TALK_SECONDS = 1.0
_TABLES = ("inet", "bridge")
_FLEETING = (
    "vacant4",
    "vacant6",
    "cut4",
    "cut6",
    "left4",
    "left6",
    "denied_egress4",
    "denied_egress6",
    "denied_ingress4",
    "denied_ingress6",
)


class PolicyNodes:
    """The nodes, the pods with their talkers, the folder of documents, and the history of it all."""

    def __init__(self, cluster: Cluster, folder: Path, seconds: float = _TALK_SECONDS) -> None:
        self.cluster, self.documents, self.accounts = cluster, folder / "policies", folder / "accounts"
        self.accounts.mkdir()
        self.history = History(())
        self.pods: dict[str, tuple[Life, Pod, subprocess.Popen]] = {}
        self.down: dict[str, float] = {}
        self.logs: list[str] = []
        self._seconds, self._digests = seconds, {}

    @property
    def nodes(self) -> list[Served]:
        """The nodes."""
        return self.cluster.nodes

    def node(self, name: str) -> Served:
        """The node of that name."""
        return next(one for one in self.nodes if one.name == name)

    def networks(self) -> dict[int, list[str]]:
        """The subnets of pods, by IP version."""
        subnets = [ipaddress.ip_network(subnet) for one in self.nodes for subnet in one.subnets]
        return {version: [str(one) for one in subnets if one.version == version] for version in (4, 6)}

    # Documents

    def write(self, document: Mapping) -> None:
        """Put a document into the folder."""
        key = documents_of.key_of(document)
        others = [one for one in self.history.now if documents_of.key_of(one) != key]
        new = self.documents / f".{_file(key)}.new"
        new.write_text(json.dumps(document))
        value = read_document(document)
        self._digests[text_of(key_of(value))] = digest_of(value)
        self.history.write((*others, document), time.monotonic())
        new.rename(self.documents / _file(key))

    def delete_document(self, document: Mapping) -> None:
        """Take a document out of the folder."""
        key = documents_of.key_of(document)
        del self._digests[text_of(key_of(read_document(document)))]
        others = tuple(one for one in self.history.now if documents_of.key_of(one) != key)
        self.history.write(others, time.monotonic())
        (self.documents / _file(key)).unlink()

    def find(self, *kinds: str) -> list[Mapping]:
        """The documents of these kinds, in a stable order."""
        return sorted((one for one in self.history.now if one["kind"] in kinds), key=documents_of.key_of)

    def await_force(self, nodes: Sequence[Served] | None = None) -> None:
        """Wait until the documents are in force on the nodes whose daemons run. AssertionError if they are not."""
        for one in self.nodes if nodes is None else nodes:
            if one.name not in self.down:
                in_force = wait_until(lambda one=one: self._is_in_force(one), timeout=IN_FORCE_SECONDS)
                assert in_force, f"{one.name}: {self._page(one, 'policies')} {self._digests} {one.daemon.log}"

    def await_cut(self) -> None:
        """Wait until the nodes whose daemons run have cut all that is forbidden. AssertionError if they do not."""
        for one in self.nodes:
            if one.name not in self.down:
                is_cut = wait_until(lambda one=one: self._is_cut(one), timeout=IN_FORCE_SECONDS)
                assert is_cut, f"{one.name}: {self._page(one, 'policies')} {one.daemon.log}"

    def _is_cut(self, one: Served) -> bool:
        return self._is_in_force(one) and self.history.is_cut(one.name)

    def _is_in_force(self, one: Served) -> bool:
        page = self._page(one, "policies/documents")
        is_in_force = page.get("complete", False) and page["documents"] == self._digests
        if is_in_force:
            self.history.confirm(one.name, time.monotonic(), is_cut=not page["cutting"])
        return is_in_force

    def _page(self, one: Served, name: str) -> dict:
        assert one.daemon.is_running, one.daemon.log
        status, text = one.daemon.page(name)
        return json.loads(text) if status == 200 else {}

    # Pods

    def begin(self, number: str, node: Served, namespace: str, **labels: str) -> Life:
        """A pod that talks, but is not attached yet; its document has no addresses."""
        life = Life(number, namespace, number, node.name, time.monotonic())
        self.history.lives[number] = life
        pod = node.node.pod(number)
        pod.run(["ip", "link", "set", "lo", "up"])
        targets = [
            str(host)
            for one in self.nodes
            for subnet in one.subnets
            for host in itertools.islice(ipaddress.ip_network(subnet).hosts(), 1, 1 + TARGETS)
        ]
        file = self.accounts / number
        argv = [sys.executable, "-I", "-S", policy_talker.__file__, number, file, self._seconds, *targets]
        talker = pod.start(argv, stdin=subprocess.DEVNULL)
        self.pods[number] = life, pod, talker
        self.write(documents_of.pod(namespace, number, labels=labels, ports=NAMED_PORTS, node=node.name))
        return life

    def attach(self, number: str) -> bool:
        """ADD; whether it has succeeded: else the agent or a daemon was disturbed, and it is to be deleted."""
        life, pod, _ = self.pods[number]
        node = self.node(life.node)
        args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE={life.namespace};K8S_POD_NAME={number};K8S_POD_UID=uid-{number}"
        life.begun = time.monotonic()
        done = node.tool.run("add", NETWORK, pod, args=args)
        if done.returncode:
            self.logs.append(f"ADD of {number}: {done.stdout}{done.stderr}")
            return False
        found = [ip["address"].partition("/")[0] for ip in json.loads(done.stdout)["ips"]]
        life.addresses = {policy_talker.version_of(ip): ip for ip in found}
        life.added = time.monotonic()
        return True

    def publish(self, number: str) -> None:
        """The pod's addresses are in its document from now on."""
        life = self.pods[number][0]
        (document,) = (one for one in self.find("Pod") if one["metadata"]["name"] == number)
        ips = [{"ip": ip} for ip in life.addresses.values()]
        self.write({**document, "status": {"phase": "Running", "podIP": ips[0]["ip"], "podIPs": ips}})

    def await_decisions(self) -> None:
        """Wait until no pod of a node whose daemon runs is held. AssertionError if one is."""
        for one in self.nodes:
            if one.name not in self.down:
                mine = {n: life for n, (life, _, _) in self.pods.items() if life.node == one.name and life.addresses}
                decided = wait_until(lambda one=one, mine=mine: self._are_decided(one, mine), timeout=IN_FORCE_SECONDS)
                assert decided, f"{one.name}: {sorted(mine)} {self._page(one, 'policies')} {one.daemon.log}"

    def _are_decided(self, one: Served, mine: Mapping[str, Life]) -> bool:
        listed = self._page(one, "policies").get("pods", [])
        known = {(pod["address"], pod["pod"]) for pod in listed if not pod["held"]}
        for life in mine.values():
            wanted = {(ip, f"{life.namespace}/{life.name}") for ip in life.addresses.values()}
            if wanted <= known and life.decided > time.monotonic():
                life.decided = time.monotonic()
        return all(life.decided <= time.monotonic() for life in mine.values())

    def end(self, number: str, *, first_talker: bool = True) -> None:
        """Delete a pod, when or before its talker ends; its document stays."""
        life, pod, talker = self.pods.pop(number)
        life.ended = time.monotonic()
        if first_talker:
            talker.terminate()
            talker.wait(10)
        self.node(life.node).tool.ok("del", NETWORK, pod)
        talker.terminate()
        talker.wait(10)
        pod.vanish()

    # Disturbances

    def stop(self, node: Served) -> None:
        """SIGSTOP: the daemon stands still."""
        node.daemon.process.send_signal(signal.SIGSTOP)
        self.down[node.name] = time.monotonic()

    def go_on(self, node: Served) -> None:
        """SIGCONT."""
        self._note_held(node)
        node.daemon.process.send_signal(signal.SIGCONT)
        del self.down[node.name]

    def kill(self, node: Served, number: int = signal.SIGKILL) -> None:
        """End the daemon."""
        self._note_log(node)
        node.daemon.process.send_signal(number)
        node.daemon.process.wait(20)
        self.down[node.name] = time.monotonic()

    def restart(self, node: Served, **changes: object) -> None:
        """Start the daemon that was killed, with other keys of the configuration."""
        self._note_held(node)
        node.start(**changes)
        del self.down[node.name]
        assert wait_until(lambda: self._page(node, "policies"), timeout=IN_FORCE_SECONDS), node.daemon.log

    def kill_agent(self, node: Served) -> None:
        """Kill the agent, and start it again."""
        node.agent.process.kill()
        node.agent.process.wait()
        node.agent = Agent(node.node, node.home)

    def _note_held(self, node: Served) -> None:
        """What was attached while the daemon did not run was held until now."""
        for life, _, _ in self.pods.values():
            if life.node == node.name and life.begun > self.down[node.name]:
                life.held_until = time.monotonic()

    def _note_log(self, node: Served) -> None:
        if "Traceback" in node.daemon.log:
            self.logs.append(node.daemon.log)

    def rules(self, node: Served) -> list[str]:
        """What both tables have, without what changes by itself: a line for each thing, in a stable order."""
        found = []
        for family in _TABLES:
            done = node.node.run(["nft", "-j", "list", "table", family, "slash24_policy"], check=False)
            for entry in json.loads(done.stdout)["nftables"] if done.returncode == 0 else ():
                ((kind, value),) = entry.items()
                found += _lines(kind, value) if kind != "metainfo" else ()
        return sorted(found)

    def problems(self) -> list[str]:
        """Logs with a traceback."""
        for one in self.nodes:
            self._note_log(one)
        return self.logs

    def quiet(self) -> None:
        """End all talkers."""
        for life, _, _ in self.pods.values():
            life.ended = time.monotonic()
        for _, _, talker in self.pods.values():
            talker.terminate()
        for _, _, talker in self.pods.values():
            talker.wait(20)

    def close(self) -> None:
        """End all talkers; what was stopped goes on."""
        for one in self.nodes:
            if one.daemon.is_running:
                one.daemon.process.send_signal(signal.SIGCONT)
        self.quiet()


def _lines(kind: str, value: dict) -> Iterator[str]:
    """An object of a table, without its handle; its elements one by one."""
    about = {key: each for key, each in value.items() if key not in ("handle", "elem", "expr")}
    rule = [each for each in value.get("expr", ()) if "counter" not in each]
    yield json.dumps({kind: about, "expr": rule}, sort_keys=True)
    if value.get("name") not in _FLEETING:
        yield from (json.dumps({value["name"]: each}, sort_keys=True) for each in value.get("elem", ()))


def _file(key: Sequence[str]) -> str:
    return "-".join(filter(None, key)).lower() + ".json"


@contextmanager
def policy_nodes(
    links: Sequence[str],
    folder: Path,
    bin_dir: Path,
    reference_bin: Path,
    *,
    allocate: Sequence[int] = (29, 125),
    seconds: float = _TALK_SECONDS,
    policy: Mapping | None = None,
) -> Iterator[PolicyNodes]:
    """Nodes on these links, without pods. `seconds`: in which a pod speaks to all addresses once."""
    (folder / "registry").mkdir()
    (folder / "policies").mkdir()
    with ExitStack() as stack:
        underlay = Underlay(bin_dir)
        stack.callback(underlay.close)
        cluster = stack.enter_context(cluster_on(underlay, folder / "registry", bin_dir, reference_bin))
        keys = {"documents": DOCUMENTS, "policyWait": WAIT_SECONDS, **(policy or {})}
        for link in links:
            member = underlay.join(link)
            member.node.run(["mkdir", DOCUMENTS])
            member.node.run(["mount", "--bind", folder / "policies", DOCUMENTS])
            cluster.serve(member, allocate=list(allocate), policy=keys)
        cluster.settle()
        made = PolicyNodes(cluster, folder, seconds)
        stack.callback(made.close)
        yield made
