"""Results in every version: their shape, their key order, and that nothing is lost that the version can express."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spec.errors import CNIError
from spec.plugin import Plugin
from spec.result import DNS, Interface, IPConfig, Result, Route, check_expressible, dumps, render
from spec.versions import SUPPORTED, family
from tests.pure.spec.driver import Recorder, conf, run
from tests.pure.spec.golden import COMPACT, FULL

DBNET = json.loads((Path(__file__).parent / "data" / "dbnet.json").read_text())
OLD, MIDDLE, CURRENT = (family(version) for version in ("0.1.0", "0.3.0", "1.0.0"))


@pytest.mark.parametrize("version", SUPPORTED)
def test_each_version_has_its_shape_and_key_order(version: str) -> None:
    """The compact JSON equals the golden text."""
    assert json.dumps(render(FULL, version), separators=(",", ":")) == COMPACT[version]


@pytest.mark.parametrize("version", SUPPORTED)
def test_results_are_indented_by_four_spaces(version: str) -> None:
    """Without a trailing newline."""
    assert dumps(FULL, version) == json.dumps(json.loads(COMPACT[version]), indent=4)


@pytest.mark.parametrize("version", SUPPORTED)
def test_empty_values_are_left_out(version: str) -> None:
    """Except dns, which versions before 1.0.0 always have, and an interface's name."""
    result = Result(interfaces=(Interface(""),), ips=(IPConfig("127.0.0.1/8"), IPConfig("::1/128")))
    expected = {
        OLD: '"ip4":{"ip":"127.0.0.1/8"},"ip6":{"ip":"::1/128"},"dns":{}',
        MIDDLE: '"interfaces":[{"name":""}],"ips":[{"version":"4","address":"127.0.0.1/8"},'
        '{"version":"6","address":"::1/128"}],"dns":{}',
        CURRENT: '"interfaces":[{"name":""}],"ips":[{"address":"127.0.0.1/8"},{"address":"::1/128"}]',
    }[family(version)]
    assert json.dumps(render(result, version), separators=(",", ":")) == f'{{"cniVersion":"{version}",{expected}}}'


@pytest.mark.parametrize("version", [*MIDDLE, *CURRENT])
def test_a_result_without_addresses_is_valid_since_0_3(version: str) -> None:
    """It is that of a layer 2 network."""
    check_expressible(Result(), version)
    assert render(Result(), version)["cniVersion"] == version


@pytest.mark.parametrize("version", OLD)
def test_a_result_without_addresses_cannot_be_expressed_before_0_3(version: str) -> None:
    """`check_expressible` and both renderers raise the same error."""
    for attempt in (check_expressible, render, dumps):
        with pytest.raises(CNIError, match="cannot convert: no valid IP addresses") as caught:
            attempt(Result(interfaces=(Interface("eth0"),)), version)
        assert caught.value.code == 1


def test_text_is_escaped_as_in_go() -> None:
    """<, >, & and the line separators are escaped; the rest is UTF-8; an invalid character becomes U+FFFD."""
    result = Result(interfaces=(Interface("<a&b>\u2028\u2029é𝄞\x7f\x01\udc80"),))
    expected = '"name": "\\u003ca\\u0026b\\u003e\\u2028\\u2029é𝄞\x7f\\u0001\ufffd"'
    assert expected in dumps(result, "1.1.0")


@pytest.mark.parametrize("name", DBNET)
def test_the_results_of_the_specification_s_example(name: str) -> None:
    """dbnet: the result of bridge, and what tuning passes on. A prevResult without a version has that of the config."""
    example = DBNET[name]
    if "prevResult" in example["config"]:
        plugin = Plugin(type="tuning")
    else:
        plugin = Recorder(Result.parse(example["result"], "1.1.0")).plugin
    answer = run(plugin, example["verb"], example["config"])
    assert answer.stdout == json.dumps(example["result"], indent=4)


@pytest.mark.parametrize("stated", SUPPORTED)
@pytest.mark.parametrize("version", SUPPORTED)
def test_prev_result_has_the_format_of_the_configuration_s_version(version: str, stated: str) -> None:
    """A prevResult of another version is accepted if its format is the same; otherwise the error names the version."""
    previous = json.loads(COMPACT[stated])
    answer = run(Plugin(type="pass"), "ADD", conf(version, prevResult=previous))
    if stated in family(version):
        assert answer.document == {**previous, "cniVersion": version}
    else:
        names = " ".join(family(version))
        reason = f'result type supports [{names}] but unmarshalled CNIVersion is "{stated}"'
        assert answer.error == (7, f"could not parse prevResult: {reason}")


