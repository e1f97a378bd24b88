"""`slash24 status` on real nodes: with agent and daemon, and from the kernel and files alone."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.conftest import ROOT
from tests.netns.agent_tools import Start as StartAgent
from tests.netns.agent_tools import ViaAgent, agents_started, calls_by_agent  # noqa: F401 (fixtures)
from tests.netns.cli_tools import document, slash24
from tests.netns.cni import CNI, PATH, CNIFailure
from tests.netns.daemon_tools import Start, daemons_started, write_record  # noqa: F401 (fixtures)
from tests.netns.node import Node, wait_until

NET_D = "/etc/cni/net.d"
IPAM = {"type": "host-local", "subnet": "10.1.0.0/29"}


@pytest.fixture(autouse=True)
def etc(node: Node) -> None:
    """A private /etc, with an empty folder of networks, which is that of the daemon's tests, too."""
    node.run(["mkdir", "-p", "/run/etc", "/run/work", "/run/net.d"])
    node.run(["mount", "-t", "overlay", "overlay", "-o", "lowerdir=/etc,upperdir=/run/etc,workdir=/run/work", "/etc"])
    node.run(["sh", "-c", f"rm -rf /etc/cni; mkdir -p /etc/cni; ln -s /run/net.d {NET_D}"])


def configure(node: Node, kind: str, **keys: object) -> dict:
    """Write a network as an administrator does; its configuration for calls."""
    plugin = {"type": kind, **keys}
    conflist = {"cniVersion": "1.0.0", "name": "net", "plugins": [plugin]}
    node.path("/run/net.d/10-net.conflist").write_text(json.dumps(conflist))
    return {"cniVersion": "1.0.0", "name": "net", **plugin}


def overlay(node: Node, kind: str, **keys: object) -> dict:
    """A network of `kubenet` or `vxlan` with three peers."""
    node.outside()
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    peers = [{"name": f"n{n}", "addresses": [f"192.0.2.{n}"], "podCIDRs": [f"10.244.{n}.0/24"]} for n in (2, 3, 4)]
    return configure(node, kind, podCIDR="10.244.1.0/24", peers=peers, **keys)


def wrong(node: Node) -> list[str]:
    """What is wrong; the exit status must say so."""
    status, found = document(node, "status")
    assert status == bool(found["wrong"])
    return found["wrong"]


def test_a_node_without_anything(node: Node) -> None:
    """That is well: nobody has said that there should be something."""
    status, found = document(node, "status")
    assert (status, found["networks"], found["wrong"]) == (0, [], [])
    assert [(one["name"], one["state"]) for one in found["services"]] == [
        ("agent", "does not run"),
        ("daemon", "does not run"),
    ]
    status, text = slash24(node, "status")
    assert (status, "all is well" in text, "no networks" in text) == (0, True, True)


def test_a_bridge_with_pods(node: Node, cni: CNI) -> None:
    """Its pods, and how full it is."""
    conf = configure(node, "bridge", isGateway=True, ipam=IPAM)
    assert document(node, "status")[1]["networks"][0]["bridge"]["details"] == "not there yet: the first pod makes it"
    for number in range(4):
        cni.add(conf, node.pod(f"pod{number}"))
    (network,) = document(node, "status")[1]["networks"]
    assert (network["mode"], network["bridge"]["addresses"]) == ("bridge", ["10.1.0.1/29"])
    assert network["subnets"] == [{"cidr": "10.1.0.0/29", "used": 4, "size": 5}]
    assert [(one["name"], one["addresses"], one["veth"] in node.links()) for one in network["pods"]] == [
        (f"pod{number}", [f"10.1.0.{number + 2}"], True) for number in range(4)
    ]
    assert wrong(node) == []
    cni.add(conf, node.pod("last"))
    assert wrong(node) == ["network net: all addresses of 10.1.0.0/29 are leased"]
    node.run(["ip", "link", "set", "cni0", "down"])
    assert "cni0: it is down" in wrong(node)


