"""The oldest kernel that is supported: what an older one's refusals say, and that its number alone refuses nothing."""

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
    """This node's kernel has that number."""
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release=release))


@pytest.mark.parametrize("release", [OLD, "4.18.0-553.el8_10.x86_64", "5.9.16", "5.4.0-1103-aws", "2.6.78", "3.10"])
def test_an_older_kernel_is_old(monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    """Numbers are compared as numbers."""
    on(monkeypatch, release)
    assert kernel.is_old()


@pytest.mark.parametrize(
    "release", ["5.10.0-46-amd64", "5.14.0-570.el9.x86_64", "5.15.0", "6.1", "10.0.1", "6.18-rc1", "x"]
)
def test_a_supported_kernel_is_not_old(monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    """Nor is one whose number can not be read."""
    on(monkeypatch, release)
    assert not kernel.is_old()


def test_a_refusal_by_an_old_kernel_names_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an ADD says if an old kernel does not know what it is asked for."""
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
def test_other_errors_do_not_speak_of_the_kernel(monkeypatch: pytest.MonkeyPatch, release: str, error: OSError) -> None:
    """Only what an old kernel may refuse for its age is explained by that."""
    on(monkeypatch, release)
    assert "supported" not in reason(error)


def test_status_asks_an_old_kernel_whether_it_can_masquerade(monkeypatch: pytest.MonkeyPatch) -> None:
    """If not, that is error 50; if it can, as some distributions' can, its number does not matter."""
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


def test_status_does_not_trouble_a_supported_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """STATUS is asked every few seconds."""
    on(monkeypatch, "5.10.0")
    monkeypatch.setattr(pod_table, "dry_run", lambda _: pytest.fail("asked"))
    masquerade.check_ready()


@pytest.mark.parametrize("page", ["README.md", "docs/installing.md"])
def test_pages_name_the_oldest_kernel(page: str) -> None:
    """As it is in the code."""
    assert f"Linux {kernel.OLDEST[0]}.{kernel.OLDEST[1]}" in Path(ROOT / page).read_text()


def test_the_oldest_kernel_can_be_tried() -> None:
    """It is one of those that the virtual machine boots."""
    assert f"{kernel.OLDEST[0]}.{kernel.OLDEST[1]})" in (ROOT / "tests/vm/run.sh").read_text()
