"""A system bus on a node, and firewalld on it: the real one, or a fake with only the methods the reference calls."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.conftest import ROOT
from tests.netns.node import Node, wait_until

UNPACKED = ROOT / "build" / "firewalld"
BUS = "/run/dbus/system_bus_socket"
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_BUS_CONF = f"""<busconfig>
<type>system</type><listen>unix:path={BUS}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
<allow own="*"/><allow user="*"/></policy>
</busconfig>"""

# Implements only the methods that the reference calls, like an old firewalld.
_FAKE = """
import socket, sys
sys.path.insert(0, {root!r})
from jeepney import HeaderFields, MessageType, Parser, new_error, new_method_return, MessageGenerator
from jeepney.bus_messages import message_bus
from linux import dbus
bus, rest = dbus.connect({address!r}, None)
parser, held = Parser(), set()
parser.add_data(rest)
bus.sendall(message_bus.RequestName("org.fedoraproject.FirewallD1").serialise(2))
serial = 3
while True:
    message = parser.get_next_message()
    if message is None:
        parser.add_data(dbus.receive(bus))
        continue
    if message.header.message_type is not MessageType.method_call:
        continue
    method, pair = message.header.fields[HeaderFields.member], tuple(message.body)
    print(method, *pair, file=open("/run/fake-firewalld", "a"))
    if method == "addSource" and pair in held:
        answer = new_error(message, "org.fedoraproject.FirewallD1.Exception", "s", (f"ZONE_ALREADY_SET: {{pair}}",))
    elif method in ("addSource", "removeSource"):
        (held.add if method == "addSource" else held.discard)(pair)
        answer = new_method_return(message, "s", (pair[0],))
    elif method == "querySource":
        answer = new_method_return(message, "b", (pair in held,))
    else:
        answer = new_error(message, "org.freedesktop.DBus.Error.UnknownMethod", "s", ("Unknown / invalid method",))
    bus.sendall(answer.serialise(serial))
    serial += 1
"""


@contextmanager
def bus(node: Node) -> Iterator[None]:
    """A system bus on the node."""
    folder = node.path("/run/dbus")
    folder.mkdir(exist_ok=True)
    (folder / "bus.conf").write_text(_BUS_CONF)
    with _running(node, ["dbus-daemon", "--config-file=/run/dbus/bus.conf", "--nofork", "--nopidfile", "--nosyslog"]):
        assert wait_until((folder / "system_bus_socket").exists)
        yield


@contextmanager
def real(node: Node) -> Iterator[None]:
    """Debian's firewalld, with its default configuration."""
    configuration = UNPACKED / "usr/lib/firewalld"
    assert configuration.is_dir(), f"{UNPACKED} is not there; make it with tests/tools.sh"
    node.path("/run/firewalld.conf.d").mkdir(exist_ok=True)
    argv = ["/usr/bin/python3", UNPACKED / "usr/sbin/firewalld", "--nofork", "--nopid", "--log-file=/run/firewalld.log"]
    options = [f"--default-config={configuration}", "--system-config=/run/firewalld.conf.d"]
    with _running(node, [*argv, *options]):
        assert wait_until(lambda: cmd(node, "--state", check=False) == "running", timeout=60)
        yield


@contextmanager
def fake(node: Node, address: str = f"unix:path={BUS}") -> Iterator[None]:
    """A fake firewalld that implements addSource, removeSource and querySource; `told` returns its calls."""
    with _running(node, [sys.executable, "-c", _FAKE.format(root=str(ROOT), address=address)]):
        look = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from linux.firewalld import is_running; "
        argv = [sys.executable, "-c", look + f"sys.exit(not is_running({address!r}))"]
        assert wait_until(lambda: node.run(argv, env={"PATH": _PATH}, check=False).returncode == 0)
        yield


def told(node: Node) -> list[str]:
    """The calls that the fake received so far."""
    path = node.path("/run/fake-firewalld")
    return path.read_text().splitlines() if path.exists() else []


def cmd(node: Node, *words: str, check: bool = True) -> str:
    """The output of firewall-cmd."""
    argv = ["/usr/bin/python3", UNPACKED / "usr/bin/firewall-cmd", *words]
    return node.run(argv, env={"PATH": _PATH}, check=check).stdout.strip()


def sources(node: Node, zone: str = "trusted") -> set[str]:
    """The sources of a zone in the runtime configuration."""
    return set(cmd(node, f"--zone={zone}", "--list-sources").split())


@contextmanager
def _running(node: Node, argv: list) -> Iterator[None]:
    null = subprocess.DEVNULL
    process = node.start(argv, env={"PATH": _PATH}, stdin=null, stdout=null, stderr=null)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
