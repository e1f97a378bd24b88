"""The configuration of `bandwidth`, its errors, and the cost of a call without limits."""

import io
import json
import subprocess
import sys

import pytest

from plugins.bandwidth import PLUGIN
from plugins.bandwidth.conf import Limit, ifb_name, parse, reference_ifb_name
from spec.attachment import Attachment
from spec.config import NetConf, Section
from spec.errors import CNIError
from spec.plugin import serve
from tests.conftest import ROOT
from tests.pure.test_docs import documented
from tests.pure.test_docs import test_quoted_messages_are_those_of_the_code as compare_messages

BOTH = {"ingressRate": 1000, "ingressBurst": 2000, "egressRate": 3000, "egressBurst": 4000}
PREV = {"cniVersion": "1.1.0", "interfaces": [{"name": "veth0"}], "ips": [{"address": "10.1.2.2/24"}]}


def conf(**keys: object) -> NetConf:
    """A configuration with these keys."""
    return NetConf.parse(Section({"cniVersion": "1.1.0", "name": "net", "type": "bandwidth", **keys}))


def runtime(**limits: object) -> dict:
    """The limits as a runtime passes them."""
    return {"runtimeConfig": {"bandwidth": limits}}


def limits(**keys: object) -> tuple[Limit | None, Limit | None]:
    """The limits for received and for sent traffic that these keys set."""
    parsed = parse(conf(**keys))
    return parsed.ingress, parsed.egress


def call(verb: str, **keys: object) -> dict | None:
    """The document that a call prints, on a machine without the namespace and the pod."""
    stdin = json.dumps({"cniVersion": "1.1.0", "name": "net", "type": "bandwidth", **keys}).encode()
    environ = {"CNI_COMMAND": verb, "CNI_CONTAINERID": "pod", "CNI_IFNAME": "eth0", "CNI_PATH": "/nowhere"}
    environ["CNI_NETNS"] = "/nowhere/pod"
    out = io.BytesIO()
    serve(PLUGIN, environ=environ, stdin=io.BytesIO(stdin), stdout=out, stderr=io.StringIO())
    return json.loads(out.getvalue()) if out.getvalue() else None


def test_nothing_is_limited_by_default() -> None:
    """Without keys or with zeros there is no limit."""
    assert limits() == (None, None)
    assert limits(**runtime()) == (None, None)
    assert limits(**runtime(**dict.fromkeys(BOTH, 0))) == (None, None)


@pytest.mark.parametrize("keys", [BOTH, runtime(**BOTH), {"RuntimeConfig": {"Bandwidth": BOTH}}])
def test_limits_at_the_top_or_in_runtime_config(keys: dict) -> None:
    """The keys may be at the top or in runtimeConfig.bandwidth."""
    assert limits(**keys) == (Limit(1000, 2000), Limit(3000, 4000))


def test_a_limit_in_one_direction() -> None:
    """Each direction can be limited without the other."""
    assert limits(ingressRate=8, ingressBurst=8) == (Limit(8, 8), None)
    assert limits(egressRate=8, egressBurst=8) == (None, Limit(8, 8))


@pytest.mark.parametrize("key", BOTH)
def test_any_key_at_the_top_overrides_the_runtime_s_limits(key: str) -> None:
    """Even a 0 at the top makes all of runtimeConfig.bandwidth ignored; null counts as absent."""
    assert limits(**runtime(**BOTH), **{key: 0}) == (None, None)
    assert limits(**runtime(**BOTH), **{key: None}) == (Limit(1000, 2000), Limit(3000, 4000))


WHOLE = "an integer of 0 to 18446744073709551615"
BURST = "an integer of 0 to 34359738359 bits (burst cannot be more than 4GB)"
WITHOUT_BURST = "an integer of more than 0 (if rate is set, burst must also be set)"
WITHOUT_RATE = "an integer of more than 0 (if burst is set, rate must also be set)"


