"""The daemon keeps policies in force whose documents are in a folder: changes, restarts, drift, and its end."""

import json
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from tests.netns.agent_tools import Start as StartAgent
from tests.netns.agent_tools import ViaAgent, agents_started, calls_by_agent
from tests.netns.cni import CNI
from tests.netns.daemon_policy_tools import (
    ENABLED,
    FOLDER,
    PORT,
    Documents,
    Receiver,
    add,
    delete,
    has_address,
    held,
    is_held,
    pod_document,
    pod_files,
    policy,
    rules,
    send,
    talks,
)
from tests.netns.daemon_tools import (
    CONFLIST,
    Start,
    conf_of,
    daemon_command,
    daemon_environment,
    daemons_started,
)
from tests.netns.node import Node, wait_until
from tests.netns.policy_pods import elements

__all__ = ["agents_started", "calls_by_agent", "daemons_started"]

pytestmark = pytest.mark.cold
FROM_CLIENTS = [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]


@pytest.fixture(name="documents")
def folder_of_documents(node: Node) -> Documents:
    """An empty folder."""
    return Documents(node)


def write_pods(documents: Documents, **apps: str) -> None:
    """The Pods of the namespace "default", with the label "app"."""
    documents.write("pods.yaml", *(pod_document(name, app=app) for name, app in apps.items()))


@pytest.mark.parametrize("mode", ["bridge", "kubenet", "vxlan"])
def test_a_policy_is_in_force_as_long_as_its_document_is_there(
    node: Node, cni: CNI, daemon: Start, documents: Documents, mode: str
) -> None:
    """And follows its changes; pods follow their labels."""
    one = daemon(mode, more=ENABLED).await_ready()
    write_pods(documents, web="web", client="client", other="other")
    (web, address), (client, _), (other, _) = (add(cni, name) for name in ("web", "client", "other"))
    assert talks(client, web, address)
    assert talks(other, web, address)
    documents.write("web.yaml", policy("web", ingress=FROM_CLIENTS, pods={"app": "web"}))
    documents.await_force(one)
    assert talks(client, web, address)
    assert not talks(other, web, address)
    assert not talks(other, web, address, "udp")
    documents.write("web.yaml", policy("web", ingress=[], pods={"app": "web"}))
    documents.await_force(one)
    assert not talks(client, web, address)
    documents.write("web.yaml", policy("web", ingress=FROM_CLIENTS, pods={"app": "web"}))
    write_pods(documents, web="web", client="other", other="client")
    documents.await_force(one)
    assert not talks(client, web, address)
    assert talks(other, web, address)
    documents.delete("web.yaml")
    documents.await_force(one)
    assert talks(client, web, address)


def test_a_pod_s_policies_are_in_force_when_its_add_returns(
    node: Node, cni: CNI, daemon: Start, documents: Documents
) -> None:
    """It is not held then, and what is denied is denied from its first packet."""
    write_pods(documents, web0="web", web1="web", web2="web", client="client", other="other")
    documents.write("web.yaml", policy("web", ingress=FROM_CLIENTS, pods={"app": "web"}))
    one = daemon("vxlan", more=ENABLED).await_ready()
    documents.await_force(one)
    assert conf_of(node)["policyWait"] == 5
    (client, _), (other, _) = (add(cni, name) for name in ("client", "other"))
    for name in ("web0", "web1", "web2"):
        web, address = add(cni, name)
        assert not is_held(node, address)
        assert talks(client, web, address)
        assert not talks(other, web, address)
        delete(cni, web)
        assert wait_until(lambda name=name: f"default/{name}" not in held(one))
        assert wait_until(lambda address=address: not has_address(node, address))


def test_an_agent_s_adds_wait_too(
    node: Node, warm: ViaAgent, start: StartAgent, daemon: Start, documents: Documents
) -> None:
    """Many at once: none is held when it returns."""
    names = [f"web{number}" for number in range(8)]
    write_pods(documents, **dict.fromkeys(names, "web"), other="other")
    documents.write("web.yaml", policy("web", ingress=FROM_CLIENTS, pods={"app": "web"}))
    one = daemon("vxlan", more=ENABLED).await_ready()
    documents.await_force(one)
    start()
    other, _ = add(warm, "other")

    def added(name: str) -> tuple[bool, bool]:
        pod, address = add(warm, name)
        return is_held(node, address), talks(other, pod, address, "udp")

    with ThreadPoolExecutor(len(names)) as pool:
        assert list(pool.map(added, names)) == [(False, False)] * len(names)
    assert warm.ways == {"agent": len(names) + 1}


