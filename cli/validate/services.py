"""The agent, the daemon, and whether pods of Kubernetes come up."""

import os
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from cli.facts.services import Service, read_daemon
from cli.status.picture import Event
from cli.status.read import errors_of
from cli.validate.findings import Finding, not_applicable, ok, problem, warning
from cli.validate.node import Facts
from plugins.__main__ import VERSION

POD_LOGS = "/var/log/pods"
"""Of the kubelet: a folder for each pod, with a folder for each container that was created."""

_DNS = ("kube-system_coredns-", "kube-system_kube-dns-", "kube-system_rke2-coredns-")
_PATIENCE = 120  # seconds in which a pod may be without a container
_MOST = 10_000
_UNITS = ("containerd", "crio", "cri-docker", "kubelet", "k3s", "k3s-agent", "rke2-server", "rke2-agent")
_SECONDS, _LARGEST = 10, 16 << 20  # of reading the journal; bytes of it
_FAILED = re.compile(
    r"failed to (set ?up|destroy|create) (pod )?network|network plugin (returns error|not ready|is not ready)"
    r"|networkPlugin cni failed|cni (plugin|config) (not initialized|load failed)|plugin type=\S+ failed",
    re.IGNORECASE,
)
"""What kubelet, containerd, CRI-O and libcni write when a pod gets no network."""
_DIGITS = re.compile(r"[0-9a-f]{6,}|\d+")
_SHOWN, _LONGEST_LINE, _LATELY = 3, 400, 3600


def check(facts: Facts) -> Iterator[Finding]:
    """Both are well, as far as they run."""
    for service in (facts.agent, read_daemon()):
        yield from judge(service)


def judge(service: Service) -> Iterator[Finding]:
    """One of the two."""
    name = service.name
    for sentence in service.problems:
        is_bad = not service.is_running or service.is_ready is not True
        mend = f"journalctl -u {name} tells more; systemctl restart {name}"
        yield problem(f"{name}: {sentence}", mend) if is_bad else warning(f"{name}: {sentence}")
    version = service.pages.get("/status", {}).get("version", VERSION)
    if version != VERSION:
        yield problem(f"{name} runs in version {version}, not {VERSION} as this command", f"systemctl restart {name}")
    elif service.problems:
        return
    elif service.is_running:
        yield ok(f"{name} runs{' and is ready' if service.is_ready else ''}")
    elif service.is_waiting:
        yield ok(f"{name} is started by the next call")
    else:
        yield not_applicable(f"{name} does not run, and need not")


def check_log(facts: Facts) -> Iterable[Finding]:
    """No log tells of pods whose network failed."""
    return judge_log(_journal(), errors_of(facts.agent, {}) if "/status" in facts.agent.pages else None)


def _journal() -> list[str] | None:
    """The last hour's messages of runtimes and kubelet, None without a journal."""
    units = [word for unit in _UNITS for word in ("-u", unit)]
    argv = ["journalctl", "-q", "-o", "cat", "--no-pager", "--since", "-1h", "-n", str(_MOST), *units]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout[-_LARGEST:].decode("utf-8", "replace").splitlines()


def judge_log(lines: Sequence[str] | None, errors: Sequence[Event] | None) -> Iterator[Finding]:
    """What is about pods whose network failed; the same message of several pods is told once.

    `lines`: messages of the journal; `errors`: of the agent, the newest first. None: they could not be read.
    """
    if not lines and errors is None:
        yield not_applicable("there is neither a journal of runtimes or kubelet, nor an agent with pages")
        return
    told = [event.text for event in reversed(errors or ()) if event.seconds_ago <= _LATELY]
    told += [line for line in lines or () if _FAILED.search(line)]
    failed = {_DIGITS.sub("#", line): line for line in told}
    for line in list(failed.values())[-_SHOWN:]:
        mend = "mend what it names; the pods are tried again by themselves"
        yield warning(f"in the last hour: {line[:_LONGEST_LINE]}", mend)
    if not failed:
        where = [*(["the journal"] if lines else []), *(["the agent's last errors"] if errors is not None else [])]
        yield ok(f"no pod's network has failed in the last hour, by {' and '.join(where)}")


@dataclass(frozen=True)
class PodLogs:
    """A pod of Kubernetes on this node: `has_containers` unless none was created. `age` in seconds."""

    name: str
    has_containers: bool
    age: float


def check_dns(_facts: Facts) -> Iterable[Finding]:
    """The pods of the cluster's DNS have started."""
    return judge_dns(read_pod_logs(POD_LOGS))


def read_pod_logs(folder: str) -> list[PodLogs] | None:
    """What the kubelet has logged of pods; None if there is no kubelet. Raises OSError."""
    if not os.path.isdir(folder):
        return None
    found, now = [], time.time()
    for name in sorted(os.listdir(folder))[:_MOST]:
        with suppress(OSError):  # deleted meanwhile, or no folder
            path = os.path.join(folder, name)
            has_containers = any(entry.is_dir() for entry in os.scandir(path))
            found.append(PodLogs(name, has_containers, now - os.stat(path).st_mtime))
    return found


def judge_dns(pods: Sequence[PodLogs] | None) -> Iterator[Finding]:
    """`pods`: those of Kubernetes, None without a kubelet."""
    if pods is None:
        yield not_applicable("there is no kubelet here")
        return
    dns = [pod for pod in pods if pod.name.startswith(_DNS)]
    waiting = [pod for pod in dns if not pod.has_containers]
    for pod in waiting:
        name = pod.name.split("_")[1]
        if pod.age > _PATIENCE:
            how = f"kubectl -n kube-system describe pod {name}; journalctl -u kubelet | grep {name}"
            yield problem(f"no container of {name} was created in {int(pod.age)} seconds", how)
        else:
            yield warning(f"{name} has no container yet")
    if dns and not waiting:
        yield ok(f"the containers of {', '.join(pod.name.split('_')[1] for pod in dns)} were created")
    elif not dns:
        started = sum(pod.has_containers for pod in pods)
        yield not_applicable(
            f"no pod of the cluster's DNS is on this node; containers of {started} of {len(pods)} pods were created"
        )