def test_peers_by_a_tunnel(node: Node, cni: CNI) -> None:
    """Each object that is missing is named with its peer; nothing is sent to find out."""
    conf = overlay(node, "vxlan")
    cni.add(conf, node.pod("pod"))
    status, found = document(node, "status")
    (network,) = found["networks"]
    assert (status, network["mode"], network["vtep"]["name"]) == (0, "vxlan", "slash24.1")
    assert [(one["name"], one["address"], one["way"]) for one in network["peers"]] == [
        (f"n{n}", f"192.0.2.{n}", "tunnel") for n in (2, 3, 4)
    ]
    mac = json.loads(node.run(["ip", "-j", "neigh", "show", "10.244.4.0", "dev", "slash24.1"]).stdout)[0]["lladdr"]
    for damage in (
        "ip route del 10.244.2.0/24",
        "ip neigh del 10.244.3.0 dev slash24.1",
        f"bridge fdb del {mac} dev slash24.1",
    ):
        node.run(damage.split())
    told = wrong(node)
    assert [sentence.partition(" ")[0] for sentence in told] == ["n2:", "n3:", "n4:"]
    for sentence, word in zip(told, ("route 10.244.2.0/24", "neighbour 10.244.3.0", f"FDB entry {mac}"), strict=True):
        assert word in sentence
        assert "is missing" in sentence
    node.run(["ip", "link", "set", "slash24.1", "down"])
    assert "slash24.1: slash24.1 has state down, not up" in wrong(node)


def test_peers_by_routes(node: Node, cni: CNI) -> None:
    """A record that cannot be used is a peer that is not reached."""
    conf = overlay(node, "kubenet")
    conf["peers"].append({"name": "n5", "addresses": ["192.0.2.5"], "podCIDRs": ["10.244.1.0/25"]})
    configure(node, "kubenet", **{key: conf[key] for key in ("podCIDR", "peers")})
    cni.add(conf, node.pod("pod"))
    peers = document(node, "status")[1]["networks"][0]["peers"]
    assert [(one["name"], one["way"], bool(one["problems"])) for one in peers] == [
        ("n2", "route", False),
        ("n3", "route", False),
        ("n4", "route", False),
        ("n5", "", True),
    ]
    (sentence,) = wrong(node)
    assert sentence.startswith("n5: claims 10.244.1.0/25")


def test_peers_without_a_configuration(node: Node, cni: CNI) -> None:
    """The kernel's routes and the peers file tell of them; the network is that of the pods."""
    conf = overlay(node, "vxlan")
    peers = conf.pop("peers")
    node.run(["mkdir", "-p", "/run/slash24"])
    node.path("/run/slash24/peers.json").write_text(json.dumps({"peers": peers[:2]}))
    cni.add({**conf, "peers": peers[2:]}, node.pod("pod"))
    node.path("/run/net.d/10-net.conflist").unlink()
    (network,) = document(node, "status")[1]["networks"]
    assert (network["name"], network["mode"], network["vtep"]["name"]) == ("net", "vxlan", "slash24.1")
    assert [(one["name"], one["address"], one["way"]) for one in network["peers"]] == [
        ("n2", "192.0.2.2", "tunnel"),
        ("n3", "192.0.2.3", "tunnel"),
        ("10.244.4.0/24", "192.0.2.4", "tunnel"),
    ]
    node.run(["ip", "route", "del", "10.244.2.0/24"])
    node.run(["ip", "neigh", "del", "10.244.4.0", "dev", "slash24.1"])
    assert wrong(node) == [
        "n2: its route for 10.244.2.0/24 is missing",
        "10.244.4.0/24: its neighbour or FDB entry for 10.244.4.0/24 is missing",
    ]


def test_pods_of_a_network_that_is_no_longer_configured(node: Node, cni: CNI) -> None:
    """They are there with their bridge."""
    cni.add(configure(node, "bridge", bridge="old0", ipam=IPAM), node.pod("pod"))
    node.path("/run/net.d/10-net.conflist").unlink()
    status, found = document(node, "status")
    (network,) = found["networks"]
    assert (status, network["mode"], network["bridge"]["name"]) == (0, "", "old0")
    assert [one["name"] for one in network["pods"]] == ["pod"]


@pytest.mark.parametrize(
    "content", ["", "{", '{"podCIDRs": 7}', "[" * 9000, '{"podCIDRs": [], "problem": "no lease yet"}']
)
def test_files_may_hold_anything(node: Node, content: str) -> None:
    """What cannot be read is told."""
    node.run(["mkdir", "-p", "/run/slash24"])
    overlay(node, "vxlan")
    configure(node, "vxlan")
    for name in ("node.json", "peers.json"):
        node.path(f"/run/slash24/{name}").write_text(content)
    (sentence,) = wrong(node)
    assert sentence.startswith("network net: ")
    assert "/run/slash24/node.json" in sentence
    node.path("/run/net.d/10-net.conflist").write_text(content)
    assert document(node, "status")[1]["networks"] == []


