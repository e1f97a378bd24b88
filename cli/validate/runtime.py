"""The runtimes of the node, and the network that they use."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from cli.facts.networks import Network, used_of
from cli.facts.runtimes import Runtime
from cli.validate.findings import Finding, not_applicable, ok, problem, warning
from cli.validate.node import Facts, main_runtime

_INSTALL = "slash24 install"


def check_runtimes(facts: Facts) -> Iterable[Finding]:
    """A runtime here uses CNI."""
    return judge_runtimes(facts.runtimes)


def judge_runtimes(runtimes: Sequence[Runtime]) -> Iterator[Finding]:
    """Each runtime: whether it uses CNI, and whether it runs."""
    if not runtimes:
        known = "containerd, CRI-O, cri-dockerd, podman, k3s, RKE2 and MicroK8s"
        yield warning(
            f"no runtime was found; {known} are known", "install one, for example: apt-get install containerd"
        )
    main = main_runtime(runtimes)
    for runtime in runtimes:
        yield from (warning(sentence) for sentence in runtime.problems)
        name = f"{runtime.name} {runtime.version}".strip()
        if runtime.why_not and not main:
            yield problem(f"{name} does not use CNI: {runtime.why_not}", _how_to_use_cni(runtime))
        elif runtime.why_not:
            yield not_applicable(f"{name} does not use CNI: {runtime.why_not}")
        elif not runtime.running:
            how = f"start it: systemctl start {runtime.name.lower()}"
            yield warning(f"{name} does not answer on {runtime.socket}", how)
        else:
            which = "" if runtime is main else "; its network is not looked at here"
            where = f"with plugins of {' '.join(runtime.bin_dirs)} and networks of {runtime.conf_dir}"
            yield ok(f"{name} uses CNI, {where}{which}")


def _how_to_use_cni(runtime: Runtime) -> str:
    if "disabled_plugins" in runtime.why_not:
        return f'take "cri" out of disabled_plugins in {runtime.config}; systemctl restart {runtime.name.lower()}'
    if runtime.name == "podman":
        return 'network_backend = "cni" below [network] in /etc/containers/containers.conf (podman 4)'
    return "start it with --network-plugin=cni"


def check_networks(facts: Facts) -> Iterable[Finding]:
    """The file that the runtime uses."""
    skips = bool(facts.runtime) and facts.runtime.name in ("CRI-O", "cri-dockerd", "podman")
    wanted = facts.runtime.network if facts.runtime else ""
    return judge_networks(facts.networks, facts.folder, _installed(facts.bin_dirs), wanted=wanted, skips=skips)


def _installed(bin_dirs: Iterable[str]) -> set[str]:
    """The names of the files in these folders."""
    found: set[str] = set()
    for folder in bin_dirs:
        with suppress(OSError):
            found |= set(os.listdir(folder))
    return found


def judge_networks(
    networks: Sequence[Network], folder: str, installed: Iterable[str], *, wanted: str, skips: bool
) -> Iterator[Finding]:
    """Which file is used, and which are in the way.

    `installed`: the types of plugins that are there. `wanted`: the name of the network that the runtime is configured
    to use, "" for the first. `skips`: whether it passes over files that it cannot read.
    """
    used = used_of([network for network in networks if wanted in ("", network.name)])
    if not used:
        name = f' with the name "{wanted}"' if wanted else ""
        yield problem(f"{folder} has no network{name} that a runtime can use", _INSTALL)
    else:
        yield ok(f'pods get the network "{used.name}" ({", ".join(used.types)}) of {used.path}')
    is_before = True
    for network in networks:
        is_before = is_before and network is not used
        if network.problem and is_before and not skips and not wanted:
            yield problem(f"{network.path}: {network.problem}; the runtime reads no file after it", _away(network))
        elif network.problem:
            yield warning(f"{network.path} is not used: {network.problem}", _away(network))
        elif network is not used:
            yield from _judge_unused(network, set(installed))
    if used and not _is_ours(used):
        ours = next((network for network in networks if _is_ours(network) and not network.problem), None)
        beside = f'; "{ours.name}" of {ours.path} is not used' if ours else ""
        yield problem(f'"{used.name}" is not a network of slash24, but of type {used.types[0]}{beside}', _away(used))


def _judge_unused(network: Network, installed: set[str]) -> Iterator[Finding]:
    """What another provider has left would be used once the files before it are gone."""
    missing = [kind for kind in network.types if kind not in installed]
    if missing:
        yield warning(f"{network.path} is stale: there is no plugin {', '.join(missing)}", _away(network))


def _is_ours(network: Network) -> bool:
    return bool(network.plugins) and network.types[0] in ("bridge", "kubenet", "vxlan")


def _away(network: Network) -> str:
    return f"mv {network.path} {network.path}.unused"


def check_version(facts: Facts) -> Iterable[Finding]:
    """The runtime reads the network's version."""
    if not facts.network:
        return [not_applicable("there is no network")]
    if not facts.runtime:
        return [not_applicable(f"no runtime is known; the network is of version {facts.version}")]
    return judge_version(facts.network, facts.runtime)


def judge_version(network: Network, runtime: Runtime) -> Iterator[Finding]:
    """A network in a version that the runtime does not know is refused for each pod."""
    version, name = network.version_for(runtime.cni_version), f"{runtime.name} {runtime.version}".strip()
    if not version:
        stated = ", ".join(dict.fromkeys((network.stated, *network.offered)))
        yield problem(
            f"{name} reads CNI {runtime.cni_version} at most, but {network.path} is of {stated}",
            f'set "cniVersion": "{runtime.cni_version}" in {network.path}',
        )
        return
    yield ok(f"{name} reads {network.path} as CNI {version}")
