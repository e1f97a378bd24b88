"""The cache of configurations: one that an agent gets for nearly every pod is parsed once. Errors are not cached."""

import gc
import json
import weakref

import pytest

from ipam.routes import parse_routes
from spec.config import NetConf, Section, read_config
from spec.errors import CNIError

CONF = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "ipam": {"type": "host-local", "subnet": "10.0.0.0/24"}}


def text(**keys: object) -> bytes:
    """CONF with further keys, as JSON."""
    return json.dumps(CONF | keys).encode()


def test_the_same_text_returns_the_same_section() -> None:
    """With everything derived from it, although other configurations came between."""
    document, section = read_config(text())
    ipam = section.section("ipam")
    assert read_config(text(mtu=1400))[1] is not section
    assert read_config(bytes(bytearray(text()))) == (document, section)
    assert read_config(text())[1].section("ipam") is ipam
    assert document == CONF


def test_leniency_is_not_cached() -> None:
    """An error that a DEL ignored fails the next ADD with the same configuration."""
    section = Section(CONF | {"prevResult": {"cniVersion": "1.1.0", "ips": 7}})
    assert NetConf.parse(section, strict=False).prev_result is None
    with pytest.raises(CNIError, match='"prevResult.ips"'):
        _ = NetConf.parse(section).prev_result
    assert NetConf.parse(section, strict=False).prev_result is None


@pytest.mark.parametrize(
    "keys",
    [{"prevResult": {}}, {"cni.dev/valid-attachments": []}, {"cni.dev/attachments": []}, {"long": "x" * (1 << 14)}],
)
def test_single_use_and_long_configurations_are_not_cached(keys: dict) -> None:
    """They would evict those that come again, or fill the memory."""
    assert read_config(text(**keys))[1] is not read_config(text(**keys))[1]


def test_an_uncached_configuration_is_freed_with_its_call() -> None:
    """Not by the next garbage collection: a configuration may have 16 MB."""

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


def test_the_cache_is_bounded() -> None:
    """However many configurations there are."""
    first = read_config(text(mtu=0))[1]
    for mtu in range(1, 100):
        read_config(text(mtu=mtu))
    assert read_config(text(mtu=0))[1] is not first


def test_errors_are_not_cached() -> None:
    """A derivation that failed is tried again; an invalid configuration fails each time."""
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


def test_a_nested_section_is_cached() -> None:
    """So values derived from it are cached too; its errors have the whole path."""
    section = Section(CONF)
    assert section.section("ipam") is section.section("ipam")
    assert section.section("ipam").error("subnet", "x").msg.startswith('"ipam.subnet"')
