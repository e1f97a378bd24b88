"""The keys that `kubenet` and `vxlan` share, and the configuration that they pass to IPAM."""

import io
import json

import pytest

from plugins.node import tunnel
from plugins.node.conf import NodeConf, ipam_of, parse
from plugins.node.maintained import digest
from plugins.node.peers import read_records
from spec.config import NetConf, Section
from spec.errors import CNIError
from spec.plugin import NO_SUITE
from spec.request import Request


def request(**keys: object) -> Request:
    """An ADD of `kubenet` with these keys."""
    raw = {"cniVersion": "1.1.0", "name": "net", "type": "kubenet", "podCIDRs": ["10.244.1.0/24"], **keys}
    raw = {key: value for key, value in raw.items() if value is not None}
    return Request(
        verb="ADD",
        container_id="pod",
        netns="/run/netns/pod",
        ifname="eth0",
        args={},
        path=(),
        conf=NetConf.parse(Section(raw)),
        stdin=json.dumps(raw).encode(),
        environ={},
        suite=NO_SUITE,
        stderr=io.StringIO(),
    )


def test_defaults() -> None:
    """Bridge cbr0, hairpin-veth, masquerading, a derived MTU, no cluster networks."""
    assert parse(request()) == NodeConf(
        bridge="cbr0",
        subnets=("10.244.1.0/24",),
        mtu=0,
        hairpin_mode="hairpin-veth",
        ip_masq=True,
        cluster=(),
        inside=(),
        check_sources=False,
    )


def test_all_keys() -> None:
    """Each key is read and networks are canonical; `inside` has the cluster's networks and nonMasqueradeCIDRs."""
    node = parse(
        request(
            bridge="br1",
            podCIDRs=["FD00:244:0:1::/64", "10.244.1.0/24"],
            mtu=1400,
            hairpinMode="promiscuous-bridge",
            ipMasq=False,
            clusterCIDRs=["10.244.0.0/16"],
            nonMasqueradeCIDRs=["10.0.0.0/8", "172.16.0.0/12"],
        )
    )
    assert (node.bridge, node.mtu, node.hairpin_mode, node.ip_masq) == ("br1", 1400, "promiscuous-bridge", False)
    assert node.subnets == ("fd00:244:0:1::/64", "10.244.1.0/24")
    assert node.gateways == ("fd00:244:0:1::1/64", "10.244.1.1/24")
    assert node.cluster == ("10.244.0.0/16",)
    assert node.inside == ("10.244.0.0/16", "10.0.0.0/8", "172.16.0.0/12")


@pytest.mark.parametrize("content", [{"mtu": 1430}, {"mtu": 1430, "clusterCIDRs": ["10.244.0.0/16"]}])
def test_the_subnet_file_supplies_keys_that_the_configuration_lacks(tmp_path, content: dict) -> None:
    """The MTU and the cluster's networks; a key of the configuration takes precedence."""
    path = tmp_path / "node.json"
    path.write_text(json.dumps({"podCIDRs": ["10.244.7.0/24"], **content}))
    node = parse(request(podCIDRs=None, subnetFile=str(path)))
    assert (node.subnets, node.mtu) == (("10.244.7.0/24",), 1430)
    assert node.cluster == tuple(content.get("clusterCIDRs", ()))
    given = parse(request(podCIDRs=None, subnetFile=str(path), mtu=1300, clusterCIDRs=["10.0.0.0/8"]))
    assert (given.mtu, given.cluster) == (1300, ("10.0.0.0/8",))


def test_records_come_from_the_configuration_and_the_file(tmp_path) -> None:
    """Those of the configuration come first."""
    records = [
        {"name": n, "addresses": [f"192.0.2.{i}"], "podCIDRs": [f"10.244.{i}.0/24"]} for i, n in enumerate("abc")
    ]
    path = tmp_path / "peers.json"
    path.write_text(json.dumps({"peers": records[1:]}))
    found = read_records(request(peers=records[:1], peersFile=str(path)))
    assert [peer.name for peer in found.nodes] == ["a", "b", "c"]