def test_what_a_changed_policy_forbids_is_cut(node: Node, cni: CNI, daemon: Start, documents: Documents) -> None:
    """A connection that is open, but not one that stays allowed."""
    one = daemon("vxlan", more=ENABLED).await_ready()
    write_pods(documents, web="web", client="client", other="other")
    documents.await_force(one)
    (web, address), (client, _), (other, _) = (add(cni, name) for name in ("web", "client", "other"))
    with (
        web.socket(address, "tcp") as listener,
        client.socket(address, "tcp") as kept,
        other.socket(address, "tcp") as doomed,
    ):
        listener.bind((address, PORT))
        listener.listen()
        ends = []
        for caller in (kept, doomed):
            caller.connect((address, PORT))
            ends.append(listener.accept()[0])
        documents.write("web.yaml", policy("web", ingress=FROM_CLIENTS, pods={"app": "web"}))
        documents.await_force(one)
        assert wait_until(lambda: one.metric("slash24_policy_cut_connections_total") >= 1)
        kept.send(b"word")
        assert ends[0].recv(16) == b"word"
        doomed.send(b"word")
        with pytest.raises((ConnectionError, TimeoutError)):
            doomed.recv(16)
        for end in ends:
            end.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_is_no_gap(node: Node, cni: CNI, daemon: Start, documents: Documents, number: int) -> None:
    """While there is no daemon and while one begins, what is allowed passes, and what is denied does not."""
    write_pods(documents, web="web", db="db", client="client", late="client")
    documents.write(
        "web.yaml",
        policy("web", ingress=FROM_CLIENTS, pods={"app": "web"}),
        policy("db", ingress=[], pods={"app": "db"}),
    )
    first = daemon("vxlan", more=ENABLED).await_ready()
    documents.await_force(first)
    (web, web_ip), (db, db_ip), (client, _) = (add(cni, name) for name in ("web", "db", "client"))
    allowed, denied = Receiver(web), Receiver(db)
    sender = send(client, 6, web_ip, db_ip)
    first.stop(number)
    late, _ = add(cni, "late")
    assert not talks(late, web, web_ip, "udp")  # nobody decides on it
    second = daemon("vxlan", more=ENABLED).await_ready()
    documents.await_force(second)
    assert wait_until(lambda: held(second) == dict.fromkeys(held(second), False))
    assert set(held(second)) == {f"default/{name}" for name in ("web", "db", "client", "late")}
    sent = int(sender.communicate(timeout=20)[0])
    assert sent > 500
    assert (allowed.count(), denied.count()) == (sent, 0)
    assert wait_until(lambda: talks(late, web, web_ip))


@pytest.mark.parametrize(
    "damage",
    [
        "nft delete table inet slash24_policy",
        "nft delete table bridge slash24_policy",
        "nft flush ruleset",
        "nft flush chain inet slash24_policy connection",
        "nft flush map inet slash24_policy ingress4",
        "nft flush set bridge slash24_policy receivers",
    ],
)
def test_damage_is_repaired(node: Node, cni: CNI, daemon: Start, documents: Documents, damage: str) -> None:
    """Rules at once, elements within a second or so."""
    write_pods(documents, web="web", other="other")
    documents.write("web.yaml", policy("web", ingress=FROM_CLIENTS, pods={"app": "web"}))
    one = daemon("vxlan", more=ENABLED).await_ready()
    documents.await_force(one)
    (web, address), (other, _) = add(cni, "web"), add(cni, "other")
    assert not talks(other, web, address)
    assert wait_until(lambda: same(rules(node)) == same(rules(node)))
    before = same(rules(node))
    node.run(["sh", "-c", damage])
    assert wait_until(lambda: same(rules(node)) == before, timeout=10), (before, rules(node), one.log)
    assert not talks(other, web, address)