@pytest.mark.parametrize("version", SUPPORTED)
def test_prev_result_without_a_version_has_the_configuration_s(version: str) -> None:
    """It is parsed in the configuration's version."""
    previous = json.loads(COMPACT[version])
    del previous["cniVersion"]
    answer = run(Plugin(type="pass"), "ADD", conf(version, prevResult=previous))
    assert answer.document["cniVersion"] == version
    assert answer.document["dns"]["domain"] == "example.org"


WRONG = [
    ("[]", '"prevResult": expected an object, got []'),
    ('{"cniVersion": 1}', '"prevResult.cniVersion": expected a string, got 1'),
    ('{"ips": {}}', '"prevResult.ips": expected a list of objects, got {}'),
    ('{"ips": [null]}', '"prevResult.ips[0]": expected an object, got nothing'),
    ('{"ips": [{}]}', '"prevResult.ips[0].address": expected an address with its prefix length'),
    ('{"ips": [{"address": "10.0.0.1"}]}', '"prevResult.ips[0].address": expected an address with its prefix length'),
    ('{"ips": [{"address": "10.0.0.1/33"}]}', '"prevResult.ips[0].address"'),
    ('{"ips": [{"address": "10.0.0.01/8"}]}', '"prevResult.ips[0].address"'),
    ('{"ips": [{"address": "10.0.0.1/255.0.0.0"}]}', '"prevResult.ips[0].address"'),
    ('{"ips": [{"address": "::1%lo/64"}]}', '"prevResult.ips[0].address"'),
    ('{"ips": [{"address": "::ffff:10.0.0.1/24"}]}', '"prevResult.ips[0].address"'),
    ('{"ips": [{"address": "10.0.0.1/8", "gateway": "x"}]}', '"prevResult.ips[0].gateway": expected an IP address'),
    ('{"ips": [{"address": "10.0.0.1/8", "interface": 1.0}]}', '"prevResult.ips[0].interface": expected an integer'),
    ('{"routes": [{"dst": "0.0.0.0/0", "mtu": -1}]}', '"prevResult.routes[0].mtu": expected an integer of 0'),
    ('{"routes": [{"gw": "10.0.0.1"}]}', '"prevResult.routes[0].dst"'),
    ('{"interfaces": [{"name": 1}]}', '"prevResult.interfaces[0].name": expected a string, got 1'),
    ('{"interfaces": [{"name": "a", "mtu": true}]}', '"prevResult.interfaces[0].mtu"'),
    ('{"dns": []}', '"prevResult.dns": expected an object, got []'),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_an_invalid_prev_result_is_an_error_where_it_is_used(text: str, message: str) -> None:
    """ADD and CHECK fail with code 7; the message has the path to the value."""
    code, said = run(Plugin(type="pass"), "ADD", conf(prevResult=json.loads(text))).error
    assert (code, said[: len(message)]) == (7, message)
    check = Recorder(check=lambda request: request.conf.require_prev_result())
    assert run(check.plugin, "CHECK", conf(prevResult=json.loads(text))).error == (code, said)


@pytest.mark.parametrize("text", [text for text, _ in WRONG])
def test_an_invalid_prev_result_is_ignored_where_it_is_not_used(text: str) -> None:
    """By an ADD that does not read it, and by every DEL."""
    recorder = Recorder()
    for verb in ("ADD", "DEL"):
        assert run(recorder.plugin, verb, conf(prevResult=json.loads(text))).status == 0
    assert recorder.requests[1].conf.prev_result is None


@pytest.mark.parametrize("previous", [{}, {"prevResult": None}])
def test_a_plugin_can_require_the_previous_result(previous: dict) -> None:
    """With a message of its own if it passes one."""
    plugin = Recorder(check=lambda request: request.conf.require_prev_result()).plugin
    assert run(plugin, "CHECK", conf(**previous)).error == (7, "Required prevResult missing")
    plugin = Recorder(add=lambda request: request.conf.require_prev_result("must be called as chained plugin")).plugin
    assert run(plugin, "ADD", conf(**previous)).error == (7, "must be called as chained plugin")


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("::FFFF:10.0.0.1/104", "10.0.0.1/8"),
        ("FD00:0:0:0:0:0:0:1/064", "fd00::1/64"),
        ("::102:304/128", "::102:304/128"),
        ("1:0:0:2:0:0:0:3/64", "1:0:0:2::3/64"),
        ("0.0.0.0/0", "0.0.0.0/0"),
    ],
)
def test_addresses_are_canonical(written: str, canonical: str) -> None:
    """As the reference prints them."""
    assert Result.parse({"ips": [{"address": written}]}, "1.1.0").ips[0].address == canonical


