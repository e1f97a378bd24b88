"""static: the configured addresses, and what it refuses."""

import io

import pytest

from ipam import static
from spec.addresses import canonical_ip
from spec.config import NetConf, Section
from spec.errors import CNIError
from spec.plugin import NO_SUITE, Plugin
from spec.request import Request
from spec.result import DNS, IPConfig, Result, Route
from tests.pure.test_docs import asked, compare, documented

ONE = {"address": "10.0.0.2/24", "gateway": "10.0.0.1"}


def request(ipam: dict | None, version: str = "1.1.0", cni_args: dict | None = None, **keys: object) -> Request:
    """A request with this ipam section, these CNI_ARGS and further keys."""
    raw = {
        "cniVersion": version,
        "name": "net",
        "type": "bridge",
        **({"ipam": ipam} if ipam is not None else {}),
        **keys,
    }
    fields = {"verb": "ADD", "container_id": "pod", "netns": "/n", "ifname": "eth0", "path": (), "environ": {}}
    conf = NetConf.parse(Section(raw))
    return Request(**fields, args=cni_args or {}, conf=conf, stdin=b"", suite=NO_SUITE, stderr=io.StringIO())


def ips(*args: object, **keys: object) -> list[tuple[str, str]]:
    """Addresses and gateways of an ADD."""
    return [(ip.address, ip.gateway) for ip in static.add(request(*args, **keys)).ips]


def refusal(*args: object, **keys: object) -> CNIError:
    """The error of an ADD, which is also that of STATUS."""
    with pytest.raises(CNIError) as caught:
        static.add(request(*args, **keys))
    return caught.value


def test_everything_is_returned() -> None:
    """Addresses with host bits kept and written canonically, gateways, routes with attributes, resolvers."""
    ipam = {
        "addresses": [ONE, {"address": "FD00:0::2/64", "gateway": "fd00::1"}, {"address": "10.7.0.9/16"}],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "fd09::/16", "gw": "fd00::9", "mtu": 1300, "priority": 7}],
        "dns": {"nameservers": ["192.0.2.53"], "domain": "a.b", "search": ["c"], "options": ["d"]},
    }
    assert static.add(request(ipam)) == Result(
        ips=(IPConfig("10.0.0.2/24", "10.0.0.1"), IPConfig("fd00::2/64", "fd00::1"), IPConfig("10.7.0.9/16")),
        routes=(Route("0.0.0.0/0"), Route("fd09::/16", "fd00::9", mtu=1300, priority=7)),
        dns=DNS(("192.0.2.53",), "a.b", ("c",), ("d",)),
    )


def test_no_address_is_an_answer() -> None:
    """Since 0.3.0 a result may have no addresses; the calling plugin decides whether it accepts that."""
    assert static.add(request({})) == Result()


def test_where_addresses_come_from() -> None:
    """runtimeConfig replaces all others, else args.cni does; CNI_ARGS follow the configuration."""
    args = {"IP": "10.0.0.3/24,10.5.0.3/24", "GATEWAY": "10.5.0.1,fd00::1"}
    by_args, by_runtime = {"args": {"cni": {"ips": ["10.0.0.4/24"]}}}, {"runtimeConfig": {"ips": ["10.0.0.5/24"]}}
    ipam = {"addresses": [ONE]}
    own = [("10.0.0.2/24", "10.0.0.1"), ("10.0.0.3/24", ""), ("10.5.0.3/24", "10.5.0.1")]
    assert ips(ipam, cni_args=args) == own
    assert ips(ipam, cni_args={"IP": "", "GATEWAY": ""}, runtimeConfig={"ips": []}) == own[:1]
    assert static.add(request(ipam, **by_args)).ips == (IPConfig("10.0.0.4/24"),)
    assert static.add(request(ipam, **by_args, **by_runtime)).ips == (IPConfig("10.0.0.5/24"),)


def test_gateway_of_cni_args_is_for_its_addresses_alone() -> None:
    """GATEWAY does not apply to configured addresses; of two in a subnet the last one counts."""
    ipam = {"addresses": [{"address": "10.0.0.2/24"}]}
    args = {"IP": "10.0.0.3/24", "GATEWAY": "10.0.0.1,10.0.0.254"}
    assert ips(ipam, cni_args=args) == [("10.0.0.2/24", ""), ("10.0.0.3/24", "10.0.0.254")]


