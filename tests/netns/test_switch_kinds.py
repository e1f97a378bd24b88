"""Leftovers of kinds that not every kernel has: found and taken away where it has them."""

import json
import sys

import pytest

from cli import exits
from tests.netns.node import Node
from tests.netns.switch_worlds import PREPARE
from tests.netns.test_switch import ALL, ENVIRONMENT, switch
from tests.netns.test_switch_find import find, make

pytestmark = pytest.mark.cold("no plugin is called")

KINDS = (
    ("kube-router", "link", "kube-dummy-if", "ip link add kube-dummy-if type dummy"),
    ("kindnet", "link", "knet-xfrm0", "ip link add knet-xfrm0 type xfrm dev wan0 if_id 1001"),
    ("kindnet", "routing", "state 192.0.2.1 192.0.2.9", "ip xfrm state add $between spi 1001 if_id 1001 $keys"),
    ("calico", "link", "wireguard.cali", "ip link add wireguard.cali type wireguard"),
    ("flannel", "link", "flannel0", "ip tuntap add flannel0 mode tun"),
    ("aws", "link", "vlan.eth.5", "ip link add vlan.eth.5 link wan0 type vlan id 5"),
)
"""Of which provider, what is left, and how it is made. No tunnels of IPIP: their module makes links everywhere."""

_VARIABLES = """
between="src 192.0.2.1 dst 192.0.2.9 proto esp"
key=0x00112233445566778899aabbccddeeff
keys="mode tunnel enc cbc(aes) $key auth hmac(sha1) ${key}00112233"
"""


def test_kinds_that_not_every_kernel_has(node: Node) -> None:
    """They are found, and gone afterwards."""
    make(node, PREPARE)
    lacking = [name for _, _, name, line in KINDS if node.run(["sh", "-c", _VARIABLES + line], check=False).returncode]
    if lacking:
        pytest.skip(f"kernel lacks what {', '.join(lacking)} needs")
    make(node, f"{_VARIABLES} ip xfrm state add $between spi 7 $keys")
    providers = sorted({provider for provider, *_ in KINDS})
    done = node.run([sys.executable, "-c", ALL, "command", *providers], env=ENVIRONMENT)
    left = {provider: {(kind, name) for one, kind, name, _ in KINDS if one == provider} for provider in providers}
    for provider, status, said, found in json.loads(done.stdout):
        assert (provider, status) == (provider, exits.OK), said
        left[provider] = set()
        assert {other: set(map(tuple, one)) for other, one in found.items()} == left, provider
    assert not {name for _, kind, name, _ in KINDS if kind == "link"} & set(node.links())
    assert "spi 0x00000007" in node.run(["ip", "xfrm", "state"]).stdout


PROGRAM = """
import ctypes, struct
from platform import machine
from linux.netlink.attributes import attribute, nested, number, text
from linux.netlink.socket import NLM_F_CREATE, NLM_F_EXCL, Netlink
from linux.rtnl import uapi
from linux.rtnl.links import find_link
from linux.rtnl.tc import _message

bpf = {"x86_64": 321, "aarch64": 280}[machine()]
# mov r0, 0; exit
code = ctypes.create_string_buffer(struct.pack("=BBhi", 0xB7, 0, 0, 0) + struct.pack("=BBhi", 0x95, 0, 0, 0))
rights = ctypes.create_string_buffer(b"GPL")
# union bpf_attr of BPF_PROG_LOAD: a program of type SCHED_CLS, its instructions, its license
load = struct.pack("=IIQQ", 3, 2, ctypes.addressof(code), ctypes.addressof(rights)).ljust(128, bytes(1))
program = ctypes.CDLL(None, use_errno=True).syscall(bpf, 5, load, len(load))
assert program >= 0, ctypes.get_errno()
with Netlink() as host:
    link = find_link(host, "wan0").index
    for name in ("cil_from_netdev-wan0", "of others"):
        options = (number(6, program), text(uapi.TCA_BPF_NAME, name), number(8, 1))  # TCA_BPF_FD, TCA_BPF_FLAGS
        message = _message(link, 0, uapi.TC_H_MIN_INGRESS_PARENT, "bpf", *options, info=0x0300)
        host.change(message, uapi.RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL)
"""


def test_a_program_on_a_link_of_others(node: Node) -> None:
    """Cilium's goes, another one stays."""
    make(node, PREPARE)
    if node.run(["tc", "qdisc", "add", "dev", "wan0", "clsact"], check=False).returncode:
        pytest.skip("kernel lacks clsact")
    node.run([sys.executable, "-c", PROGRAM], env=ENVIRONMENT)
    assert find(node)["each"]["cilium"] == [["filter", "wan0 cil_from_netdev-wan0"]]
    assert switch(node, "cilium", "--yes").returncode == exits.OK
    left = node.run(["tc", "filter", "show", "dev", "wan0", "ingress"]).stdout
    assert "of others" in left
    assert "cil_from_netdev" not in left