def test_with_agent_and_daemon(node: Node, daemon: Start, start: StartAgent, warm: ViaAgent) -> None:
    """The registry, what was repaired, and calls that failed."""
    start("--listen", "/run/slash24/http.sock")
    write_record(node, 2)
    running = daemon("vxlan").await_ready()
    with pytest.raises(CNIFailure):
        warm.add({"cniVersion": "1.0.0", "name": "x", "type": "bridge", "mtu": "big"}, node.pod("pod"))
    status, found = document(node, "status")
    assert (status, found["name"], found["wrong"]) == (0, "n1", [])
    assert [(one["name"], one["state"]) for one in found["services"]] == [
        ("agent", "runs"),
        ("daemon", "runs"),
        ("registry", "connected"),
    ]
    assert found["services"][1]["details"] == f"pid {running.process.pid}"
    assert [one["name"] for one in found["networks"][0]["peers"]] == ["n2"]
    assert "mtu" in found["errors"][0]["text"]
    node.run(["ip", "route", "del", "10.244.2.0/24"])
    assert wait_until(lambda: document(node, "status")[1]["repairs"])
    assert document(node, "status")[1]["repairs"][0]["text"] == "route 10.244.2.0/24 was deleted"
    assert "route 10.244.2.0/24 was deleted" in slash24(node, "status")[1]


def command(*words: str) -> list[str]:
    """The command line."""
    return [sys.executable, "-m", "cli", "status", *words]


ENVIRON = {"PATH": PATH, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "TERM": "xterm", "COLUMNS": "120"}


@pytest.fixture(name="damaged")
def network_to_damage(node: Node, cni: CNI) -> Callable[[], None]:
    """A network with peers; a function that deletes the route to one of them."""
    cni.add(overlay(node, "kubenet"), node.pod("pod"))
    return lambda: node.run(["ip", "route", "del", "10.244.2.0/24"]) and None


def test_files_are_kept_true(node: Node, damaged: Callable[[], None]) -> None:
    """Each is always whole; the page reloads itself."""
    svg, html = node.path("/run/n.svg"), node.path("/run/n.html")
    with node.start(command("--watch", "--svg", "/run/n.svg", "--html", "/run/n.html"), env=ENVIRON) as process:
        assert wait_until(html.exists)
        assert "all is well" in ElementTree.parse(svg).getroot().get("aria-label")
        damaged()
        assert wait_until(lambda: "1 problem" in ElementTree.parse(svg).getroot().get("aria-label"))
        assert wait_until(lambda: "1 problem" in html.read_text())
        assert "location.reload" in html.read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0
    assert {path.name for path in svg.parent.glob("n.*")} >= {"n.svg", "n.html"}
    assert not list(svg.parent.glob("n.*.new"))


def test_the_terminal_is_kept_true(node: Node, damaged: Callable[[], None]) -> None:
    """Until Ctrl-C."""
    ours, its = pty.openpty()
    seen = b""
    with node.start(command("--watch"), env=ENVIRON, stdin=its, stdout=its, stderr=subprocess.DEVNULL) as process:
        os.close(its)
        os.set_blocking(ours, False)

        def shows(word: bytes) -> bool:
            nonlocal seen
            with suppress(OSError):
                seen += os.read(ours, 1 << 20)
            return word in seen

        assert wait_until(lambda: shows(b"all is well"))
        damaged()
        assert wait_until(lambda: shows(b"is missing"))
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0
    os.close(ours)


def test_files_are_written_once(node: Node) -> None:
    """With the rights that the caller's umask leaves, instead of the tree; where that fails the command says so."""
    status, text = slash24(node, "status", "--svg", "/run/n.svg", "--html", "/run/n.html")
    assert (status, text) == (0, "")
    assert node.path("/run/n.svg").stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert "location.reload" not in node.path("/run/n.html").read_text()
    status, text = slash24(node, "status", "--svg", "/proc/no/n.svg")
    assert (status, "cannot write /proc/no/n.svg" in text) == (3, True)
    assert slash24(node, "status", "--watch", "--json")[0] == 2


def _umask() -> int:
    return int(
        next(line for line in Path("/proc/self/status").read_text().splitlines() if "Umask" in line).split()[1], 8
    )
