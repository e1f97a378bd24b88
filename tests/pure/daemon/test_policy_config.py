"""The table [policy]: what it says by default, and every mistake in it, with its line."""

from pathlib import Path

import pytest

from daemon.config import Config
from daemon.conflist import main_plugin
from daemon.policy_config import PolicyConf
from policy.objects import IN, PodPeer, Requirement, Selector
from policy.settings import PROTOCOLS, NodePorts, Settings
from tests.pure.daemon.test_config import checked, parsed

HEAD = 'cluster = "10.244.0.0/16"\nnode = "a"\n'
EVERYTHING = """[policy]
enabled = true
documents = "/srv/policies"
policyWait = 7
keepConnections = true
metadataAccess = "deny"
metadataExceptions = [{namespace = "kube-system"}, {namespace = "x", labels = {app = "y", tier = "z"}}]
nodeAccess = ["tcp/53", "udp/30000-32767"]
log = true
logGroup = 9
"""


def config(tmp_path: Path, table: str, registry: str = "file:///srv/nodes") -> Config:
    """The configuration with this table and registry."""
    return parsed(tmp_path, f'registry = "{registry}"\n{HEAD}{table}')


def test_every_key_is_read(tmp_path: Path) -> None:
    """Each has its place in the value."""
    exceptions = (
        PodPeer(namespace="kube-system"),
        PodPeer(Selector((Requirement("app", IN, ("y",)), Requirement("tier", IN, ("z",)))), namespace="x"),
    )
    assert config(tmp_path, EVERYTHING).policy == PolicyConf(
        enabled=True,
        documents="/srv/policies",
        wait=7,
        keeps_connections=True,
        denies_metadata=True,
        metadata_exceptions=exceptions,
        node_access=(NodePorts(PROTOCOLS["tcp"], 53, 53), NodePorts(PROTOCOLS["udp"], 30000, 32767)),
        logs=True,
        log_group=9,
    )


@pytest.mark.parametrize(
    ("table", "registry", "enabled", "documents"),
    [
        ("", "file:///srv/nodes", False, "/etc/slash24/policies"),
        ("[policy]\n", "file:///srv/nodes", True, "/etc/slash24/policies"),
        ("[policy]\nenabled = false\n", "file:///srv/nodes", False, "/etc/slash24/policies"),
        ("", "kubernetes", True, ""),
        ("[policy]\nenabled = false\n", "kubernetes", False, ""),
        ("", "flannel+kubernetes", False, ""),
        ("[policy]\n", "flannel+kubernetes", True, ""),
        ('[policy]\ndocuments = "/srv/p"\n', "flannel+kubernetes", True, "/srv/p"),
    ],
)
def test_what_enables_policies(tmp_path: Path, table: str, registry: str, enabled: bool, documents: str) -> None:
    """The table does, and the registry "kubernetes"; an API has the documents, else a folder."""
    policy = config(tmp_path, table, registry).policy
    assert (policy.enabled, policy.documents) == (enabled, documents)


def test_the_rules_settings_follow(tmp_path: Path) -> None:
    """The group of the log is none unless packets are logged."""
    ports = (NodePorts(6, 53, 53), NodePorts(17, 30000, 32767))
    assert config(tmp_path, EVERYTHING).policy.settings == Settings(True, ports, 9)
    assert config(tmp_path, "[policy]\nlogGroup = 9\n").policy.settings == Settings()