@pytest.mark.parametrize(
    ("ipam", "keys", "code", "message"),
    [
        (None, {}, 7, "IPAM config missing 'ipam' key"),
        ({"addresses": [{}]}, {}, 7, "the 'address' field is expected to be in CIDR notation, got: ''"),
        (
            {"addresses": [{"address": "10.0.0.2"}]},
            {},
            7,
            "the 'address' field is expected to be in CIDR notation, got: '10.0.0.2'",
        ),
        ({"addresses": [ONE | {"gateway": "zz"}]}, {}, 7, "invalid gateway address: zz"),
        ({"addresses": [ONE | {"gateway": "fd00::1"}]}, {}, 7, "gateway fd00::1 is of another family"),
        ({"addresses": {}}, {}, 7, '"ipam.addresses": expected a list of objects'),
        ({"addresses": [ONE] * 257}, {}, 7, '"ipam.addresses": expected at most 256 addresses, got 257'),
        ({"routes": [{"dst": "x"}]}, {}, 7, '"ipam.routes[0].dst"'),
        ({"dns": {"search": "x"}}, {}, 7, '"ipam.dns.search": expected a list of strings'),
        (
            {},
            {"args": {"cni": {"ips": ["10.0.0.4"]}}},
            7,
            "an entry in the 'ips' field is NOT in CIDR notation, got: '10.0.0.4'",
        ),
        ({}, {"runtimeConfig": {"ips": ["x"]}}, 7, "an entry in the 'ips' field is NOT in CIDR notation, got: 'x'"),
    ],
)
def test_bad_configuration_is_named(ipam: dict | None, keys: dict, code: int, message: str) -> None:
    """Wrong values are error 7, in an ADD and for STATUS."""
    made = request(ipam, **keys)
    for verb in (static.add, static.status):
        with pytest.raises(CNIError) as caught:
            verb(made)
        assert caught.value.code == code
        assert message in caught.value.msg


@pytest.mark.parametrize(
    "addresses",
    [[{"gateway": "10.10.5.1"}], [{"address": ""}], [{"address": "dummy"}], [{}], "dummy", [ONE | {"gateway": "zz"}]],
)
@pytest.mark.parametrize("place", ["runtimeConfig", "args"])
def test_what_is_replaced_is_not_looked_at(addresses: object, place: str) -> None:
    """Addresses of the runtime or of args.cni replace `addresses` and CNI_ARGS."""
    keys = {"runtimeConfig": {"ips": ["10.10.5.29/24"]}} if place == "runtimeConfig" else {}
    keys |= {"args": {"cni": {"ips": ["10.10.5.29/24"] if place == "args" else ["dummy"]}}}
    made = request({"addresses": addresses}, cni_args={"IP": "dummy", "GATEWAY": "dummy"}, **keys)
    assert static.add(made).ips == (IPConfig("10.10.5.29/24"),)
    static.status(made)
    prev = {"cniVersion": "1.1.0", "ips": [{"address": "10.10.5.29/24"}]}
    static.check(request({"addresses": addresses}, cni_args={"IP": "dummy"}, prevResult=prev, **keys))


@pytest.mark.parametrize(
    ("address", "gateway", "why"),
    [
        ("10.0.0.2/24", "0.0.0.0", "the unspecified address"),
        ("fd00::2/64", "::", "the unspecified address"),
        ("10.0.0.2/24", "10.0.0.2", "the pod's own address"),
        ("fd00::2/64", "fd00:0::2", "the pod's own address"),
        ("10.0.0.2/24", "10.0.0.0", "the address of the subnet itself"),
        ("10.0.0.2/24", "10.0.0.255", "the broadcast address of the subnet"),
        ("10.0.0.2/24", "239.1.1.1", "a multicast address"),
        ("fd00::2/64", "ff05::2", "a multicast address"),
    ],
)
def test_gateways_that_can_not_be(address: str, gateway: str, why: str) -> None:
    """An address that no router can have is error 7 as `gateway`, and error 4 as GATEWAY where it is for an address."""
    error = refusal({"addresses": [{"address": address, "gateway": gateway}]})
    assert (error.code, error.msg) == (7, f"gateway {canonical_ip(gateway)} is {why}")
    if why.endswith(("subnet", "itself", "own address")):
        assert refusal({}, cni_args={"IP": address, "GATEWAY": gateway}).code == 4