@pytest.mark.parametrize("damage", ["chain inet slash24_policy {chain}", "map inet slash24_policy ingress4"])
def test_what_is_opened_while_there_is_damage_is_cut(
    node: Node, cni: CNI, daemon: Start, documents: Documents, damage: str
) -> None:
    """A flow whose first packet slipped through as the rules or elements of its pod were missing ends with that."""
    write_pods(documents, web="web", other="other")
    documents.write("web.yaml", policy("web", ingress=FROM_CLIENTS, pods={"app": "web"}))
    one = daemon("vxlan", more=ENABLED).await_ready()
    documents.await_force(one)
    (web, address), (other, _) = add(cni, "web"), add(cni, "other")
    command = damage.format(chain=elements(node, "ingress4")[address])
    cut = "slash24_policy_cut_connections_total"
    with web.socket(address, "udp") as listener, other.socket(address, "udp") as flow:
        listener.bind((address, PORT))
        listener.setblocking(False)

        def slips_through() -> bool:
            flow.sendto(b"word", (address, PORT))
            with suppress(BlockingIOError):
                return listener.recv(16) == b"word"
            return False

        assert not slips_through()
        before, end = one.metric(cut), time.monotonic() + 20
        while time.monotonic() < end and one.metric(cut) == before:
            node.run(["nft", "flush", *command.split()])
            while slips_through() and time.monotonic() < end:
                pass
        assert one.metric(cut) > before, one.log
        assert not slips_through()


def same(text: str) -> list[str]:
    """The lines of a ruleset, in an order that does not depend on who made them; counted packets are left out."""
    words = (line.strip(" ,\t") for line in text.splitlines() if " expires " not in line)
    return sorted(word for line in words for word in line.split(", "))


def test_disabled_policies_are_gone(node: Node, cni: CNI, daemon: Start, documents: Documents) -> None:
    """With their tables, the files of pods, and the plugins' key; pods go on without."""
    write_pods(documents, web="web", other="other")
    documents.write("web.yaml", policy("web", ingress=[], pods={"app": "web"}))
    first = daemon("vxlan", more=ENABLED).await_ready()
    documents.await_force(first)
    (web, address), (other, _) = add(cni, "web"), add(cni, "other")
    assert not talks(other, web, address)
    with_policies = conf_of(node)
    first.stop()
    daemon("vxlan", more="[policy]\nenabled = false\n").await_ready()
    assert wait_until(lambda: "policyWait" not in node.path(CONFLIST).read_text())
    assert wait_until(lambda: not rules(node) and not pod_files(node))
    assert talks(other, web, address)
    late = node.pod("late")
    cni.add(with_policies, late)  # a call that had begun before
    assert wait_until(lambda: not rules(node) and not pod_files(node))
    assert talks(late, web, address)
    for pod in (web, other, late):
        delete(cni, pod)


def test_pods_of_before_get_policies_too(node: Node, cni: CNI, daemon: Start, documents: Documents) -> None:
    """When they are enabled; their documents name their addresses."""
    first = daemon("vxlan").await_ready()
    (web, address), (other, its) = add(cni, "web"), add(cni, "other")
    first.stop()
    documents.write("pods.yaml", pod_document("web", address, app="web"), pod_document("other", its, app="other"))
    documents.write("web.yaml", policy("web", ingress=FROM_CLIENTS, pods={"app": "web"}))
    second = daemon("vxlan", more=ENABLED).await_ready()
    documents.await_force(second)
    assert wait_until(lambda: held(second) == {"default/web": False, "default/other": False}), second.log
    assert wait_until(lambda: not talks(other, web, address))
    assert not talks(other, web, address, "udp")
    documents.write("web.yaml", policy("web", ingress=[{}], pods={"app": "web"}))
    documents.await_force(second)
    assert talks(other, web, address)
    delete(cni, web)
    assert wait_until(lambda: "default/web" not in held(second))


def test_a_node_is_ready_when_policies_are_in_force(node: Node, cni: CNI, daemon: Start) -> None:
    """While none can be read it is not, and says why; runtimes have their configuration, and new pods are held."""
    node.path(FOLDER).write_text("no folder")
    one = daemon("vxlan", more=ENABLED)
    assert wait_until(lambda: node.path(CONFLIST).exists()), one.log
    _, address = add(cni, "web")
    status, body = one.page("readyz")
    assert (status, json.loads(body)["reason"]) == (503, "PoliciesNotInForce")
    assert f'the folder "{FOLDER}" cannot be read' in json.loads(body)["message"]
    assert is_held(node, address)
    node.path(FOLDER).unlink()
    documents = Documents(node)
    one.await_ready()
    documents.await_force(one)
    assert wait_until(lambda: not is_held(node, address))