def test_no_port_of_the_node_is_none(tmp_path: Path) -> None:
    """An empty list allows none, "all" all."""
    assert config(tmp_path, "[policy]\nnodeAccess = []\n").policy.node_access == ()
    assert config(tmp_path, '[policy]\nnodeAccess = "all"\n').policy.node_access is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("enabled = 1", '"policy.enabled": expected true or false, got 1'),
        ('documents = "policies"', '"policy.documents": expected an absolute path, got "policies"'),
        ("policyWait = 61", '"policy.policyWait": expected an integer of 0 to 60, got 61'),
        ("policyWait = -1", '"policy.policyWait": expected an integer of 0 to 60, got -1'),
        ('keepConnections = "no"', '"policy.keepConnections": expected true or false, got "no"'),
        ('metadataAccess = "no"', '"policy.metadataAccess": expected one of "allow", "deny", got "no"'),
        ("metadataExceptions = 1", '"policy.metadataExceptions": expected a list of objects, got 1'),
        (
            'metadataExceptions = [{labels = {a = "b"}}]',
            '"policy.metadataExceptions[0].namespace": expected the name of a namespace, got nothing',
        ),
        (
            'metadataExceptions = [{namespace = "x", labels = ["a"]}]',
            '"policy.metadataExceptions[0].labels": expected a table of labels, like {app = "y"}, got a list',
        ),
        (
            'metadataExceptions = [{namespace = "x", labels = {a = 1}}]',
            '"policy.metadataExceptions[0].labels.a": expected a string, got 1',
        ),
        ('metadataExceptions = [{namespace = "x", pods = 1}]', '"policy.metadataExceptions[0].pods" is not a known'),
        ('nodeAccess = "none"', '"policy.nodeAccess": expected "all", or a list of ports like "tcp/53" and'),
        ('nodeAccess = ["icmp"]', '"policy.nodeAccess[0]": expected a port or ports like "tcp/53"'),
        ('nodeAccess = ["tcp/0"]', '"policy.nodeAccess[0]": expected ports of 1 to 65535, the lower one first'),
        ('nodeAccess = ["tcp/9-8"]', '"policy.nodeAccess[0]": expected ports of 1 to 65535, the lower one first'),
        ('nodeAccess = ["tcp/70000"]', '"policy.nodeAccess[0]": expected ports of 1 to 65535, the lower one first'),
        ('nodeAccess = ["tcp/1", 2]', '"policy.nodeAccess[1]": expected a port or ports like "tcp/53"'),
        ("logGroup = 65536", '"policy.logGroup": expected an integer of 0 to 65535, got 65536'),
        ("policywait = 3\nlogs = true", '"policy.logs" is not a known key; did you mean "log"?'),
    ],
)
def test_mistakes_are_told_with_their_lines(tmp_path: Path, line: str, expected: str) -> None:
    """What is expected, and what was found."""
    (found,) = checked(tmp_path, f"{HEAD}[policy]\n{line}\n")
    assert found.partition(": ")[2].startswith(expected)
    assert found.partition(":")[0] == str(4 + line.count("\n"))


def test_the_api_s_documents_are_in_no_folder(tmp_path: Path) -> None:
    """With the registry "kubernetes" a folder is a mistake."""
    (found,) = checked(tmp_path, f'registry = "kubernetes"\n{HEAD}[policy]\ndocuments = "/srv/p"\n')
    assert '"policy.documents": expected nothing, since the Kubernetes API has the policies' in found


def test_policy_must_be_a_table(tmp_path: Path) -> None:
    """And nothing else."""
    (found,) = checked(tmp_path, f"policy = true\n{HEAD}")
    assert found == '1: "policy": expected a table, got true'


def test_runtimes_pass_the_wait_to_the_plugin(tmp_path: Path) -> None:
    """Its presence says that policies are enabled, even if it is 0; it cannot be set in the mode's table."""
    assert main_plugin(config(tmp_path, "[policy]\npolicyWait = 0\n"))["policyWait"] == 0
    assert "policyWait" not in main_plugin(config(tmp_path, "[policy]\nenabled = false\n"))
    (found,) = checked(tmp_path, f"{HEAD}[vxlan]\npolicyWait = 1\n")
    assert '"policyWait" must not be set here: set "policyWait" in [policy]' in found


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("isDefaultGateway = false", '"policyWait": the bridge must be the gateway of its pods'),
        ("portIsolation = true", '"policyWait": with network policies the node routes packets between pods'),
    ],
)
def test_a_bridge_that_cannot_have_policies_is_told(tmp_path: Path, keys: str, expected: str) -> None:
    """Before any pod is refused; without policies it is as good as any."""
    bridge = f'mode = "bridge"\n{HEAD}[bridge]\n{keys}\n'
    (found,) = checked(tmp_path, f"{bridge}[policy]\n")
    assert expected in found
    assert checked(tmp_path, bridge) == []
    assert checked(tmp_path, f'mode = "bridge"\n{HEAD}[policy]\n') == []
