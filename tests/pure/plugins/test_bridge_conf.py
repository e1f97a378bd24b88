"""What `bridge` reads of its configuration, and how it refuses the rest."""

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
    """The error for this configuration."""
    with pytest.raises(CNIError) as caught:
        parse(request(conf, **args))
    return caught.value


def test_defaults() -> None:
    """Without keys: bridge cni0, no gateway, no addresses, everything else off; a check of sources would be strict."""
    assert parse(request({})) == PodConf(bridge="cni0", ipam_type="")


def test_default_gateway_is_a_gateway() -> None:
    """isDefaultGateway implies isGateway."""
    assert parse(request({"isDefaultGateway": True})).is_gateway


@pytest.mark.parametrize("mtu", [0, -1])
def test_mtu_of_nothing_is_left_to_the_kernel(mtu: int) -> None:
    """An MTU of 0 or less is not sent."""
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
        ({"runtimeConfig": {"mac": "zz"}}, '"runtimeConfig.mac": expected a unicast MAC address'),
        ({"args": {"cni": {"mac": "01:00:5e:00:00:01"}}}, '"args.cni.mac": expected a unicast MAC address'),
    ],
)
def test_bad_configuration_is_named(conf: dict, message: str) -> None:
    """A wrong value is error 7, and the message says which key, which value and what is allowed."""
    error = refusal(conf)
    assert error.code == 7
    assert message in error.msg


@pytest.mark.parametrize("conf", [{"bridge": "a-bridge-of-14", "vlan": 0}, {"bridge": "a-bridge-of-15b", "vlan": 100}])
def test_a_long_name_matters_only_to_a_link_that_is_made_of_it(conf: dict) -> None:
    """Without a gateway, or without a VLAN, no link is named after bridge and VLAN."""
    assert parse(request({**conf, "isGateway": not conf["vlan"]})).bridge == conf["bridge"]


def test_bad_mac_of_cni_args_is_a_bad_variable() -> None:
    """A wrong MAC in CNI_ARGS is error 4."""
    assert refusal({}, MAC="zz").code == 4


def test_mac_precedence() -> None:
    """runtimeConfig.mac wins over args.cni.mac, which wins over MAC of CNI_ARGS."""
    places = {"runtimeConfig": {"mac": "02:00:00:00:00:01"}, "args": {"cni": {"mac": "02:00:00:00:00:02"}}}
    assert parse(request(places, MAC="02:00:00:00:00:03")).mac == "02:00:00:00:00:01"
    del places["runtimeConfig"]
    assert parse(request(places, MAC="02:00:00:00:00:03")).mac == "02:00:00:00:00:02"
    assert parse(request({}, MAC="02:00:00:00:00:03")).mac == "02:00:00:00:00:03"


@pytest.mark.parametrize("text", ["02-00-5E-10-00-01", "0200.5e10.0001", "02:00:5e:10:00:01"])
def test_mac_forms(text: str) -> None:
    """A MAC may have colons, hyphens or dots; in results it has colons and lower case."""
    assert parse(request({"runtimeConfig": {"mac": text}})).mac == "02:00:5e:10:00:01"


def test_trunk_is_sorted_and_unique() -> None:
    """vlanTrunk takes single VLANs and ranges, both in one entry too; the VLANs are sorted and unique."""
    assert parse(request({"vlanTrunk": [{"id": 7, "minID": 5, "maxID": 8}, {"id": 2}]})).trunk == (2, 5, 6, 7, 8)


def test_an_empty_trunk_is_a_trunk() -> None:
    """`vlanTrunk: []` turns VLAN filtering on; an absent key does not."""
    assert parse(request({"vlanTrunk": []})).filters_vlans
    assert not parse(request({})).filters_vlans


def test_dns_overrides_only_if_it_says_something() -> None:
    """`dns: {}` leaves IPAM's DNS; an empty list in it replaces it by nothing."""
    assert parse(request({"dns": {}})).dns is None
    assert parse(request({"dns": {"nameservers": []}})).dns is not None
