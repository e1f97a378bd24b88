"""resolv.conf as a Result's dns."""

import pytest

from ipam.resolvconf import parse_resolvconf
from spec.result import DNS


@pytest.mark.parametrize(
    ("text", "dns"),
    [
        ("", DNS()),
        ("nameserver 1.1.1.1 2.2.2.2\nnameserver\t8.8.8.8\n", DNS(nameservers=("1.1.1.1", "8.8.8.8"))),
        ("domain a\ndomain b\n", DNS(domain="b")),
        ("search a b\nsearch c", DNS(search=("a", "b", "c"))),
        ("options ndots:5 rotate\n  options timeout:1", DNS(options=("ndots:5", "rotate", "timeout:1"))),
        ("# nameserver 1.1.1.1\n;domain x\n#\n", DNS()),
        ("nameserver\ndomain\n\n   \nsortlist 1.1.1.1\n", DNS()),
    ],
)
def test_lines(text, dns):
    """One nameserver a line, the last domain, all search and options; comments and incomplete lines are ignored."""
    assert parse_resolvconf(text) == dns