@pytest.mark.parametrize("gateway", ["10.0.0.0", "10.0.0.1"])
def test_both_addresses_of_a_point_to_point_link_can_be_the_gateway(gateway: str) -> None:
    """A /31 has neither a network address nor a broadcast address (RFC 3021)."""
    address = "10.0.0.1/31" if gateway == "10.0.0.0" else "10.0.0.0/31"
    assert ips({"addresses": [{"address": address, "gateway": gateway}]}) == [(address, gateway)]


@pytest.mark.parametrize("args", [{"IP": "10.0.0.3"}, {"IP": "10.0.0.3/24,"}, {"GATEWAY": "zz"}])
def test_bad_cni_args_are_a_bad_variable(args: dict) -> None:
    """Wrong values in CNI_ARGS are error 4."""
    assert refusal({}, cni_args=args).code == 4


@pytest.mark.parametrize("key", ["IP", "GATEWAY"])
def test_cni_args_have_so_many_addresses_at_most(key: str) -> None:
    """More are refused by their number, before they are compared."""
    error = refusal({}, cni_args={key: ",".join(["10.0.0.3/24"] * 257)})
    assert (error.code, error.msg) == (4, f'CNI_ARGS: "{key}": expected at most 256 addresses, got 257')


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_old_versions_know_one_address_a_family(version: str) -> None:
    """More are an error rather than dropped silently; one of each IP version is fine."""
    two = {"addresses": [ONE, {"address": "fd00::2/64"}]}
    assert len(static.add(request(two, version)).ips) == 2
    error = refusal({"addresses": [ONE, {"address": "10.1.0.2/24"}]}, version)
    assert error.msg == f"CNI version {version} does not support more than 1 address per family"


def check(ipam: dict, *found: dict) -> None:
    """CHECK of this section against a result with these addresses."""
    static.check(request(ipam, prevResult={"cniVersion": "1.1.0", "ips": list(found)}))


def test_check() -> None:
    """Every address with its gateway is in prevResult; more may be, and a gateway where none is configured."""
    ipam = {"addresses": [ONE, {"address": "10.7.0.9/16"}]}
    found = ({"address": "10.7.0.9/16", "gateway": "10.7.0.1"}, {"address": "10.8.0.9/16"})
    check(ipam, ONE, *found)
    for wrong in ({"address": "10.0.0.2/25", "gateway": "10.0.0.1"}, {"address": "10.0.0.2/24", "gateway": "10.0.0.9"}):
        with pytest.raises(CNIError, match="Failed to match addr 10.0.0.2/24 with gateway 10.0.0.1"):
            check(ipam, wrong, *found)
    with pytest.raises(CNIError, match=r"10.0.0.2/24.*10.7.0.9/16"):
        check(ipam)
    with pytest.raises(CNIError, match="Required prevResult missing"):
        static.check(request(ipam))


def test_every_key_is_documented_and_every_documented_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/static.md and the common keys are the keys that an ADD, a CHECK and a GC ask for."""
    ips = [{"address": "10.0.0.2/24", "gateway": "10.0.0.1"}]
    ipam = {"addresses": ips, "routes": [{"dst": "10.9.0.0/16"}], "dns": {}}
    conf = {"cniVersion": "1.1.0", "name": "net", "ipam": ipam, "prevResult": {"cniVersion": "1.1.0", "ips": ips}}
    found = asked(static.PLUGIN, conf, monkeypatch, "ADD", "CHECK", "DEL", "STATUS")
    for key in ("cni.dev/attachments", "cni.dev/valid-attachments"):
        more = conf | {key: [{"containerID": "pod", "ifname": "eth0"}]}
        found |= asked(Plugin("static", gc=lambda request: request.valid_attachments), more, monkeypatch, "GC")
    found = {key: kind for key, kind in found.items() if not key.startswith("cni.dev/attachments[")}
    compare(found, documented("static.md") | documented("protocol.md"))
