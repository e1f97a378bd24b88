"""The oldest supported kernel: errors of an older one mention it, and the version alone is not an error."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from linux import kernel
from linux.errors import reason, step
from linux.netlink.socket import NetlinkError
from linux.nftables import pod_table
from rules import masquerade
from spec.errors import CNIError
from tests.conftest import ROOT

OLD = "4.19.0-27-amd64"


def on(monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    """Give this node's kernel that version."""
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release=release))


@pytest.mark.parametrize("release", [OLD, "4.18.0-553.el8_10.x86_64", "5.9.16", "5.4.0-1103-aws", "2.6.78", "3.10"])
def test_old_kernels(monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    """Versions are compared by number."""
    on(monkeypatch, release)
    assert kernel.is_old()


@pytest.mark.parametrize(
    "release", ["5.10.0-46-amd64", "5.14.0-570.el9.x86_64", "5.15.0", "6.1", "10.0.1", "6.18-rc1", "x"]
)
def test_supported_kernels(monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    """A version that cannot be parsed counts as supported."""
    on(monkeypatch, release)
    assert not kernel.is_old()


def test_an_error_on_an_old_kernel_has_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the message of an ADD whose request the kernel does not know."""
    on(monkeypatch, OLD)
    with pytest.raises(CNIError) as raised, step("masquerade the pod's addresses"):
        raise NetlinkError(errno.ENOENT, "No such file or directory")
    assert raised.value.msg == (
        "failed to masquerade the pod's addresses: No such file or directory"
        " (this node's kernel is 4.19.0-27-amd64; the oldest supported one is 5.10)"
    )


@pytest.mark.parametrize(
    ("release", "error"),
    [
        ("6.1.0", NetlinkError(errno.ENOENT, "No such file or directory")),
        (OLD, NetlinkError(errno.EEXIST, "File exists")),
        (OLD, FileNotFoundError(errno.ENOENT, "No such file or directory", "/run/x")),
    ],
    ids=["supported kernel", "another reason", "a file"],
)
def test_other_errors_do_not_mention_the_kernel(monkeypatch: pytest.MonkeyPatch, release: str, error: OSError) -> None:
    """Only errors that an old kernel's missing features can cause are explained by its version."""
    on(monkeypatch, release)
    assert "supported" not in reason(error)


def test_status_tests_masquerading_on_an_old_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it is not supported, the error is 50; if it is, as on some distributions, the version does not matter."""
    on(monkeypatch, OLD)
    asked = []
    monkeypatch.setattr(pod_table, "dry_run", lambda _: asked.append(1))
    masquerade.check_ready()
    assert asked == [1]

    def refuse(_: object) -> None:
        raise NetlinkError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(pod_table, "dry_run", refuse)
    with pytest.raises(CNIError, match=r"^the kernel can not masquerade: .*4\.19\.0.*5\.10") as raised:
        masquerade.check_ready()
    assert raised.value.code == 50


def test_status_does_not_test_a_supported_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runtimes call STATUS every few seconds."""
    on(monkeypatch, "5.10.0")
    monkeypatch.setattr(pod_table, "dry_run", lambda _: pytest.fail("asked"))
    masquerade.check_ready()


@pytest.mark.parametrize("page", ["README.md", "docs/installing.md"])
def test_pages_state_the_oldest_kernel(page: str) -> None:
    """The same version as in the code."""
    assert f"Linux {kernel.OLDEST[0]}.{kernel.OLDEST[1]}" in Path(ROOT / page).read_text()


def test_the_oldest_kernel_can_be_booted_by_the_tests() -> None:
    """The virtual machine's script has it."""
    assert f"{kernel.OLDEST[0]}.{kernel.OLDEST[1]})" in (ROOT / "tests/vm/run.sh").read_text()
