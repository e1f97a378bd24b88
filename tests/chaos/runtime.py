"""The container runtime of the chaos test: it adds and deletes pods, with the calls that libcni makes for each."""

import json
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.leftovers import Attached
from tests.chaos.networks import HANG_SECONDS, MOODS, NETWORKS, Network, usable
from tests.chaos.weather import DEADLINE_SECONDS, Weather
from tests.netns.cni import PATH
from tests.netns.node import Node

_KILLED_SHARE, _MOODY_SHARE, _VANISHED_SHARE = 0.03, 0.3, 0.25
_CALL_SECONDS = 60


@dataclass(frozen=True)
class Answer:
    """The outcome of a call: "ok", the code of an error, or "killed"; and the document of an ADD."""

    outcome: str
    document: dict | None = None

    @property
    def is_success(self) -> bool:
        """Whether the call succeeded."""
        return self.outcome == "ok"


@dataclass
class Slot:
    """Room for one pod at a time. `state`: "absent", "dirty" (to be deleted until that succeeds) or "alive".

    `lock` must be held to call plugins for it or to change it: a runtime does one thing at a time with a pod.
    """

    number: int
    generation: int = 0
    state: str = "absent"
    network: Network = NETWORKS[0]
    result: dict | None = None
    waits_until: float = 0.0  # an agent may have to finish a call that hangs before it can serve the next
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def container_id(self) -> str:
        """The id of the current or last pod."""
        return f"pod{self.number}-{self.generation}"


@dataclass(frozen=True)
class Folders:
    """The folders of the plugins: ours, the foreign IPAM plugin, the Go suite's."""

    ours: Path
    foreign: Path
    reference: Path

    def home(self, network: Network) -> Path:
        """The folder of the network's main plugin."""
        return self.reference if network.is_reference else self.ours


class Gate:
    """A shared lock for ADDs of a network, exclusive for a GC: its list of valid attachments must be complete."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the lock together with others."""
        with self._changed:
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock alone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._inside)
            yield


