"""The configuration of `bridge`, and its errors."""

import io

import pytest

from plugins.bridge import parse
from plugins.pod.conf import PodConf
from spec.config import NetConf, Section
from spec.errors import CNIError
from spec.plugin import NO_SUITE
from spec.request import Request


def request(conf: dict, **args: str) -> Request:
    """A request with this configuration and these CNI_ARGS."""
    netconf = NetConf.parse(Section({"cniVersion": "1.1.0", "name": "net", "type": "bridge", **conf}))
    fields = {"verb": "ADD", "container_id": "pod", "netns": "/n", "ifname": "eth0", "path": ()}
    return Request(**fields, args=args, conf=netconf, stdin=b"", environ={}, suite=NO_SUITE, stderr=io.StringIO())


def refusal(conf: dict, **args: str) -> CNIError:
    """The error that this configuration raises."""
    with pytest.raises(CNIError) as caught:
        parse(request(conf, **args))
    return caught.value


def test_defaults() -> None:
    """Without keys: bridge cni0, no gateway, no addresses, everything else off; source validation would be strict."""
    assert parse(request({})) == PodConf(bridge="cni0", ipam_type="")


def test_default_gateway_is_a_gateway() -> None:
    """isDefaultGateway implies isGateway."""
    assert parse(request({"isDefaultGateway": True})).is_gateway


@pytest.mark.parametrize("mtu", [0, -1])
def test_an_mtu_of_0_or_less_means_the_kernel_s_default(mtu: int) -> None:
    """It is parsed as 0, which is not sent to the kernel."""
    assert parse(request({"mtu": mtu})).mtu == 0


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"mtu": "big"}, '"mtu": expected an integer of 68 to 65535, got "big"'),
        ({"mtu": 67}, '"mtu": expected an integer of 68 to 65535, got 67'),
        ({"isGateway": "true"}, '"isGateway": expected true or false, got "true"'),
        ({"vlan": 4095}, '"vlan": expected an integer of 0 to 4094, got 4095'),
        ({"ipMasqBackend": "ebpf"}, '"ipMasqBackend": expected one of "", "iptables", "nftables", got "ebpf"'),
        ({"bridge": "a-name-of-16-byte"}, "a link name"),
        ({"bridge": "b/0"}, "a link name"),
        ({"hairpinMode": True, "promiscMode": True}, "cannot set hairpin mode and promiscuous mode"),
        ({"disableContainerInterface": True, "ipam": {"type": "x"}}, "cannot use IPAM when"),
        (
            {"vlanTrunk": [{"minID": 5}]},
            '"vlanTrunk[0].maxID": expected an integer of 1 to 4094, since minID is given, got nothing',
        ),
        (
            {"vlanTrunk": [{"id": 3}, {"maxID": 5}]},
            '"vlanTrunk[1].minID": expected an integer of 1 to 4094, since maxID is given, got nothing',
        ),
        (
            {"vlanTrunk": [{"minID": 1000, "maxID": 100}]},
            '"vlanTrunk[0].minID": expected an integer of at most 100, which is maxID, got 1000',
        ),
        ({"vlanTrunk": [{"id": 0}]}, '"vlanTrunk[0].id": expected an integer of 1 to 4094, got 0'),
        (
            {"bridge": "a-bridge-13-b", "vlan": 10, "isGateway": True},
            '"bridge" and "vlan": the name of the gateway link, "a-bridge-13-b.10"',
        ),
        ({"bridge": "a-bridge-of-15b", "vlan": 1, "isDefaultGateway": True}, "longer than 15 bytes"),
        ({"bridge": "bridge-äöü", "vlan": 1000, "isGateway": True}, '"bridge-äöü.1000"'),
        ({"policyWait": 61}, '"policyWait": expected an integer of 0 to 60, got 61'),
        ({"policyWait": -1}, '"policyWait": expected an integer of 0 to 60, got -1'),
        ({"policyWait": True}, '"policyWait": expected an integer of 0 to 60, got true'),
        ({"policyWait": "5"}, '"policyWait": expected an integer of 0 to 60, got "5"'),
        ({"policyWait": 5}, '"policyWait": the bridge must be the gateway of its pods'),
        ({"policyWait": 5, "isGateway": True}, '"policyWait": the bridge must be the gateway of its pods'),
        ({"policyWait": 5, "ipam": {"type": "x"}}, "and give them addresses"),
        ({"policyWait": 5, "portIsolation": True}, "also between isolated ports"),
        ({"policyWait": 5, "vlanTrunk": []}, '"policyWait": network policies are not enforced in trunked VLANs'),
        ({"runtimeConfig": {"mac": "zz"}}, '"runtimeConfig.mac": expected a unicast MAC address'),
        ({"args": {"cni": {"mac": "01:00:5e:00:00:01"}}}, '"args.cni.mac": expected a unicast MAC address'),
    ],
)
def test_errors_name_key_and_value(conf: dict, message: str) -> None:
    """An invalid value is error 7; the message has the key, the value, and the allowed values."""
    error = refusal(conf)
    assert error.code == 7
    assert message in error.msg