def test_ip4_and_ip6_hold_addresses_of_their_family() -> None:
    """Otherwise the next conversion would lose the address."""
    with pytest.raises(CNIError, match=r'"ip4\.ip": expected an address of IPv4, got "fd00::1/64"'):
        Result.parse({"ip4": {"ip": "fd00::1/64"}}, "0.2.0")


def test_an_interface_of_minus_one_means_none() -> None:
    """Plugins built on very old libraries print it."""
    assert Result.parse({"ips": [{"address": "10.0.0.1/8", "interface": -1}]}, "0.3.0").ips[0].interface is None


def test_unknown_keys_are_dropped_and_keys_match_in_any_case() -> None:
    """In results as in configurations."""
    result = Result.parse({"IPS": [{"ADDRESS": "10.0.0.1/8", "colour": 1}], "x": 1}, "1.1.0")
    assert result == Result(ips=(IPConfig("10.0.0.1/8"),))


def test_the_interface_of_an_address() -> None:
    """None if the address has no index, or one that is out of range."""
    assert [FULL.interface_of(ip) for ip in FULL.ips] == [*FULL.interfaces, None]
    assert FULL.interface_of(IPConfig("10.0.0.1/8", interface=9)) is None


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
uints = st.integers(0, 2**32 - 1)
v4 = st.ip_addresses(v=4).map(str)
v6 = st.ip_addresses(v=6).filter(lambda ip: ip.ipv4_mapped is None).map(lambda ip: Result.parse(
    {"ips": [{"address": f"{ip}/128"}]}, "1.1.0").ips[0].address[:-4])  # fmt: skip
ips4 = st.builds(lambda a, p, g: IPConfig(f"{a}/{p}", g), v4, st.integers(0, 32), st.just("") | v4)
ips6 = st.builds(lambda a, p, g: IPConfig(f"{a}/{p}", g), v6, st.integers(0, 128), st.just("") | v6)
ips = st.builds(replace, ips4 | ips6, interface=st.none() | st.integers(0, 5))
interfaces = st.builds(Interface, texts, texts, texts, uints, texts, texts)
optional = st.none() | uints
routes = st.builds(
    lambda ip, mtu, advmss, priority, table, scope: Route(ip.address, ip.gateway, mtu, advmss, priority, table, scope),
    ips4 | ips6, uints, uints, uints, optional, st.none() | st.integers(0, 255),
)  # fmt: skip
lists = st.lists(texts, max_size=3).map(tuple)
results = st.builds(
    Result,
    *(st.lists(items, max_size=3).map(tuple) for items in (interfaces, ips, routes)),
    st.builds(DNS, lists, texts, lists, lists),
)


@settings(max_examples=60)
@given(results, st.sampled_from(CURRENT))
def test_from_1_0_on_nothing_is_lost(result: Result, version: str) -> None:
    """Parsing the printed result returns an equal one."""
    assert Result.parse(json.loads(dumps(result, version)), version) == result


@settings(max_examples=60)
@given(results, st.sampled_from(MIDDLE))
def test_before_1_0_only_the_newer_attributes_of_interfaces_are_lost(result: Result, version: str) -> None:
    """mtu, socketPath and pciID."""
    kept = tuple(Interface(interface.name, interface.mac, interface.sandbox) for interface in result.interfaces)
    assert Result.parse(json.loads(dumps(result, version)), version) == replace(result, interfaces=kept)


@settings(max_examples=60)
@given(results, ips, st.sampled_from(OLD))
def test_before_0_3_the_first_address_of_each_family_is_kept_with_its_routes(
    result: Result, ip: IPConfig, version: str
) -> None:
    """The IPv4 address is first."""
    result = replace(result, ips=(*result.ips, ip))
    first = [next((i for i in result.ips if (":" in i.address) is six), None) for six in (False, True)]
    kept_ips = tuple(IPConfig(i.address, i.gateway) for i in first if i)
    kept_routes = tuple(
        Route(route.dst, route.gw)
        for ip in kept_ips
        for route in result.routes
        if (":" in route.dst) is (":" in ip.address)
    )
    expected = Result(ips=kept_ips, routes=kept_routes, dns=result.dns)
    assert Result.parse(json.loads(dumps(result, version)), version) == expected