class Runtime:
    """Pods in slots on one node. `calls` counts calls by verb and outcome; `wrongs` describes each wrong result."""

    def __init__(self, node: Node, folders: Folders, weather: Weather, slots: int) -> None:
        self._node, self._folders, self._weather = node, folders, weather
        self.networks = usable(node)
        self.slots = [Slot(number) for number in range(slots)]
        self.calls: Counter[tuple[str, str]] = Counter()
        self.wrongs: list[str] = []
        self._gates = {network.name: Gate() for network in NETWORKS}

    def living(self) -> list[Attached]:
        """The pods whose ADD succeeded."""
        alive = [slot for slot in self.slots if slot.state == "alive"]
        return [Attached(slot.network, slot.container_id, slot.result) for slot in alive]

    def step(self, choose: random.Random) -> None:
        """Do one thing with one pod that no other thread works on, or a GC."""
        if choose.random() < 0.02:
            self.gc(choose.choice(self.networks), choose=choose)
            return
        slot = choose.choice(self.slots)
        if not slot.lock.acquire(blocking=False):
            return
        try:
            if slot.state == "absent":
                self._begin(slot, choose)
            elif slot.state == "dirty" or choose.random() < 0.5:
                self._end(slot, choose)
            else:
                self.check(slot, choose)
        finally:
            slot.lock.release()

    def repair(self) -> None:
        """In calm weather, add and delete a pod on the overlay, so that the node applies the content of its files."""
        overlay = next(network for network in self.networks if network.is_overlay)
        slot = Slot(len(self.slots))
        self._attach(slot, overlay, None)
        if slot.state != "alive":
            self.wrongs.append("ADD of a pod of the overlay does not succeed in calm weather")
        self._end(slot, None)

    def settle(self, choose: random.Random, *, kept: bool) -> None:
        """In calm weather, delete dirty pods and, unless `kept`, living ones; CHECK living ones. All must succeed."""
        for slot in self.slots:
            if slot.state == "alive":
                self.check(slot, None)
            if slot.state == "dirty" or (slot.state == "alive" and not kept):
                self._end(slot, None)
                while slot.state != "absent" and time.monotonic() < slot.waits_until:
                    self._end(slot, None)
                if slot.state != "absent":
                    self.wrongs.append(f"DEL of {slot.container_id} does not succeed in calm weather")

    def check(self, slot: Slot, choose: random.Random | None) -> None:
        """CHECK of a living pod: with each plugin in order, until one fails."""
        for conf in self._configurations(slot, "CHECK", choose):
            if not self._call("CHECK", slot, {**conf, "prevResult": slot.result}, choose).is_success:
                return

    def gc(self, network: Network, *, choose: random.Random | None) -> None:
        """GC with each plugin; whether dirty pods count as valid depends on the seed."""
        with self._gates[network.name].alone():
            states = {"alive"} if choose is None or choose.random() < 0.5 else {"alive", "dirty"}
            valid = [
                {"containerID": slot.container_id, "ifname": "eth0"} for slot in self.slots if slot.state in states
            ]
            for conf in network.configurations(0, ""):
                conf.pop("runtimeConfig", None)
                self._call("GC", None, {**conf, "cni.dev/valid-attachments": valid}, None, network)

    def _begin(self, slot: Slot, choose: random.Random) -> None:
        """Begin a new pod."""
        self._attach(slot, choose.choice(self.networks), choose)

    def _attach(self, slot: Slot, network: Network, choose: random.Random | None) -> None:
        """Create a pod's namespace, and ADD with each plugin until one fails."""
        slot.generation += 1
        slot.network = network
        if self._node.run(["ip", "netns", "add", slot.container_id], check=False).returncode != 0:
            self._node.run(["ip", "netns", "del", slot.container_id], check=False)
            return  # no room in /run: no ADD was started
        with self._gates[slot.network.name].shared():
            slot.state, slot.result = "dirty", None
            result = None
            for conf in self._configurations(slot, "ADD", choose):
                answer = self._call("ADD", slot, {**conf, "prevResult": result} if result else conf, choose)
                result = answer.document
                if not answer.is_success or result is None:
                    return
            slot.state, slot.result = "alive", result

    def _end(self, slot: Slot, choose: random.Random | None) -> None:
        """DEL with each plugin, from the last, until one fails; sometimes the namespace is deleted before."""
        slot.state = "dirty"
        if choose and choose.random() < _VANISHED_SHARE:
            self._vanish(slot)
        before = {"prevResult": slot.result} if slot.result else {}
        for conf in reversed(self._configurations(slot, "DEL", choose)):
            if not self._call("DEL", slot, {**conf, **before}, choose).is_success:
                return
        self._vanish(slot)
        slot.state, slot.result = "absent", None

    def _vanish(self, slot: Slot) -> None:
        if self._node.path(f"/run/netns/{slot.container_id}").exists():
            self._node.run(["ip", "netns", "del", slot.container_id])

    def _configurations(self, slot: Slot, verb: str, choose: random.Random | None) -> list[dict]:
        """The configuration for each plugin, with the foreign plugin's mood."""
        mood = choose.choice(MOODS) if choose and choose.random() < _MOODY_SHARE and verb != "CHECK" else ""
        return slot.network.configurations(slot.number, mood)

    def _call(
        self,
        verb: str,
        slot: Slot | None,
        conf: Mapping,
        choose: random.Random | None,
        network: Network | None = None,
    ) -> Answer:
        """Call a plugin once and check the outcome; calls of our plugins are sometimes killed."""
        network = network or slot.network
        home = self._folders.home(network)
        env = {"PATH": PATH, "CNI_COMMAND": verb, "CNI_PATH": f"{self._folders.foreign}:{home}"}
        if slot:
            netns = f"/run/netns/{slot.container_id}"
            env |= {"CNI_CONTAINERID": slot.container_id, "CNI_NETNS": netns, "CNI_IFNAME": "eth0"}
        # Early, as an agent takes milliseconds, or later, as a plugin that starts takes a tenth of a second.
        is_killed = choose and choose.random() < _KILLED_SHARE and not network.is_reference
        kill = choose.expovariate(choose.choice((10, 100))) if is_killed else None
        begin = time.monotonic()
        status, stdout, stderr = self._run(home / conf["type"], env, json.dumps(conf), kill)
        answer, wrong = judge(verb, status, stdout)
        hangs = conf.get("ipam", {}).get("mood", "").startswith("hang")
        if slot and hangs:
            slot.waits_until = time.monotonic() + HANG_SECONDS + DEADLINE_SECONDS
        excused = hangs or bool(slot and begin < slot.waits_until) or self._excuses(network, verb, begin)
        if not wrong and not answer.is_success and not excused and answer.outcome != "killed":
            wrong = "failed in calm weather"
        if wrong:
            self.wrongs.append(
                f"{verb} {conf['type']} {env.get('CNI_CONTAINERID', '')}: {wrong}: {stdout!r} {stderr!r}"
            )
        self.calls[verb, answer.outcome] += 1
        return answer

    def _excuses(self, network: Network, verb: str, begin: float) -> bool:
        """Whether a call that began then may fail: bad weather, wrong files, or plugins that are not ours."""
        now = time.monotonic()
        is_misled = network.is_overlay and verb in ("CHECK", "STATUS") and self._weather.was_misled(begin, now)
        return is_misled or network.is_reference or self._weather.was_bad(begin, now)

    def _run(self, plugin: Path, env: Mapping[str, str], stdin: str, kill: float | None) -> tuple[int, str, str]:
        pipe = subprocess.PIPE
        process = self._node.start([plugin], env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        timer = threading.Timer(kill, process.kill) if kill is not None else None
        if timer:
            timer.start()
        try:
            stdout, stderr = process.communicate(stdin, timeout=_CALL_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            stdout, stderr = process.communicate()
            self.wrongs.append(f"{plugin.name} {env} was not answered within {_CALL_SECONDS} s")
        finally:
            if timer:
                timer.cancel()
        return process.returncode, stdout, stderr


def judge(verb: str, status: int, stdout: str) -> tuple[Answer, str]:
    """The outcome of a call, and what is wrong with the form of its output, if anything."""
    if status < 0:
        return Answer("killed"), ""
    try:
        document = json.loads(stdout) if stdout else None
    except ValueError:
        return Answer("malformed"), "no JSON document"
    if status == 0:
        if verb != "ADD":
            return Answer("ok"), f"a {verb} has no result" if stdout else ""
        is_result = isinstance(document, dict) and "cniVersion" in document and "code" not in document
        return Answer("ok", document), "" if is_result else "an ADD without a result"
    if not isinstance(document, dict) or not isinstance(document.get("code"), int) or not document.get("msg"):
        return Answer("malformed"), f"no error document, and exit status {status}"
    return Answer(f"code {document['code']}"), "" if status == 1 else f"exit status {status}"
