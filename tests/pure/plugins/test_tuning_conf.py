"""The configuration of `tuning`, and its errors."""

import io
import json

import pytest

from plugins.tuning.conf import TuningConf, parse, path_of
from spec.config import NetConf, Section
from spec.errors import CNIError
from spec.plugin import NO_SUITE, Plugin
from spec.request import Request
from spec.result import Result
from tests.pure.test_docs import asked, compare, documented

MACS = [f"02:00:00:00:00:0{number}" for number in range(5)]


def request(conf: dict | str, ifname: str = "eth0", **args: str) -> Request:
    """A request with this configuration (as text, if keys repeat) and these CNI_ARGS."""
    text = conf if isinstance(conf, str) else json.dumps(conf)
    netconf = NetConf.parse(Section({"cniVersion": "1.1.0", "name": "net", "type": "tuning", **json.loads(text)}))
    fields = {"verb": "ADD", "container_id": "pod", "netns": "/n", "ifname": ifname, "path": (), "environ": {}}
    return Request(**fields, args=args, conf=netconf, stdin=text.encode(), suite=NO_SUITE, stderr=io.StringIO())


def refusal(conf: dict | str, **args: str) -> CNIError:
    """The error that this configuration raises."""
    with pytest.raises(CNIError) as caught:
        parse(request(conf, **args))
    return caught.value


def settings(conf: dict) -> dict[str, str]:
    """The paths and values of the sysctls."""
    return {sysctl.path: sysctl.value for sysctl in parse(request(conf)).sysctls}


def test_without_keys_nothing_is_changed() -> None:
    """`promisc: false` and a queue of length 0 are set; an MTU of 0 and an empty MAC are not."""
    assert parse(request({})) == TuningConf()
    assert not parse(request({"mtu": 0, "mac": ""})).tunes_link
    assert parse(request({"promisc": False})).tunes_link
    assert parse(request({"txQLen": 0})).tunes_link


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.core.somaxconn", "core/somaxconn"),
        ("net/core/somaxconn", "core/somaxconn"),
        ("net.nf_conntrack_max", "nf_conntrack_max"),
        ("net.ipv4.conf.IFNAME.rp_filter", "ipv4/conf/eth0.7/rp_filter"),
        ("net/ipv4/conf/IFNAME/rp_filter", "ipv4/conf/eth0.7/rp_filter"),
        ("net.ipv4.conf.net1/100.rp_filter", "ipv4/conf/net1.100/rp_filter"),
        ("net/ipv4/conf/net1.100/rp_filter", "ipv4/conf/net1.100/rp_filter"),
        ("net.IFNAME.IFNAME", "eth0.7/IFNAME"),
    ],
)
def test_names_of_sysctls(name: str, path: str) -> None:
    """The first dot or slash decides which of them separates; the other is a dot in a name. IFNAME is the interface."""
    assert path_of(name, "eth0.7") == path


@pytest.mark.parametrize(
    "name",
    [
        "",
        "net",
        "net.",
        "kernel.shmmax",
        "kernel/shmmax",
        "net/../kernel/shmmax",
        "net.//.kernel",
        "/net/core/x",
        "net..core",
        "net/./x",
        "network.x",
        "net.a b",
        "net.a\nb",
        "net.a\0b",
        ".net.x",
        "NET.core.x",
        "IFNAME.core",
    ],
)
def test_names_outside_net_are_refused(name: str) -> None:
    """No spelling of a name leads outside /proc/sys/net."""
    error = refusal({"sysctl": {name: "1"}})
    assert (error.code, error.msg) == (7, f'invalid net sysctl key: "{name}"')


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"mtu": "big"}, '"mtu": expected an integer of 0 to 2147483647, got "big"'),
        ({"mtu": -1}, '"mtu": expected an integer of 0 to 2147483647, got -1'),
        ({"promisc": "true"}, '"promisc": expected true or false, got "true"'),
        ({"allmulti": 1}, '"allmulti": expected true or false, got 1'),
        ({"txQLen": -1}, '"txQLen": expected an integer of 0 to 4294967295, got -1'),
        ({"mac": "zz"}, '"mac": expected a unicast MAC address'),
        ({"dataDir": 7}, '"dataDir": expected a string, got 7'),
        ({"sysctl": []}, '"sysctl": expected an object of strings, got []'),
        ({"sysctl": {"net.core.x": 1}}, '"sysctl.net.core.x": expected a string of ASCII characters, got 1'),
        ({"sysctl": {"net.core.x": "ä"}}, '"sysctl.net.core.x": expected a string of ASCII characters, got "ä"'),
        ({"runtimeConfig": {"mac": "01:00:5e:00:00:01"}}, '"runtimeConfig.mac": expected a unicast MAC address'),
        ({"mtu": 1400, "args": {"cni": {"mtu": "x"}}}, '"args.cni.mtu": expected an integer'),
        ({"args": {"cni": {"sysctl": {"kernel.x": "1"}}}}, 'invalid net sysctl key: "kernel.x"'),
    ],
)
def test_errors_name_key_and_value(conf: dict, message: str) -> None:
    """An invalid value is error 7; the message has the key, the value, and the allowed values."""
    error = refusal(conf)
    assert error.code == 7
    assert message in error.msg