def test_ipam_gets_defaults() -> None:
    """The type, and for each subnet a range set and a default route; given keys are kept, in any case."""
    subnets = ("10.244.1.0/24", "fd00::/64")
    assert ipam_of(Section({}), subnets) == {
        "type": "host-local",
        "ranges": [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    }
    given = {"Type": "static", "ROUTES": [], "dataDir": "/x", "addresses": []}
    assert ipam_of(Section({"ipam": given}), subnets) == {"ranges": [[{"subnet": s}] for s in subnets], **given}
    assert "ranges" not in ipam_of(Section({"ipam": {"subnet": "10.244.1.0/25"}}), subnets)


@pytest.mark.parametrize(
    ("vni", "device"), [(1, "slash24.1"), (9_999_999, "slash24.9999999"), (2**24 - 1, "sl24.16777215")]
)
def test_the_device_name_of_every_vni_fits(vni: int, device: str) -> None:
    """A link's name has at most 15 bytes."""
    assert tunnel.parse(request(vni=vni)).device == device


def test_the_tunnels_defaults() -> None:
    """VNI 1, IANA's port 4789; parent, local address and MAC to be derived; checksum offload on."""
    conf = tunnel.parse(request())
    assert (conf.vni, conf.port, conf.parent, conf.local, conf.mac) == (1, 4789, "", "", "")
    assert (conf.direct_routing, conf.tx_checksum) == (False, True)


@pytest.mark.parametrize(
    "keys", [{"podCIDRs": ["10.1.0.0/24", "10.2.0.0/24"]}, {"podCIDRs": None, "podCIDR": ["::/64", "1::/64"]}]
)
def test_two_subnets_of_one_family_are_refused(keys: dict) -> None:
    """The error names the key."""
    with pytest.raises(CNIError) as caught:
        parse(request(**keys))
    assert caught.value.code == 7
    assert next(key for key, value in keys.items() if value) in caught.value.msg


@pytest.mark.parametrize("subnet", ["10.1.0.0/31", "10.1.0.1/32", "fd00::/127", "fd00::1/128"])
def test_a_subnet_has_room_for_a_gateway_and_a_pod(subnet: str, tmp_path) -> None:
    """A smaller one is an error: 7 in the configuration, 11 in the file."""
    file = tmp_path / "node.json"
    file.write_text(json.dumps({"podCIDRs": [subnet]}))
    for keys, code in (({"podCIDRs": [subnet]}, 7), ({"podCIDRs": None, "subnetFile": str(file)}, 11)):
        with pytest.raises(CNIError, match=r"room for a gateway and a pod, at most /(30|126)") as caught:
            parse(request(**keys))
        assert caught.value.code == code


@pytest.mark.parametrize("seconds", [0, 60])
def test_with_policies_sources_are_validated(seconds: int) -> None:
    """`policyWait`, even of 0, means that network policies are enforced."""
    node = parse(request(policyWait=seconds))
    assert (node.policy_wait, node.check_sources) == (seconds, True)
    assert parse(request()).policy_wait is None


@pytest.mark.parametrize(("value", "shown"), [(61, "61"), (-1, "-1"), (1.5, "1.5"), ("5", '"5"'), (False, "false")])
def test_a_wrong_policy_wait_is_refused(value: object, shown: str) -> None:
    """With code 7; the message has the key, the value, and what is allowed."""
    with pytest.raises(CNIError) as caught:
        parse(request(policyWait=value))
    assert caught.value == CNIError(7, f'"policyWait": expected an integer of 0 to 60, got {shown}')


def test_how_long_an_add_waits_is_nothing_to_the_daemon() -> None:
    """It keeps the node's part for all ADDs with the key, and for none without."""
    digests = [digest(request(**keys).conf.section) for keys in ({"policyWait": 0}, {"policyWait": 60}, {})]
    assert digests[0] == digests[1] != digests[2]
