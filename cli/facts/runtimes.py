"""The container runtimes of this node, and where each of them looks for plugins and networks."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from cli.facts.node_files import Files, Toml
from cli.facts.paths import BIN, NET_D

PODMAN = "podman"
_CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
_CRI_PLUGINS = dict.fromkeys(("cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"))
"""containerd's name of what serves the CRI, in versions 1 to 3 of its configuration's format."""
_MOST_IMPORTS = 50

_NEWEST_CNI = {
    "containerd": (((2, 0), "1.1.0"), ((1, 6), "1.0.0")),
    "CRI-O": (((1, 31), "1.1.0"), ((1, 24), "1.0.0")),
    PODMAN: (((4, 0), "1.0.0"),),
    "cri-dockerd": (((0, 3), "1.0.0"),),
}
"""From which version on a runtime reads which version of CNI; older ones read 0.4.0."""
_UNKNOWN_CNI = "1.0.0"

_PODMAN_BIN_DIRS = ("/usr/local/libexec/cni", "/usr/libexec/cni", "/usr/local/lib/cni", "/usr/lib/cni", BIN)
_PODMAN_HELPERS = ("/usr/local/libexec/podman", "/usr/local/lib/podman", "/usr/libexec/podman", "/usr/lib/podman")


@dataclass(frozen=True)
class Runtime:
    """A runtime.

    `running`: whether it answers on its socket; podman has none, and always counts as running. `version`: what its
    executable says, of k3s, RKE2 and MicroK8s that of their containerd; "" if unknown. `config`: its configuration
    file, "" if it has none. `bin_dirs`: where it looks for plugins, in this order; `conf_dir`: where for networks.
    `cni_version`: the newest version of CNI that it reads, "" if it does not use CNI; `why_not` then says why.
    `max_conf_num`: how many files of conf_dir it uses, 0 for all. `conf_template`: from which file it writes its
    network, else "". `network`: the name of the network that it is configured to use, "" for the first by file name.
    `socket`: where it serves the CRI, "" if it does not. `problems`: a sentence about each thing that was unreadable.
    """

    name: str
    running: bool = False
    version: str = ""
    config: str = ""
    bin_dirs: tuple[str, ...] = (BIN,)
    conf_dir: str = NET_D
    cni_version: str = _UNKNOWN_CNI
    why_not: str = ""
    max_conf_num: int = 1
    conf_template: str = ""
    network: str = ""
    socket: str = ""
    problems: tuple[str, ...] = ()


def find_runtimes(root: str = "/") -> list[Runtime]:
    """The runtimes of the node whose files are below `root`."""
    found = []
    for read in (_containerd, _crio, _podman, _cri_dockerd, _k3s, _rke2, _microk8s):
        files = Files(root)
        runtime = read(files)
        if runtime:
            found.append(replace(runtime, problems=tuple(files.problems)))
    return found


def _containerd(files: Files) -> Runtime | None:
    path = files.executable("containerd")
    if not path:
        return None
    flags = files.arguments(path, ["containerd.service"])
    config = flags.get("config") or flags.get("c") or "/etc/containerd/config.toml"
    if "/docker/" in config:  # dockerd has started one for itself
        flags, config = {}, "/etc/containerd/config.toml"
    address = flags.get("address") or flags.get("a") or ""
    return _of_containerd(files, Runtime("containerd"), path, config, address)


def _k3s(files: Files) -> Runtime | None:
    if not files.executable("k3s"):
        return None
    data = _rancher_data(files, "k3s")
    bin_dir = f"{data}/data/cni"
    if not files.exists(bin_dir):
        bin_dir = f"{data}/data/current/bin"
    assumed = Runtime("k3s", bin_dirs=(bin_dir,), conf_dir=f"{data}/agent/etc/cni/net.d")
    path = files.executable(f"{data}/data/current/bin/containerd")
    return _of_rancher(files, assumed, data, path)


def _rke2(files: Files) -> Runtime | None:
    data = _rancher_data(files, "rke2")
    path = files.executable(f"{data}/bin/containerd")
    return _of_rancher(files, Runtime("RKE2"), data, path) if path or files.executable("rke2") else None


def _of_rancher(files: Files, assumed: Runtime, data: str, path: str) -> Runtime:
    """With the configuration that k3s or RKE2 has written for its containerd; `assumed` until it has."""
    config, socket = f"{data}/agent/etc/containerd/config.toml", "/run/k3s/containerd/containerd.sock"
    if files.exists(config):
        return _of_containerd(files, Runtime(assumed.name), path, config, socket)
    version = files.version(path)
    cni = _newest_cni("containerd", version)
    return replace(assumed, version=version, cni_version=cni, socket=socket, running=files.answers(socket))


def _rancher_data(files: Files, name: str) -> str:
    """The folder of k3s' or RKE2's data."""
    folder = f"/var/lib/rancher/{name}"
    for file in (f"/etc/rancher/{name}/config.yaml", *files.named(f"/etc/rancher/{name}/config.yaml.d/*.yaml")):
        found = re.search(r"^data-dir:\s*[\"']?(/[^\s\"'#]+)", files.text(file) or "", re.MULTILINE)
        folder = found[1].rstrip("/") if found else folder
    return folder


def _microk8s(files: Files) -> Runtime | None:
    data, common = "/var/snap/microk8s/current", "/var/snap/microk8s/common"
    if not files.exists(data):
        return None
    path = files.executable("/snap/microk8s/current/bin/containerd")
    assumed = Runtime("MicroK8s", bin_dirs=(f"{data}/opt/cni/bin",), conf_dir=f"{data}/args/cni-network")
    return _of_containerd(files, assumed, path, f"{data}/args/containerd.toml", f"{common}/run/containerd.sock")


def _of_containerd(files: Files, assumed: Runtime, path: str, config: str, address: str) -> Runtime:
    """With what a containerd has in its configuration file, in versions 1 to 3 of its format."""
    version = files.version(path)
    documents = _imported(files, config)
    merged = _merge(documents, deep=_number(version) >= (2, 0) or not version)
    cni: Toml = {}
    for plugin in _CRI_PLUGINS:  # containerd 2 converts what is in an older format
        cni |= _table(merged, "plugins", plugin, "cni")
    bin_dirs = _texts(cni.get("bin_dirs")) or _texts([cni.get("bin_dir")]) or assumed.bin_dirs
    socket = address or _text(_table(merged, "grpc").get("address")) or _CONTAINERD_SOCKET
    is_off = not _CRI_PLUGINS.keys().isdisjoint(_texts(merged.get("disabled_plugins")))
    why_not = f"its CRI is switched off by disabled_plugins in {config}" if is_off else ""
    return replace(
        assumed,
        running=files.answers(socket),
        version=version,
        config=config if files.exists(config) else "",
        bin_dirs=bin_dirs,
        conf_dir=_text(cni.get("conf_dir")) or assumed.conf_dir,
        cni_version="" if why_not else _newest_cni("containerd", version),
        why_not=why_not,
        max_conf_num=_whole(cni.get("max_conf_num"), 1),
        conf_template=_text(cni.get("conf_template")),
        socket="" if why_not else socket.removeprefix("unix://"),
    )


def _imported(files: Files, config: str) -> list[Toml]:
    """The documents of a configuration file and of those that it imports, a later one over an earlier."""
    pending, read, documents = [config], set(), []
    while pending:
        path = pending.pop(0)
        if path in read:
            continue
        if len(read) == _MOST_IMPORTS:
            files.problems.append(f"{config} imports more than {_MOST_IMPORTS} files; the others were not read")
            break
        read.add(path)
        document = files.toml(path) or {}
        documents.append(document)
        for each in _texts(document.get("imports")):
            named = os.path.normpath(os.path.join(os.path.dirname(path), each))
            pending += files.named(named) if "*" in named else [named]
    return documents


def _merge(documents: list[Toml], *, deep: bool) -> Toml:
    """containerd 2 merges the sections of plugins (`deep`); before, a later file replaced a plugin's whole section."""
    merged: Toml = {}
    for document in documents:
        plugins = _table(merged, "plugins"), _table(document, "plugins")
        disabled = [each for each in (merged, document) for each in _texts(each.get("disabled_plugins"))]
        merged = _over(merged, document)
        merged |= {"plugins": _over(*plugins) if deep else plugins[0] | plugins[1], "disabled_plugins": disabled}
    return merged


