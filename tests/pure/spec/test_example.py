"""The example of docs/writing-plugins.md, called as a runtime calls it: an executable, variables, stdin."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spec.versions import SUPPORTED

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "docs" / "examples" / "hello.py"
PREVIOUS = {
    "cniVersion": "1.1.0",
    "interfaces": [{"name": "eth0", "sandbox": "/run/netns/no-such-namespace"}],
    "ips": [{"address": "10.1.2.3/24", "interface": 0}, {"address": "fd00::3/64", "interface": 0}],
}


class Runtime:
    """Calls the example for one network whose files are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def call(self, verb: str, container: str = "pod-1", **keys: object) -> subprocess.CompletedProcess:
        """One call; `keys` go into the configuration, uppercase ones into the environment."""
        environ = {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "CNI_COMMAND": verb}
        environ |= {"CNI_CONTAINERID": container, "CNI_NETNS": "/run/netns/no-such-namespace", "CNI_IFNAME": "eth0"}
        environ |= {
            "CNI_PATH": str(EXAMPLE.parent),
            **{name: str(keys.pop(name)) for name in list(keys) if name.isupper()},
        }
        conf = {"cniVersion": "1.1.0", "name": "net1", "type": "hello", "folder": str(self.folder), **keys}
        data = json.dumps({key: value for key, value in conf.items() if value is not None})
        return subprocess.run([str(EXAMPLE)], input=data, env=environ, capture_output=True, text=True, cwd="/")

    def succeed(self, verb: str, container: str = "pod-1", **keys: object) -> str:
        """The stdout of a call that must succeed."""
        done = self.call(verb, container, **keys)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def fail(self, verb: str, container: str = "pod-1", **keys: object) -> dict:
        """The error document of a call that must fail."""
        done = self.call(verb, container, **keys)
        assert (done.returncode, done.stderr) == (1, ""), done
        return json.loads(done.stdout)

    @property
    def files(self) -> list[str]:
        """The names of the files in the folder."""
        return sorted(os.listdir(self.folder)) if self.folder.exists() else []


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    """A runtime with its own network."""
    return Runtime(tmp_path / "hello")


def test_the_life_of_an_attachment(runtime: Runtime) -> None:
    """ADD writes the file, CHECK accepts it, DEL deletes it; a repeated DEL succeeds silently."""
    assert json.loads(runtime.succeed("ADD", prevResult=PREVIOUS)) == PREVIOUS
    assert runtime.files == ["net1:pod-1:eth0"]
    assert (runtime.folder / "net1:pod-1:eth0").read_text() == "10.1.2.3 pod-1\nfd00::3 pod-1\n"
    assert runtime.succeed("CHECK", prevResult=PREVIOUS) == ""
    assert runtime.succeed("STATUS") == ""
    for _ in range(2):
        assert runtime.succeed("DEL", prevResult=PREVIOUS) == ""
        assert runtime.files == []


def test_the_name_of_the_kubernetes_pod_is_used(runtime: Runtime) -> None:
    """If the runtime passes it in CNI_ARGS."""
    runtime.succeed("ADD", prevResult=PREVIOUS, CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAME=web-0")
    assert "10.1.2.3 web-0\n" in (runtime.folder / "net1:pod-1:eth0").read_text()


def test_check_detects_a_changed_and_a_missing_file(runtime: Runtime) -> None:
    """Either fails the CHECK."""
    runtime.succeed("ADD", prevResult=PREVIOUS)
    (runtime.folder / "net1:pod-1:eth0").write_text("10.1.2.4 pod-1\n")
    assert runtime.fail("CHECK", prevResult=PREVIOUS)["code"] == 999
    (runtime.folder / "net1:pod-1:eth0").unlink()
    assert runtime.fail("CHECK", prevResult=PREVIOUS)["msg"].startswith("FileNotFoundError: ")


def test_gc_keeps_valid_attachments_and_other_networks(runtime: Runtime) -> None:
    """GC deletes the temporary files of stale attachments too."""
    for container in ("pod-1", "pod-2"):
        runtime.succeed("ADD", container, prevResult=PREVIOUS)
    runtime.succeed("ADD", "pod-2", prevResult=PREVIOUS, name="net2")
    (runtime.folder / ".net1:pod-3:eth0").touch()
    alive = [{"containerID": "pod-1", "ifname": "eth0"}]
    assert runtime.succeed("GC", **{"cni.dev/valid-attachments": alive}) == ""
    assert runtime.files == ["net1:pod-1:eth0", "net2:pod-2:eth0"]


def test_a_failed_add_leaves_nothing(runtime: Runtime) -> None:
    """A folder is in the place of the file."""
    (runtime.folder / "net1:pod-1:eth0").mkdir(parents=True)
    (runtime.folder / "net1:pod-1:eth0" / "something").touch()
    assert runtime.fail("ADD", prevResult=PREVIOUS)["code"] == 999
    assert runtime.files == ["net1:pod-1:eth0"]


@pytest.mark.parametrize(
    ("keys", "code", "message"),
    [
        ({}, 7, "must be called as chained plugin"),
        ({"prevResult": PREVIOUS, "folder": "x"}, 7, '"folder": expected an absolute path, got "x"'),
        ({"prevResult": PREVIOUS, "folder": 5}, 7, '"folder": expected a string, got 5'),
        ({"prevResult": PREVIOUS, "CNI_ARGS": "K8S_POD_NAME=x"}, 4, 'ARGS: unknown args ["K8S_POD_NAME=x"]'),
        (
            {"prevResult": PREVIOUS, "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=a b"},
            4,
            "K8S_POD_NAME in CNI_ARGS can not name a host",
        ),
        ({"prevResult": PREVIOUS, "cniVersion": "9.0.0"}, 1, "incompatible CNI versions"),
    ],
)
def test_errors_of_an_add(runtime: Runtime, keys: dict, code: int, message: str) -> None:
    """Each has its code and message, and nothing is written."""
    error = runtime.fail("ADD", **keys)
    assert (error["code"], error["msg"], runtime.files) == (code, message, [])


def test_version_and_about_text(runtime: Runtime) -> None:
    """The library provides both."""
    assert json.loads(runtime.succeed("VERSION"))["supportedVersions"] == list(SUPPORTED)
    assert "CNI hello plugin" in runtime.call("").stderr


def test_the_example_has_the_length_that_the_manual_states() -> None:
    """40 lines of code, not counting imports, docstrings and empty lines."""
    text = EXAMPLE.read_text()
    tree = ast.parse(text)
    strings = [
        node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    other = {line for node in (*strings, *imports) for line in range(node.lineno, node.end_lineno + 1)}
    lines = enumerate(text.splitlines(), start=1)
    code = [line for number, line in lines if line.strip() and not line.startswith("#") and number not in other]
    assert len(code) <= 40
