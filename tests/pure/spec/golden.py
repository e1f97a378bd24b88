"""A dual-stack result and its JSON in every version, key order included (observed on the reference, v1.9.1)."""

from spec.result import DNS, Interface, IPConfig, Result, Route

FULL = Result(
    interfaces=(
        Interface("cni0", "0a:00:00:00:00:01"),
        Interface("eth0", "0a:00:00:00:00:02", "/run/netns/c1", mtu=1400, socket_path="/run/s", pci_id="0000:00:1f.6"),
    ),
    ips=(
        IPConfig("10.1.2.2/24", "10.1.2.1", 0),
        IPConfig("fd00:1::2/64", "fd00:1::1", 1),
        IPConfig("10.1.3.2/24"),
    ),
    routes=(
        Route("10.9.0.0/16", mtu=1300, advmss=1200, priority=7, table=0, scope=0),
        Route("0.0.0.0/0", "10.1.2.1"),
        Route("::/0", "fd00:1::1"),
    ),
    dns=DNS(("1.1.1.1",), "example.org", ("a", "b"), ("ndots:2",)),
)

_BY_FAMILY = """{"cniVersion":"%s","ip4":{"ip":"10.1.2.2/24","gateway":"10.1.2.1","routes":[{"dst":"10.9.0.0/16"},\
{"dst":"0.0.0.0/0","gw":"10.1.2.1"}]},"ip6":{"ip":"fd00:1::2/64","gateway":"fd00:1::1",\
"routes":[{"dst":"::/0","gw":"fd00:1::1"}]},\
"dns":{"nameservers":["1.1.1.1"],"domain":"example.org","search":["a","b"],"options":["ndots:2"]}}"""

_WITH_VERSIONS = """{"cniVersion":"%s","interfaces":[{"name":"cni0","mac":"0a:00:00:00:00:01"},\
{"name":"eth0","mac":"0a:00:00:00:00:02","sandbox":"/run/netns/c1"}],\
"ips":[{"version":"4","interface":0,"address":"10.1.2.2/24","gateway":"10.1.2.1"},\
{"version":"6","interface":1,"address":"fd00:1::2/64","gateway":"fd00:1::1"},{"version":"4","address":"10.1.3.2/24"}],\
"routes":[{"dst":"10.9.0.0/16","mtu":1300,"advmss":1200,"priority":7,"table":0,"scope":0},\
{"dst":"0.0.0.0/0","gw":"10.1.2.1"},{"dst":"::/0","gw":"fd00:1::1"}],\
"dns":{"nameservers":["1.1.1.1"],"domain":"example.org","search":["a","b"],"options":["ndots:2"]}}"""

_CURRENT = """{"cniVersion":"%s",\
"dns":{"domain":"example.org","nameservers":["1.1.1.1"],"options":["ndots:2"],"search":["a","b"]},\
"interfaces":[{"mac":"0a:00:00:00:00:01","name":"cni0"},{"mac":"0a:00:00:00:00:02","mtu":1400,"name":"eth0",\
"pciID":"0000:00:1f.6","sandbox":"/run/netns/c1","socketPath":"/run/s"}],\
"ips":[{"address":"10.1.2.2/24","gateway":"10.1.2.1","interface":0},\
{"address":"fd00:1::2/64","gateway":"fd00:1::1","interface":1},{"address":"10.1.3.2/24"}],\
"routes":[{"advmss":1200,"dst":"10.9.0.0/16","mtu":1300,"priority":7,"scope":0,"table":0},\
{"dst":"0.0.0.0/0","gw":"10.1.2.1"},{"dst":"::/0","gw":"fd00:1::1"}]}"""

COMPACT = {
    version: text % version
    for text, versions in (
        (_BY_FAMILY, ("0.1.0", "0.2.0")),
        (_WITH_VERSIONS, ("0.3.0", "0.3.1", "0.4.0")),
        (_CURRENT, ("1.0.0", "1.1.0")),
    )
    for version in versions
}