MAC = MACS[1]
REPLACED = {
    "mac by args.cni": ({"mac": "REPLACE_ME", "args": {"cni": {"mac": MAC}}}, {"mac": MAC}),
    "mac by the runtime": ({"mac": "REPLACE_ME", "runtimeConfig": {"mac": MAC}}, {"mac": MAC}),
    "the runtime's mac": ({"runtimeConfig": {"mac": "x"}, "args": {"cni": {"mac": MAC}}}, {"mac": MAC}),
    "mac of another type": ({"mac": [], "runtimeConfig": {"mac": MAC}}, {"mac": MAC}),
    "mtu": ({"mtu": "x", "args": {"cni": {"mtu": 1400}}}, {"mtu": 1400}),
    "promisc": ({"promisc": "x", "args": {"cni": {"promisc": False}}}, {"promiscuous": False}),
    "allmulti": ({"allmulti": "x", "args": {"cni": {"allmulti": True}}}, {"all_multicast": True}),
    "txQLen": ({"txQLen": "x", "args": {"cni": {"txQLen": 0}}}, {"queue_length": 0}),
}


@pytest.mark.parametrize("what", REPLACED)
def test_an_overridden_value_is_not_checked(what: str) -> None:
    """It may be a placeholder for the runtime's value."""
    conf, wanted = REPLACED[what]
    assert parse(request(conf)) == TuningConf(**wanted)


def test_a_mac_in_cni_args_overrides_and_is_overridden() -> None:
    """It is between the runtime's MAC and the configuration's; an overridden one is not checked."""
    assert parse(request({"mac": "REPLACE_ME"}, MAC=MAC)).mac == MAC
    assert parse(request({"runtimeConfig": {"mac": MAC}}, MAC="zz")).mac == MAC


def test_an_overridden_sysctl_may_have_any_value() -> None:
    """Whichever of its names the override uses; one that is not overridden is checked."""
    own = {"net.core.x": None, "net.core.y": 7, "net.core.z": "1"}
    assert settings({"sysctl": own, "args": {"cni": {"sysctl": {"net/core/y": "2"}}}}) == {"core/y": "2", "core/z": "1"}
    refusal({"sysctl": own, "args": {"cni": {"sysctl": {"net.core.z": "2"}}}})


@pytest.mark.parametrize(
    "conf",
    [
        '{"sysctl": {"net.core.x": "1", "net.core.x": "1"}}',
        '{"sysctl": {"net.core.x": "1", "net/core/x": "2"}}',
        '{"args": {"cni": {"sysctl": {"net.core.x": "1", "net.core.x": "2"}}}}',
        '{"SysCtl": {"net.ipv4.conf.IFNAME.x": "1", "net.ipv4.conf.eth0.x": "2"}}',
    ],
)
def test_duplicates_are_refused(conf: str) -> None:
    """Two values for one sysctl are an error, also under two spellings of its name."""
    assert refusal(conf).msg == "duplicated sysctl keys are not allowed"


def test_the_last_of_other_repeated_keys_wins() -> None:
    """As in every configuration, outside the sysctls."""
    assert parse(request('{"mtu": 1400, "mtu": 1300, "x": {"sysctl": {"a": "1", "a": "2"}}}')).mtu == 1300


def test_args_cni_overrides() -> None:
    """Key by key and sysctl by sysctl; the configuration itself need not have sysctls."""
    override = {
        "sysctl": {"net/core/x": "2", "net.core.z": "3"},
        "mtu": 1300,
        "promisc": False,
        "allmulti": True,
        "txQLen": 0,
    }
    conf = {"mtu": 1400, "promisc": True, "sysctl": {"net.core.x": "1", "net.core.y": "1"}, "args": {"cni": override}}
    parsed = parse(request(conf))
    assert (parsed.mtu, parsed.promiscuous, parsed.all_multicast, parsed.queue_length) == (1300, False, True, 0)
    assert settings(conf) == {"core/x": "2", "core/y": "1", "core/z": "3"}
    assert settings({"args": conf["args"]}) == {"core/x": "2", "core/z": "3"}


def test_mac_precedence() -> None:
    """args.cni over runtimeConfig over CNI_ARGS over the configuration, as in the reference."""
    conf = {"mac": MACS[1], "runtimeConfig": {"mac": MACS[3]}, "args": {"cni": {"mac": MACS[4]}}}
    found = []
    for key in ("args", "runtimeConfig"):
        found.append(parse(request(conf, MAC=MACS[2])).mac)
        del conf[key]
    assert [*found, parse(request(conf, MAC=MACS[2])).mac, parse(request(conf)).mac] == MACS[4:0:-1]


def test_an_invalid_mac_in_cni_args_is_code_4() -> None:
    """A valid one may be written in any form."""
    assert refusal({}, MAC="zz").code == 4
    assert parse(request({}, MAC="0200.5E10.0001")).mac == "02:00:5e:10:00:01"


def test_null_is_absent() -> None:
    """null leaves a setting unchanged, like an absent key."""
    assert parse(request({"sysctl": {"net.core.x": None}, "mtu": None, "allmulti": None})) == TuningConf()


def test_the_manual_has_every_key_that_is_read_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/tuning.md and the common keys are compared with the keys that an ADD and a GC read."""

    def reading(request: Request) -> Result:
        parse(request)
        return request.conf.require_prev_result()

    previous = {"cniVersion": "1.1.0", "ips": [{"address": "10.1.2.3/24"}]}
    conf = {"cniVersion": "1.1.0", "name": "net", "type": "tuning", "prevResult": previous}
    found = asked(Plugin("tuning", add=reading), conf, monkeypatch, "ADD")
    for key in ("cni.dev/attachments", "cni.dev/valid-attachments"):
        more = conf | {key: [{"containerID": "pod", "ifname": "eth0"}]}
        found |= asked(Plugin("tuning", gc=lambda request: request.valid_attachments), more, monkeypatch, "GC")
    found = {key: kind for key, kind in found.items() if not key.startswith("cni.dev/attachments[")}
    compare(found, documented("tuning.md") | documented("protocol.md"))
