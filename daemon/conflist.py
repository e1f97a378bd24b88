"""The network configuration list that runtimes read: built from the daemon's configuration, written last.

A file of ours says so: it has the key "writtenBy" with the value "slash24-node", which runtimes ignore. Others are
never overwritten or deleted.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress

from daemon.config import BRIDGE, Config
from plugins.__main__ import TYPES
from plugins.node.conf import ipam_of
from plugins.node.records import NODE_FILE, read_subnet_file
from spec import jsontext
from spec.config import Section
from spec.errors import CNIError, Code
from state.files import delete_file, make_folders, read_file, replace_file

_MARK, _WRITER = "writtenBy", "slash24-node"
_READ_BY_RUNTIMES = (".conf", ".conflist", ".json")


def main_plugin(config: Config) -> dict[str, object]:
    """The main plugin's object, without what the files of the node say. `kubenet` and `vxlan` read these themselves.

    "policyWait" says that policies are enabled on this node.
    """
    main = {"type": config.mode, **config.plugin}
    return {**main, "policyWait": config.policy.wait} if config.policy.enabled else main


def build(config: Config, node_file: str = NODE_FILE) -> dict[str, object]:
    """The list. Raises CNIError 11 if `bridge` needs the node's subnets, and `node_file` does not have them."""
    main = main_plugin(config)
    if config.mode == BRIDGE:
        section = Section(main)
        main = {key: value for key, value in main.items() if key.lower() != "ipam"}
        if not section.mentions("isDefaultGateway"):
            main["isDefaultGateway"] = True
        main["ipam"] = ipam_of(section, read_subnet_file(node_file).subnets)
    plugins = [main, *config.conflist.plugins]
    versions = {"cniVersion": config.conflist.cni_version}
    if config.conflist.cni_version == "1.0.0" and all(plugin["type"] in TYPES for plugin in plugins):
        versions["cniVersions"] = ["1.0.0", "1.1.0"]  # for runtimes that choose; the others read the first key
    return {**versions, "name": config.conflist.name, _MARK: _WRITER, "plugins": plugins}


def ensure(config: Config, node_file: str = NODE_FILE) -> tuple[str, ...]:
    """Write the list unless it is there, and delete lists that an earlier configuration had under other names.

    Returns a sentence for each other file that runtimes prefer. Raises OSError; CNIError if the file is somebody
    else's, or as `build`.
    """
    path = config.conflist.path
    content = json.dumps(build(config, node_file), indent=2, ensure_ascii=False).encode() + b"\n"
    folder, name = os.path.split(path)
    make_folders(folder, 0o755)
    present = _read(path)
    if present != content:
        if present is not None and not is_ours(present):
            raise CNIError(
                Code.IO_FAILURE,
                f"{path} was not written by slash24-node, and is not overwritten",
                'move it away, or set "path" in [conflist]',
            )
        replace_file(path, os.path.join(folder, f".{name}.new"), content)
        os.chmod(path, 0o644)
    warnings = []
    for other in _read_by_runtimes(folder):
        if other != name and is_ours(_read(os.path.join(folder, other)) or b""):
            delete_file(os.path.join(folder, other))
        elif other < name:
            warnings.append(
                f"runtimes use {os.path.join(folder, other)} in place of {name}, since they take the first "
                "by name; move it away"
            )
    return tuple(warnings)


def remove(path: str) -> bool:
    """Delete the list if slash24-node wrote it; returns whether it is gone. Raises OSError."""
    present = _read(path)
    if present is not None and not is_ours(present):
        return False
    delete_file(path)
    return True


def _read(path: str) -> bytes | None:
    """The content of a file; None if it does not exist, b"" if it cannot be read."""
    if not os.path.lexists(path):
        return None
    with suppress(OSError):
        return read_file(path)
    return b""


def is_ours(content: bytes) -> bool:
    """Whether a list, as its file has it, was written by this daemon."""
    with suppress(ValueError):
        value = jsontext.loads(content)
        return isinstance(value, Mapping) and value.get(_MARK) == _WRITER
    return False


def _read_by_runtimes(folder: str) -> Iterator[str]:
    """The names of the files in a folder that runtimes read, in their order."""
    return (name for name in sorted(os.listdir(folder)) if name.endswith(_READ_BY_RUNTIMES))