@pytest.mark.parametrize("direction", ["ingress", "egress"])
@pytest.mark.parametrize(
    ("rate", "burst", "key", "expected"),
    [
        ("1M", 8, "Rate", f'{WHOLE}, got "1M"'),
        (1000.5, 8, "Rate", f"{WHOLE}, got 1000.5"),
        (True, 8, "Rate", f"{WHOLE}, got true"),
        (-1, 8, "Rate", f"{WHOLE}, got -1"),
        (1 << 64, 8, "Rate", f"{WHOLE}, got 18446744073709551616"),
        (7, 8, "Rate", "0, or an integer of 8 to 18446744073709551615 bits/s (the kernel counts bytes), got 7"),
        (8, "8", "Burst", 'an integer, got "8"'),
        (8, -1, "Burst", f"{BURST}, got -1"),
        (8, 34359738360, "Burst", f"{BURST}, got 34359738360"),
        (8, None, "Burst", f"{WITHOUT_BURST}, got nothing"),
        (8, 0, "Burst", f"{WITHOUT_BURST}, got 0"),
        (None, 8, "Rate", f"{WITHOUT_RATE}, got nothing"),
    ],
)
def test_errors_name_key_and_value(direction: str, rate: object, burst: object, key: str, expected: str) -> None:
    """An invalid value is error 7; the message has the key with its path, the value, and the allowed values."""
    with pytest.raises(CNIError) as caught:
        parse(conf(**runtime(**{f"{direction}Rate": rate, f"{direction}Burst": burst})))
    assert caught.value.code == 7
    assert caught.value.msg == f'"runtimeConfig.bandwidth.{direction}{key}": expected {expected}'


def test_the_largest_values() -> None:
    """A rate may have 64 bits; a burst is at most one bit less than 4 GB."""
    assert limits(ingressRate=(1 << 64) - 1, ingressBurst=34359738359)[0] == Limit((1 << 64) - 1, 34359738359)


def test_without_limits_a_call_passes_the_result_on() -> None:
    """It uses neither the namespace nor the kernel."""
    assert call("ADD", prevResult=PREV) == PREV
    assert call("CHECK", prevResult=PREV) is None


@pytest.mark.parametrize("keys", [{}, BOTH])
def test_add_and_check_require_a_previous_result(keys: dict) -> None:
    """Otherwise they fail with error 7, with or without limits."""
    added, checked = call("ADD", **keys), call("CHECK", **keys)
    assert (added["code"], added["msg"]) == (7, "must be called as chained plugin")
    assert (checked["code"], checked["msg"]) == (7, "Required prevResult missing")


def test_the_manual_has_every_key_and_quotes_the_messages_of_the_code() -> None:
    """docs/bandwidth.md has the four keys in both places; the messages it quotes are in the code."""
    places = {*BOTH, *(f"runtimeConfig.bandwidth.{key}" for key in BOTH), "runtimeConfig.bandwidth"}
    assert set(documented("bandwidth.md")) == places
    compare_messages("bandwidth.md")


def test_names_of_ifbs() -> None:
    """Each link has its own ifb, named in 15 bytes; the reference's name is that of the reference's own test."""
    assert reference_ifb_name(Attachment("t", "cid2", "eth0")) == "bwpd3fe768a741a"
    owners = [Attachment("t", "cid2", "eth0"), Attachment("t", "cid2", "eth1"), Attachment("tc", "id2", "eth0")]
    names = {ifb_name(owner) for owner in owners} | {reference_ifb_name(owner) for owner in owners}
    assert len(names) == 4  # the reference distinguishes neither interfaces nor where the network's name ends
    assert {len(name) for name in names} == {15}


@pytest.mark.parametrize("verb", ["ADD", "CHECK", "DEL"])
def test_without_limits_no_kernel_interface_is_imported(verb: str) -> None:
    """Most pods have no limits, so their calls must not load the modules that limits need."""
    stdin = {"cniVersion": "1.1.0", "name": "net", "type": "bandwidth", "prevResult": PREV}
    environ = {"CNI_COMMAND": verb, "CNI_CONTAINERID": "no-such-pod", "CNI_IFNAME": "eth0", "CNI_PATH": "/nowhere"}
    environ["CNI_NETNS"] = "/nowhere/pod"
    program = f"""
import io, sys
from plugins.bandwidth import PLUGIN
from spec.plugin import serve
stdin = io.BytesIO({json.dumps(stdin).encode()!r})
assert serve(PLUGIN, environ={environ!r}, stdin=stdin, stdout=io.BytesIO(), stderr=sys.stderr) == 0
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    rooms = {name.partition(".")[0] for name in done.stdout.split()}
    assert "plugins" in rooms
    assert rooms & {"linux", "pyroute2", "netaddr"} == set()
