"""A configuration that comes again, as an agent gets it for nearly every pod, is read once. Errors stay."""

import gc
import json
import weakref

import pytest

from ipam.routes import parse_routes
from spec.config import NetConf, Section, read_config
from spec.errors import CNIError

CONF = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "ipam": {"type": "host-local", "subnet": "10.0.0.0/24"}}


def text(**keys: object) -> bytes:
    """CONF with further keys, as it comes in."""
    return json.dumps(CONF | keys).encode()


def test_the_same_text_is_the_same_section() -> None:
    """With all that was derived of it, in whatever order others came between."""
    document, section = read_config(text())
    ipam = section.section("ipam")
    assert read_config(text(mtu=1400))[1] is not section
    assert read_config(bytes(bytearray(text()))) == (document, section)
    assert read_config(text())[1].section("ipam") is ipam
    assert document == CONF


def test_leniency_is_not_passed_on() -> None:
    """What a DEL may overlook, the ADD after it may not, though both have the same configuration."""
    section = Section(CONF | {"prevResult": {"cniVersion": "1.1.0", "ips": 7}})
    assert NetConf.parse(section, strict=False).prev_result is None
    with pytest.raises(CNIError, match='"prevResult.ips"'):
        _ = NetConf.parse(section).prev_result
    assert NetConf.parse(section, strict=False).prev_result is None


@pytest.mark.parametrize(
    "keys",
    [{"prevResult": {}}, {"cni.dev/valid-attachments": []}, {"cni.dev/attachments": []}, {"long": "x" * (1 << 14)}],
)
def test_what_comes_once_or_is_long_is_not_kept(keys: dict) -> None:
    """It would push out what comes again, or fill the memory."""
    assert read_config(text(**keys))[1] is not read_config(text(**keys))[1]


def test_what_is_not_kept_is_gone_with_the_call() -> None:
    """Not when the next collection finds it: a configuration may have 16 MB."""

    class Value:
        pass

    value = Value()
    gone = weakref.ref(value)
    section = Section({**CONF, "value": value})
    conf = NetConf.parse(section)
    section.derive(parse_routes)
    gc.disable()
    try:
        del value, section, conf
        assert gone() is None
    finally:
        gc.enable()


def test_few_are_kept() -> None:
    """However many networks a node has, or somebody sends."""
    first = read_config(text(mtu=0))[1]
    for mtu in range(1, 100):
        read_config(text(mtu=mtu))
    assert read_config(text(mtu=0))[1] is not first


def test_what_fails_fails_again() -> None:
    """An error is not kept, and keeps nothing from being read."""
    section, tries = Section(CONF), []

    def read(given: Section) -> str:
        tries.append(given)
        return given.string("name") if len(tries) > 1 else given.integer("name")

    with pytest.raises(CNIError, match='"name": expected an integer'):
        section.derive(read)
    assert [section.derive(read) for _ in range(3)] == ["net"] * 3
    assert tries == [section] * 2
    for _ in range(2):
        with pytest.raises(CNIError, match='"ipam": expected an object'):
            Section({"ipam": 1}).section("ipam")
        with pytest.raises(CNIError, match="Expecting property name"):
            read_config(b"{")


def test_a_section_within_is_the_same_each_time() -> None:
    """So what is derived of it is kept too; its errors name the whole path."""
    section = Section(CONF)
    assert section.section("ipam") is section.section("ipam")
    assert section.section("ipam").error("subnet", "x").msg.startswith('"ipam.subnet"')
