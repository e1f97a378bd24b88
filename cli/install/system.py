"""What an installation puts elsewhere on the node: the command on PATH, completion, man pages, systemd's units."""

import os
from collections.abc import Iterator

from agent.health import greeting_problem
from agent.options import SOCKET
from cli.facts.paths import BIN
from cli.install.source import is_packaged, shared
from cli.install.steps import Step, content_of, run, write

COMMAND = "/usr/local/bin/slash24"
UNITS = "/etc/systemd/system"
AGENT = ("slash24-agent.socket", "slash24-agent.service")
_NODE = "slash24-node.service"
_SYSTEMD = "/run/systemd/system"
_PAGES = {
    "man": "/usr/local/share/man/man1",
    "completion/bash": "/usr/local/share/bash-completion/completions",
    "completion/zsh": "/usr/local/share/zsh/site-functions",
    "completion/fish": "/usr/local/share/fish/vendor_completions.d",
}
"""What is in these folders of `share`, and where the system looks for it."""


def has_systemd() -> bool:
    """Whether systemd runs this node."""
    return os.path.isdir(_SYSTEMD)


def command_steps(private: str) -> Iterator[Step]:
    """The steps for those who type the command. The Debian package has it all in /usr."""
    if is_packaged(private) or os.path.lexists("/usr/bin/slash24"):
        return
    target = os.path.join(BIN, "slash24")
    if not (os.path.islink(COMMAND) and os.readlink(COMMAND) == target):
        yield Step(f"link {COMMAND} to {target}", lambda: _link(target))
    files = {path: content for path, content in _pages(private).items() if content_of(path) != content}
    if files:
        yield Step("put man pages and completion for shells into /usr/local/share", lambda: _write(files))


def agent_steps(private: str, *, is_new: bool) -> Iterator[Step]:
    """The steps that start the agent by systemd; if executables have changed (`is_new`), again."""
    if not has_systemd():
        return
    units = {} if is_packaged(private) else _units(private)
    files = {path: content for path, content in units.items() if content_of(path) != content}
    if files:
        yield Step(f"write {', '.join(sorted(files))}", lambda: _write(files))
    if files or (is_new and not units):
        yield Step("have systemd read its units again", lambda: _systemctl("daemon-reload"))
    runs = _says("is-active", AGENT[1]) == "active"
    if is_new:
        yield Step("restart agent and daemon if they run", lambda: _systemctl("try-restart", AGENT[1], _NODE))
    if not runs and not greeting_problem(SOCKET):
        return  # somebody else has started it, such as Kubernetes
    if not runs or _says("is-enabled", AGENT[1]) != "enabled":
        advice = f"systemctl status {AGENT[1]} says why"
        yield Step("start the agent, now and at each boot", lambda: _systemctl("enable", "--now", *AGENT), advice)


def remove_steps(private: str) -> Iterator[Step]:
    """The steps that undo those above."""
    units = [path for path, content in _units(private).items() if content_of(path) == content]
    started = [unit for unit in (*AGENT, _NODE) if has_systemd() and _says("is-enabled", unit) == "enabled"]
    started = [unit for unit in started if os.path.join(UNITS, unit) in units or is_packaged(private)]
    if started:
        yield Step(f"stop {', '.join(started)}", lambda: _systemctl("disable", "--now", *started))
    if units:
        yield Step(f"delete {', '.join(units)}", lambda: _delete(units))
        if has_systemd():
            yield Step("have systemd read its units again", lambda: _systemctl("daemon-reload"))
    pages = [path for path, content in _pages(private).items() if content_of(path) == content]
    if pages:
        yield Step("delete man pages and completion from /usr/local/share", lambda: _delete(pages))
    if os.path.islink(COMMAND) and os.readlink(COMMAND) == os.path.join(BIN, "slash24"):
        yield Step(f"delete {COMMAND}", lambda: _delete([COMMAND]))


def _units(private: str) -> dict[str, bytes]:
    return _files(shared(private, "systemd"), UNITS)


def _pages(private: str) -> dict[str, bytes]:
    """Where each page and completion belongs, and its content."""
    found = {}
    for name, folder in _PAGES.items():
        found |= _files(shared(private, name), folder)
    return found


def _files(folder: str, target: str) -> dict[str, bytes]:
    """The files of a folder, by the paths that they have in another."""
    return {os.path.join(target, name): content_of(os.path.join(folder, name)) for name in sorted(os.listdir(folder))}


def _write(files: dict[str, bytes]) -> None:
    for path, content in files.items():
        write(path, content)


def _delete(paths: list[str]) -> None:
    for path in paths:
        os.unlink(path)


def _link(target: str) -> None:
    os.makedirs(os.path.dirname(COMMAND), 0o755, exist_ok=True)
    new = f"{COMMAND}.new"
    if os.path.lexists(new):  # of an installation that was killed
        os.unlink(new)
    os.symlink(target, new)
    os.replace(new, COMMAND)


def _says(what: str, unit: str) -> str:
    """What `systemctl is-active` or `is-enabled` says of a unit."""
    import subprocess

    done = subprocess.run(
        ["systemctl", what, unit], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    return done.stdout.strip()


def _systemctl(*words: str) -> None:
    run("systemctl", *words)
