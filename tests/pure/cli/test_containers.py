"""Asking the runtimes for their containers, by their own tools."""

from pathlib import Path

import pytest

from cli.facts.containers import Container, ask_runtimes
from cli.facts.runtimes import Runtime

CONTAINERD = Runtime("containerd", running=True, socket="/run/containerd/containerd.sock")
PODMAN = Runtime("podman", running=True)
PODS = """
{"items": [
  {"id": "abc", "metadata": {"name": "web-0", "namespace": "shop"}, "state": "SANDBOX_READY"},
  {"id": "def", "metadata": {"name": "db", "namespace": "shop"}, "state": "SANDBOX_NOTREADY"},
  {"id": 7}, {"id": "bare"}, 8
]}
"""
CONTAINERS = '[{"Id": "ghi", "Names": ["cache"], "State": "exited"}, {"Id": "bare", "Names": null}, {}]'


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of tools, the only one that is searched."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("cli.facts.containers._FOLDERS", str(tmp_path))
    return tmp_path


def tool(path: Path, script: str) -> None:
    """A shell script."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_runtime_with_the_cri(tools: Path) -> None:
    """crictl is asked at its socket; sandboxes that are not ready count, too."""
    tool(tools / "crictl", f"""echo "$@" >{tools}/asked; cat <<'END'\n{PODS}\nEND""")
    found = ask_runtimes([CONTAINERD])
    assert found.unasked == ()
    assert dict(found.containers) == {
        "abc": Container("abc", "sandbox of shop/web-0, ready", "containerd"),
        "def": Container("def", "sandbox of shop/db, notready", "containerd"),
        "bare": Container("bare", "sandbox of /, in an unknown state", "containerd"),
    }
    asked = (tools / "asked").read_text().split()
    assert asked == [
        *("--timeout", "10s", "--runtime-endpoint", "unix:///run/containerd/containerd.sock"),
        *("pods", "--output", "json"),
    ]


def test_podman(tools: Path) -> None:
    """All its containers."""
    tool(tools / "podman", f"cat <<'END'\n{CONTAINERS}\nEND")
    found = ask_runtimes([PODMAN])
    assert found.containers["ghi"] == Container("ghi", "container cache, exited", "podman")
    assert sorted(found.containers) == ["bare", "ghi"]


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo no such socket >&2; echo more >&2; exit 1", "crictl failed: no such socket"),
        ("exit 3", "crictl failed: exit status 3"),
        ("echo '{'", "Expecting property name"),
        ("echo '\\0'", "Expecting value"),
    ],
)
def test_one_that_does_not_answer(tools: Path, script: str, why: str) -> None:
    """Is named, and the others are asked all the same."""
    tool(tools / "crictl", script)
    tool(tools / "podman", "echo '[]'")
    found = ask_runtimes([CONTAINERD, PODMAN])
    assert len(found.unasked) == 1
    assert found.unasked[0].startswith(f"containerd was not asked for its containers: {why}")


@pytest.mark.parametrize("answer", ["[]", "null", "7", '{"items": 7}', '{"items": [{"id": "a", "metadata": 7}]}'])
def test_no_answer_breaks_it(tools: Path, answer: str) -> None:
    """Whatever it prints."""
    tool(tools / "crictl", f"echo '{answer}'")
    tool(tools / "podman", f"echo '{answer}'")
    assert set(ask_runtimes([CONTAINERD, PODMAN]).containers) <= {"a"}


def test_a_tool_that_is_missing_and_runtimes_that_do_not_matter(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runtimes that do not run, or do not use CNI, are not asked."""
    monkeypatch.setenv("PATH", str(tools))
    idle = [Runtime("CRI-O", socket="/run/crio.sock"), Runtime("podman", running=True, cni_version="")]
    assert ask_runtimes(idle).unasked == ()
    assert ask_runtimes([CONTAINERD]).unasked == (
        "containerd was not asked for its containers: crictl is not installed",
    )
