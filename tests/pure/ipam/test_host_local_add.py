"""ADD of host-local as a runtime sees it: JSON in, JSON out, files in between."""

import stat

import pytest

from tests.pure.ipam.plugin_node import V4, V6
from tests.pure.ipam.support import leases_in

COSTLY = {
    "argparse",
    "asyncio",
    "hashlib",
    "ipaddress",
    "logging",
    "pathlib",
    "socket",
    "subprocess",
    "tempfile",
    "typing",
}


def test_the_result(node):
    """Addresses with prefix and gateway and no interface, the configured routes with all attributes, no dns."""
    routes = [
        {"dst": "10.9.0.0/16"},
        {"dst": "FD00:0::/48", "gw": "fd00:1::9"},
        {"dst": "0.0.0.0/0", "mtu": 1300, "advmss": 1200, "priority": 7, "table": 0, "scope": 0},
    ]
    document = node.succeed(
        "ADD", node.config({"ranges": [[V4], [V6]], "routes": routes}, dns={"nameservers": ["1.1.1.1"]})
    )
    assert document == {
        "cniVersion": "1.1.0",
        "ips": [
            {"address": "10.0.0.2/29", "gateway": "10.0.0.1"},
            {"address": "fd00:1::2/64", "gateway": "fd00:1::1"},
        ],
        "routes": [
            {"dst": "10.9.0.0/16"},
            {"dst": "fd00::/48", "gw": "fd00:1::9"},
            {"dst": "0.0.0.0/0", "mtu": 1300, "advmss": 1200, "priority": 7, "table": 0, "scope": 0},
        ],
    }


