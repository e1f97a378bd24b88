"""`sourceAddressValidation` where nf_tables knows no bridges: not done by default, an error if asked for."""

from errno import ENOENT, EPERM
from types import SimpleNamespace

import pytest

from linux import nft_table, source_validation
from linux.netlink import NetlinkError
from plugins.pod import add
from plugins.pod.conf import PodConf
from plugins.undo import Undo
from spec.attachment import Attachment
from spec.errors import CNIError
from spec.result import IPConfig, Result

REQUEST = SimpleNamespace(attachment=Attachment("net", "pod", "eth0"))


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The error numbers with which the kernel refuses the table: when it is made, and when that is tried."""
    numbers = [ENOENT, ENOENT]

    def refuse(number: int) -> None:
        raise NetlinkError(number, "refused")

    monkeypatch.setattr(source_validation, "ensure", lambda *_: refuse(numbers[0]))
    monkeypatch.setattr(nft_table, "rehearse", lambda _: refuse(numbers[1]))
    return numbers


def bind(*, required: bool) -> None:
    """The step of an ADD."""
    conf = PodConf(bridge="b", ipam_type="host-local", check_sources=True, sources_required=required)
    with Undo() as undo:
        undo.keep()
        add._check_sources(REQUEST, conf, SimpleNamespace(name="veth0"), Result(ips=(IPConfig("10.1.2.3/24"),)), undo)


@pytest.mark.usefixtures("refused")
def test_by_default_an_add_does_without() -> None:
    """The kernel has no chains for bridges."""
    bind(required=False)


@pytest.mark.usefixtures("refused")
def test_asked_for_it_is_an_error() -> None:
    """What failed is named."""
    with pytest.raises(CNIError, match="bind the pod to its addresses"):
        bind(required=True)


def test_another_refusal_is_an_error_by_default_too(refused: list[int]) -> None:
    """The kernel could, but did not."""
    refused[:] = [EPERM, EPERM]
    with pytest.raises(CNIError, match="bind the pod to its addresses"):
        bind(required=False)