def _over(old: Toml, new: Toml) -> Toml:
    """Tables merged by their keys, lists joined."""
    merged = dict(old)
    for key, value in new.items():
        before = merged.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            merged[key] = _over(before, value)
        elif isinstance(before, list) and isinstance(value, list):
            merged[key] = [*before, *(each for each in value if each not in before)]
        else:
            merged[key] = value
    return merged


def _crio(files: Files) -> Runtime | None:
    path = files.executable("crio")
    if not path:
        return None
    flags = files.arguments(path, ["crio.service"])
    config = flags.get("config") or flags.get("c") or "/etc/crio/crio.conf"
    folder = flags.get("config-dir") or flags.get("d") or "/etc/crio/crio.conf.d"
    names = [config, *files.named(f"{folder}/*")]
    network: Toml = {}
    listen = ""
    for file in names:
        crio = _table(files.toml(file) or {}, "crio")
        network |= _table(crio, "network")
        listen = _text(_table(crio, "api").get("listen")) or listen
    socket = (flags.get("listen") or listen or "/var/run/crio/crio.sock").removeprefix("unix://")
    version = files.version(path)
    bin_dirs = (*(_texts(network.get("plugin_dirs")) or (BIN,)), *_texts([network.get("plugin_dir")]))
    return Runtime(
        "CRI-O",
        running=files.answers(socket),
        version=version,
        config=next((file for file in reversed(names) if files.exists(file)), ""),
        bin_dirs=tuple(dict.fromkeys(each.rstrip("/") for each in bin_dirs)),
        conf_dir=_text(network.get("network_dir")).rstrip("/") or NET_D,
        cni_version=_newest_cni("CRI-O", version),
        network=_text(network.get("cni_default_network")),
        socket=socket,
    )