@pytest.mark.parametrize("conf", [{"bridge": "a-bridge-of-14", "vlan": 0}, {"bridge": "a-bridge-of-15b", "vlan": 100}])
def test_a_long_bridge_name_is_an_error_only_if_a_link_is_named_after_it(conf: dict) -> None:
    """Without a gateway or without a VLAN no link is named after bridge and VLAN."""
    assert parse(request({**conf, "isGateway": not conf["vlan"]})).bridge == conf["bridge"]


def test_an_invalid_mac_in_cni_args_is_code_4() -> None:
    """It is an error of a variable, not of the configuration."""
    assert refusal({}, MAC="zz").code == 4


def test_mac_precedence() -> None:
    """runtimeConfig.mac takes precedence over args.cni.mac, and that over MAC in CNI_ARGS."""
    places = {"runtimeConfig": {"mac": "02:00:00:00:00:01"}, "args": {"cni": {"mac": "02:00:00:00:00:02"}}}
    assert parse(request(places, MAC="02:00:00:00:00:03")).mac == "02:00:00:00:00:01"
    del places["runtimeConfig"]
    assert parse(request(places, MAC="02:00:00:00:00:03")).mac == "02:00:00:00:00:02"
    assert parse(request({}, MAC="02:00:00:00:00:03")).mac == "02:00:00:00:00:03"


@pytest.mark.parametrize("text", ["02-00-5E-10-00-01", "0200.5e10.0001", "02:00:5e:10:00:01"])
def test_mac_forms(text: str) -> None:
    """A MAC may be written with colons, hyphens or dots; results have colons and lower case."""
    assert parse(request({"runtimeConfig": {"mac": text}})).mac == "02:00:5e:10:00:01"


def test_trunk_is_sorted_and_unique() -> None:
    """vlanTrunk has single VLANs and ranges, or both in one entry; the VLANs are sorted and unique."""
    assert parse(request({"vlanTrunk": [{"id": 7, "minID": 5, "maxID": 8}, {"id": 2}]})).trunk == (2, 5, 6, 7, 8)


def test_an_empty_trunk_enables_vlan_filtering() -> None:
    """An absent vlanTrunk does not."""
    assert parse(request({"vlanTrunk": []})).filters_vlans
    assert not parse(request({})).filters_vlans


def test_dns_overrides_if_it_has_any_value() -> None:
    """`dns: {}` keeps IPAM's DNS; an empty list in it replaces it."""
    assert parse(request({"dns": {}})).dns is None
    assert parse(request({"dns": {"nameservers": []}})).dns is not None


@pytest.mark.parametrize("seconds", [0, 5, 60])
def test_with_policies_sources_are_validated(seconds: int) -> None:
    """`policyWait`, even of 0, means that network policies are enforced; without it, or with null, they are not."""
    conf = {"isDefaultGateway": True, "ipam": {"type": "host-local"}}
    found = parse(request({**conf, "policyWait": seconds}))
    assert (found.policy_wait, found.has_policies, found.check_sources) == (seconds, True, True)
    without = parse(request({**conf, "policyWait": None}))
    assert (without.policy_wait, without.has_policies, without.check_sources) == (None, False, False)