def test_the_result_of_old(node):
    """An old version's result has the first address of each family, and the routes with it."""
    config = node.config(
        {"ranges": [[V4], [V6]], "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}, cniVersion="0.2.0"
    )
    assert node.succeed("ADD", config) == {
        "cniVersion": "0.2.0",
        "ip4": {"ip": "10.0.0.2/29", "gateway": "10.0.0.1", "routes": [{"dst": "0.0.0.0/0"}]},
        "ip6": {"ip": "fd00:1::2/64", "gateway": "fd00:1::1", "routes": [{"dst": "::/0"}]},
        "dns": {},
    }


def test_keys_without_regard_to_case(node):
    """Keys of every level match whatever their case."""
    config = {"cniVersion": "1.0.0", "name": "net", "type": "x"}
    config["IPAM"] = {"DATADIR": str(node.data_dir), "Ranges": [[{"Subnet": "10.0.0.0/29", "RANGESTART": "10.0.0.4"}]]}
    config["RuntimeConfig"] = {"IPS": ["10.0.0.5"]}
    assert node.addresses(config) == ["10.0.0.5/29"]


def test_the_old_form_of_a_range(node):
    """A range may stand directly in `ipam`."""
    ipam = {"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.9", "gateway": "10.0.0.254"}
    (ip,) = node.succeed("ADD", node.config(ipam))["ips"]
    assert ip == {"address": "10.0.0.9/24", "gateway": "10.0.0.254"}


def test_ranges_of_the_runtime_come_first(node):
    """Addresses come in the order of runtimeConfig.ipRanges, the range in `ipam`, `ranges`."""
    config = node.config(
        {"subnet": "10.2.0.0/29", "ranges": [[{"subnet": "10.3.0.0/29"}]]},
        runtimeConfig={"ipRanges": [[{"subnet": "10.1.0.0/29"}]]},
    )
    assert node.addresses(config) == ["10.1.0.2/29", "10.2.0.2/29", "10.3.0.2/29"]


@pytest.mark.parametrize(
    ("more", "args"),
    [
        ({}, "IP=10.0.0.5"),
        ({}, "IgnoreUnknown=1;IP=10.0.0.5/24;K8S_POD_NAME=x"),
        ({"args": {"cni": {"ips": ["10.0.0.5"]}}}, ""),
        ({"runtimeConfig": {"ips": ["10.0.0.5/29"]}}, ""),
        ({"args": {"cni": {"ips": ["::ffff:10.0.0.5"]}}, "runtimeConfig": {"ips": ["10.0.0.5"]}}, "IP=10.0.0.5"),
    ],
)
def test_requested(node, more, args):
    """An address can be requested by CNI_ARGS, args and runtimeConfig; a prefix length is ignored."""
    assert node.addresses(node.config(**more), CNI_ARGS=args) == ["10.0.0.5/29"]


def test_requested_for_both_families(node):
    """Requests from all places are one list; each range set takes its own."""
    config = node.config({"ranges": [[V4], [V6]]}, runtimeConfig={"ips": ["fd00:1::7"]})
    assert node.addresses(config, CNI_ARGS="IP=10.0.0.5") == ["10.0.0.5/29", "fd00:1::7/64"]


@pytest.mark.parametrize(
    ("ips", "message"),
    [
        (["10.9.9.9"], "failed to allocate all requested IPs: 10.9.9.9"),
        (["10.0.0.4", "10.0.0.5"], "failed to allocate all requested IPs: 10.0.0.5"),
        (["10.0.0.1"], "failed to allocate for range 0: requested ip 10.0.0.1 is subnet's gateway"),
    ],
)
def test_requested_in_vain(node, ips, message):
    """A request that cannot be met fails with the reference's message, and leases nothing."""
    assert node.fail("ADD", node.config(runtimeConfig={"ips": ips})) == (999, message, "")
    assert leases_in(node.folder) == {}


@pytest.mark.parametrize(
    ("ipam", "more", "code", "texts"),
    [
        ({"ranges": []}, {}, 7, ["no IP ranges specified", '"ipam.ranges"']),
        ({"ranges": [[]]}, {}, 7, ["invalid range set 0: empty range set"]),
        (
            {"subnet": "10.0.0.0/31"},
            {"isGateway": True},
            7,
            ["Network 10.0.0.0/31 too small to allocate from", '"ipam.subnet"', "at most /30", '"gateway"'],
        ),
        ({"subnet": "10.0.0.0/31"}, {"isDefaultGateway": True}, 7, ["Network 10.0.0.0/31 too small to allocate from"]),
        ({"subnet": "10.0.0.0/29", "routes": [{"dst": "::/0", "gw": "ff02::1"}]}, {}, 7, ['"ipam.routes[0].gw"']),
        (
            {"subnet": "10.0.0.0/29", "routes": [{"dst": "0.0.0.0/0", "gw": "224.0.0.1"}]},
            {},
            7,
            ["a multicast address"],
        ),
        ({"subnet": "10.0.0.0/29", "routes": [{}] * 4097}, {}, 7, ['"ipam.routes": expected at most 4096 routes, got']),
        (
            None,
            {"runtimeConfig": {"ips": ["10.0.0.2"] * 257}},
            7,
            ['"runtimeConfig.ips": expected at most 256 addresses, got 257'],
        ),
        ({"subnet": "10.0.0.0/29", "routes": [{}]}, {}, 7, ['"ipam.routes[0].dst"', "got nothing"]),
        ({"subnet": "10.0.0.0/29", "routes": [{"dst": "zz"}]}, {}, 7, ['"ipam.routes[0].dst"', '"zz"']),
        ({"subnet": "10.0.0.0/29", "routes": [{"dst": "::/0", "gw": "zz"}]}, {}, 7, ['"ipam.routes[0].gw"', '"zz"']),
        ({"subnet": "10.0.0.0/29", "routes": [{"dst": "::/0", "mtu": 1.5}]}, {}, 7, ['"ipam.routes[0].mtu"', "1.5"]),
        ({"subnet": "10.0.0.0/29", "resolvConf": "/no/such"}, {}, 7, ["open /no/such", '"ipam.resolvConf"']),
        ({"subnet": "10.0.0.0/29", "dataDir": 7}, {}, 7, ['"ipam.dataDir": expected a string, got 7']),
        ({"subnet": "10.0.0.0/29", "dataDir": "/a\0b"}, {}, 7, ['"ipam.dataDir": expected an absolute path']),
        ({"subnet": "10.0.0.0/29", "cooldown": -1}, {}, 7, ['"ipam.cooldown"', "at least 0", "-1"]),
        ({"subnet": "10.0.0.0/29", "cooldown": "1m"}, {}, 7, ['"ipam.cooldown"', '"1m"']),
        (None, {"runtimeConfig": {"ips": ["x"]}}, 7, ['"runtimeConfig.ips[0]"', '"x"']),
        (None, {"args": {"cni": {"ips": ["10.0.0.1/99"]}}}, 7, ['"args.cni.ips[0]"', '"10.0.0.1/99"']),
        (None, {"args": {"cni": {"ips": "10.0.0.1"}}}, 7, ['"args.cni.ips": expected a list of strings']),
    ],
)
def test_wrong_configurations(node, ipam, more, code, texts):
    """A wrong configuration fails before anything is touched, and names key and value."""
    got, message, details = node.fail("ADD", node.config(ipam, **more))
    assert got == code
    assert [text for text in texts if text not in f"{message} {details}"] == []
    assert not node.data_dir.exists()


def test_no_configuration_at_all(node):
    """A configuration without `ipam` is error 7."""
    assert node.fail("ADD", {**node.config(), "ipam": None})[:2] == (7, "IPAM config missing 'ipam' key")


def test_a_wrong_address_in_the_variables(node):
    """An invalid address in CNI_ARGS is error 4."""
    code, message, _ = node.fail("ADD", CNI_ARGS="IP=10.0.0")
    assert (code, '"IP"' in message, '"10.0.0"' in message) == (4, True, True)


def test_more_than_old_versions_can_say(node):
    """Two addresses of a family are refused before CNI 0.3.0."""
    config = node.config({"ranges": [[V4], [{"subnet": "10.1.0.0/29"}]]}, cniVersion="0.2.0")
    assert node.fail("ADD", config)[:2] == (7, "CNI version 0.2.0 does not support more than 1 address per family")


def test_resolvers(node, tmp_path):
    """`resolvConf` fills the result's dns."""
    (tmp_path / "resolv.conf").write_text("nameserver 10.0.0.1\nsearch a b\n")
    config = node.config({"ranges": [[V4]], "resolvConf": str(tmp_path / "resolv.conf")})
    assert node.succeed("ADD", config)["dns"] == {"nameservers": ["10.0.0.1"], "search": ["a", "b"]}


def test_exhausted(node):
    """A full range is error 999 with the reference's text."""
    for number in range(5):
        node.addresses(container_id=f"c{number}")
    text = "failed to allocate for range 0: no IP addresses available in range set: 10.0.0.1-10.0.0.6"
    assert node.fail("ADD") == (999, text, "every address is leased; GC releases those of pods that are gone")


def test_a_second_add(node):
    """An attachment does not get a second address."""
    node.addresses()
    text = "failed to allocate for range 0: 10.0.0.2 has been allocated to cid, duplicate allocation is not allowed"
    assert node.fail("ADD") == (999, text, "")
    assert list(leases_in(node.folder)) == ["10.0.0.2"]


def test_a_failed_add_keeps_what_was_held_before(node):
    """A failed ADD releases what it took, not what the attachment held before."""
    config = node.config({"ranges": [[V4], [V6]]}, runtimeConfig={"ips": ["10.0.0.5"]})
    node.addresses(config)
    again = node.config({"ranges": [[V4], [V6]]}, runtimeConfig={"ips": ["10.0.0.6"]})
    assert node.fail("ADD", again)[1].startswith("failed to allocate for range 1: fd00:1::2 has been allocated to cid")
    assert leases_in(node.folder) == dict.fromkeys(["10.0.0.5", "fd00:1::2"], b"cid\r\neth0")


def test_a_data_dir_that_is_a_file(node):
    """A dataDir that cannot be used is error 5, which names it."""
    node.data_dir.write_text("")
    code, message, details = node.fail("ADD")
    assert code == 5
    assert str(node.data_dir) in message + details


def test_files_of_an_add(node):
    """An ADD writes what the reference writes, into folders that only root may write."""
    node.addresses()
    assert leases_in(node.folder) == {"10.0.0.2": b"cid\r\neth0"}
    assert (node.folder / "last_reserved_ip.0").read_bytes() == b"10.0.0.2"
    assert stat.S_IMODE(node.folder.stat().st_mode) & 0o022 == 0


@pytest.mark.parametrize(
    ("subnet", "more", "pods"),
    [
        ("10.0.0.0/31", {}, ["10.0.0.0/31", "10.0.0.1/31"]),
        ("10.0.0.8/32", {}, ["10.0.0.8/32"]),
        ("fd00::/127", {}, ["fd00::/127", "fd00::1/127"]),
        ("fd00::8/128", {}, ["fd00::8/128"]),
        ("10.0.0.0/31", {"gateway": "10.0.0.0"}, ["10.0.0.1/31"]),
        ("fd00::/127", {"gateway": "fd00::1"}, ["fd00::/127"]),
        ("10.0.0.8/32", {"gateway": "169.254.1.1"}, ["10.0.0.8/32"]),
    ],
)
def test_small_subnets(node, subnet, more, pods):
    """All addresses of a /31, /32, /127 or /128 are for pods (RFC 3021, RFC 6164), except a configured gateway."""
    config = node.config({"subnet": subnet, **more}, isGateway=bool(more))
    results = [node.succeed("ADD", config, container_id=f"c{number}") for number in range(len(pods))]
    assert [result["ips"][0] for result in results] == [{"address": pod, **more} for pod in pods]
    assert node.fail("ADD", config, container_id="late")[0] == 999


@pytest.mark.parametrize(
    ("given", "masked"),
    [
        ("1100:200::1/24", "1100:200::/24"),
        ("fd00:2::1/64", "fd00:2::/64"),
        ("10.1.2.3/0", "0.0.0.0/0"),
        ("10.88.0.1/16", "10.88.0.0/16"),
        ("::ffff:10.88.0.1/112", "10.88.0.0/16"),
        ("fd00::1/128", "fd00::1/128"),
    ],
)
def test_routes_lose_bits_of_the_host(node, given, masked):
    """Host bits of a destination are cleared, for both IP versions."""
    config = node.config({"subnet": "10.0.0.0/29", "routes": [{"dst": given}]})
    assert node.succeed("ADD", config)["routes"] == [{"dst": masked}]
