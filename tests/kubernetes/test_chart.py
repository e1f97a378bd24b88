"""The Helm chart renders what the manifests in deploy/ are, and its README describes its values."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

CHART = ROOT / "deploy" / "helm" / "slash24"
HELM = ROOT / "build" / "kubernetes" / "tools" / "helm"
Objects = dict[tuple[str, str], dict]

DAEMON_SET = ("DaemonSet", "slash24")


def objects(text: str) -> Objects:
    """The objects of a manifest by kind and name."""
    return {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(text) if each}


def rendered(*options: str) -> Objects:
    """What `helm template` renders."""
    argv = [HELM, "template", "slash24", CHART, "--namespace", "slash24", *options]
    return objects(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)


def checksum(found: Objects) -> str:
    """The checksum of the configuration, which a manifest lacks: it is removed from the DaemonSet."""
    return found[DAEMON_SET]["spec"]["template"]["metadata"].pop("annotations")["checksum/config"]


def test_the_chart_renders_the_manifest() -> None:
    """All but the namespace, which helm creates before it installs anything into it."""
    manifest, found = objects((ROOT / "deploy" / "slash24.yaml").read_text()), rendered()
    checksum(found)
    del manifest["Namespace", "slash24"]
    assert found == manifest


def test_the_chart_renders_the_removal() -> None:
    """The DaemonSet of deploy/slash24-uninstall.yaml, and the other objects as they are."""
    found = rendered("--set", "uninstall=true")
    checksum(found)
    assert found[DAEMON_SET] == objects((ROOT / "deploy" / "slash24-uninstall.yaml").read_text())[DAEMON_SET]
    assert found.keys() == rendered().keys()


def test_a_changed_configuration_replaces_the_pods() -> None:
    """The template of the pods has its checksum."""
    assert checksum(rendered()) != checksum(rendered("--set-string", 'config=mode = "kubenet"'))


def test_leasing_subnets_needs_a_configmap() -> None:
    """With `leaseSubnets` the daemon may write the ConfigMap of subnets, and no other."""
    more = rendered("--set", "leaseSubnets=true").keys() - rendered().keys()
    assert more == {("Role", "slash24-subnets"), ("RoleBinding", "slash24-subnets")}


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("image.tag=1.2.3", "localhost/slash24:1.2.3"),
        ("paths.bin=/usr/lib/cni", "--home=/usr/lib/cni"),
        ("agent.listen=1234", "--listen=127.0.0.1:1234"),
        ("node.args={--log-level=debug}", "--log-level=debug"),
        ("node.env[0].name=SSL_CERT_FILE,node.env[0].value=/x", "SSL_CERT_FILE"),
        ("image.pullSecrets[0].name=secret", "secret"),
        ("priorityClassName=other", "other"),
    ],
)
def test_a_value_is_used(option: str, expected: str) -> None:
    """Where it belongs, which the manifest shows."""
    assert expected in str(rendered("--set", option))
    assert expected not in str(rendered())


def leaves(values: dict, prefix: str = "") -> set[str]:
    """The names of all values as `--set` takes them; what is passed on as it is counts as one."""
    passed_on = ("agent.resources", "node.resources", "updateStrategy", "nodeSelector")
    found = set()
    for key, value in values.items():
        name = f"{prefix}{key}"
        found |= leaves(value, f"{name}.") if isinstance(value, dict) and name not in passed_on else {name}
    return found


def test_every_value_is_documented() -> None:
    """The table of the chart's README has all values and no other."""
    table = re.findall(r"^\| `([\w.]+)` \|", (CHART / "README.md").read_text(), re.MULTILINE)
    assert sorted(table) == sorted(leaves(yaml.safe_load((CHART / "values.yaml").read_text())))


def test_the_chart_has_the_version_of_the_suite() -> None:
    """So that its image is that of the same version."""
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version, version)


@pytest.mark.parametrize("path", sorted((ROOT / "deploy").glob("*.yaml")), ids=lambda path: path.name)
def test_a_manifest_has_the_image_of_this_version(path: Path) -> None:
    """Every container runs the same image."""
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    pod = objects(path.read_text())[DAEMON_SET]["spec"]["template"]["spec"]
    images = {container["image"] for container in pod["initContainers"] + pod["containers"]}
    assert images == {f"localhost/slash24:{version}"}
    assert f"--tag localhost/slash24:{version} " in (ROOT / "deploy" / "Dockerfile").read_text()