def test_wrong_documents_are_told(node: Node, cni: CNI, daemon: Start, documents: Documents) -> None:
    """In the log and on the pages; the others are in force, and of a wrong one what allows less."""
    wrong = policy("wrong", ingress=FROM_CLIENTS, pods={"app": "web"})
    wrong["spec"]["ingress"] = [{"from": [{"podSelector": {"matchLabels": 1}}]}]
    write_pods(documents, web="web", client="client")
    documents.write("wrong.yaml", wrong)
    one = daemon("vxlan", more=ENABLED).await_ready()
    (web, address), (client, _) = add(cni, "web"), add(cni, "client")
    assert wait_until(lambda: "matchLabels" in one.log), one.log
    assert any("matchLabels" in problem for problem in json.loads(one.page("policies")[1])["problems"])
    assert any("matchLabels" in problem for problem in json.loads(one.page("readyz")[1])["problems"])
    assert one.metric("slash24_policy_documents_wrong") == 1
    assert not talks(client, web, address)
    documents.delete("wrong.yaml")
    documents.await_force(one)
    assert talks(client, web, address)
    assert wait_until(lambda: one.metric("slash24_policy_documents_wrong") == 0)


def test_denied_packets_are_counted_and_logged(node: Node, cni: CNI, daemon: Start, documents: Documents) -> None:
    """By pod, direction and policy."""
    write_pods(documents, web="web", other="other")
    documents.write("web.yaml", policy("web", ingress=FROM_CLIENTS, pods={"app": "web"}))
    one = daemon("vxlan", more=f"{ENABLED}log = true\n").await_ready()
    documents.await_force(one)
    (web, address), (other, _) = add(cni, "web"), add(cni, "other")
    assert not talks(other, web, address, "udp")
    labels = '{direction="ingress",namespace="default",pod="web",policy="default/web"}'
    assert one.metric(f"slash24_policy_denied_packets_total{labels}") > 1
    assert wait_until(lambda: "event=denied" in one.log), one.log
    assert "default/other" in one.log
    assert one.metric("slash24_policy_pods") == 2
    assert one.metric("slash24_policy_pods_held") == 0
    assert one.metric("slash24_policy_policies") == 1
    # The first pod registers the gateway of its network, and so everything is compared.
    assert one.metric('slash24_policy_programming_duration_seconds_count{kind="pod"}') >= 1


def test_the_metadata_service_can_be_denied(node: Node, cni: CNI, daemon: Start, documents: Documents) -> None:
    """But not to the exceptions."""
    write_pods(documents, web="web", other="other")
    exceptions = 'metadataExceptions = [{namespace = "default", labels = {app = "web"}}]\n'
    one = daemon("vxlan", more=f'{ENABLED}metadataAccess = "deny"\n{exceptions}').await_ready()
    documents.await_force(one)
    node.run(["ip", "addr", "add", "169.254.169.254/32", "dev", "lo"])
    (web, _), (other, _) = add(cni, "web"), add(cni, "other")
    assert web.reaches("169.254.169.254")
    assert not other.reaches("169.254.169.254", timeout=0.5)


def test_nothing_is_left_after_removal(node: Node, cni: CNI, daemon: Start, documents: Documents) -> None:
    """`--uninstall` takes tables and files away, even those of pods that run."""
    write_pods(documents, web="web")
    one = daemon("vxlan", more=ENABLED).await_ready()
    add(cni, "web")
    assert rules(node)
    assert pod_files(node)
    one.stop()
    argv = [*daemon_command(cni.folder), "--config", "/run/slash24.toml", "--uninstall"]
    done = subprocess.run([*node._enter, *argv], env=daemon_environment(cni.folder), capture_output=True, text=True)
    assert (rules(node), pod_files(node)) == ("", []), done.stdout
    assert not node.path("/run/slash24/pods").exists()
    assert FOLDER not in done.stdout