def _podman(files: Files) -> Runtime | None:
    path = files.executable("podman")
    if not path:
        return None
    version = files.version(path)
    places = ("/usr/share/containers", "/etc/containers")
    names = [f"{place}/containers.conf{name}" for place in places for name in ("", ".d/*.conf")]
    names = [name for pattern in names for name in files.named(pattern)]
    network: Toml = {}
    engine: Toml = {}
    for file in names:
        document = files.toml(file) or {}
        network |= _table(document, "network")
        engine |= _table(document, "engine")
    why_not = _why_podman_uses_no_cni(files, version, network, engine)
    return Runtime(
        PODMAN,
        running=True,
        version=version,
        config=names[-1] if names else "",
        bin_dirs=_texts(network.get("cni_plugin_dirs")) or _PODMAN_BIN_DIRS,
        conf_dir=_text(network.get("network_config_dir")).rstrip("/") or NET_D,
        cni_version="" if why_not else _newest_cni(PODMAN, version),
        why_not=why_not,
        max_conf_num=0,
        network=_text(network.get("default_network")) or "podman",
    )


def _why_podman_uses_no_cni(files: Files, version: str, network: Toml, engine: Toml) -> str:
    """Why this podman does not use CNI; "" if it does."""
    if _number(version) >= (5, 0):
        return "podman 5 and later have no CNI"
    storage = "/var/lib/containers/storage/defaultNetworkBackend"
    chosen = _text(network.get("network_backend")) or (files.text(storage) or "").strip()
    if not chosen:
        helpers = _texts(engine.get("helper_binaries_dir")) or _PODMAN_HELPERS
        chosen = "netavark" if files.executable(*(f"{each}/netavark" for each in helpers)) else "cni"
    return "" if chosen == "cni" or (version and _number(version) < (4, 0)) else f"its network_backend is {chosen}"


def _cri_dockerd(files: Files) -> Runtime | None:
    path = files.executable("cri-dockerd")
    if not path:
        return None
    flags = files.arguments(path, ["cri-docker.service", "cri-dockerd.service"])
    version = files.version(path)
    plugin = flags.get("network-plugin", "cni")
    endpoint = flags.get("container-runtime-endpoint", "").removeprefix("unix://")
    socket = endpoint if endpoint.startswith("/") else "/run/cri-dockerd.sock"
    return Runtime(
        "cri-dockerd",
        running=files.answers(socket),
        version=version,
        bin_dirs=tuple(filter(None, flags.get("cni-bin-dir", "").split(","))) or (BIN,),
        conf_dir=flags.get("cni-conf-dir") or NET_D,
        cni_version=_newest_cni("cri-dockerd", version) if plugin == "cni" else "",
        why_not="" if plugin == "cni" else f"it was started with --network-plugin={plugin}",
        socket=socket,
    )


def _newest_cni(name: str, version: str) -> str:
    """The newest version of CNI that a runtime of this version reads."""
    if not version:
        return _UNKNOWN_CNI
    return next((cni for since, cni in _NEWEST_CNI[name] if _number(version) >= since), "0.4.0")


def _number(version: str) -> tuple[int, int]:
    """The first two parts of a version; zeros if it is unknown."""
    major, minor, *_ = [*re.findall(r"\d+", version)[:2], "0", "0"]
    return int(major), int(minor)


def _table(document: Mapping[str, object], *keys: str) -> Toml:
    """The table under these keys; an empty one if there is none."""
    for key in keys:
        found = document.get(key)
        document = found if isinstance(found, dict) else {}
    return dict(document)


def _text(value: object) -> str:
    return value if isinstance(value, str) and "\0" not in value else ""


def _texts(values: object) -> tuple[str, ...]:
    """The texts of a list that are not empty."""
    return tuple(filter(None, map(_text, values))) if isinstance(values, list) else ()


def _whole(value: object, assumed: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else assumed
