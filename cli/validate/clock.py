"""The clock: leases of registries, certificates and the age of records depend on it."""

from collections.abc import Iterable, Iterator
from ctypes import CDLL, create_string_buffer

from cli.validate.findings import Finding, ok, warning
from cli.validate.node import Facts

_TIMEX_BYTES = 256  # struct timex has 208; its first member, modes, is 0: only read
_ERROR = 5  # TIME_ERROR of adjtimex(2): not synchronised


def check(_facts: Facts) -> Iterable[Finding]:
    """The kernel's clock is synchronised."""
    return judge(CDLL(None).adjtimex(create_string_buffer(_TIMEX_BYTES)))


def judge(state: int) -> Iterator[Finding]:
    """`state`: what adjtimex(2) returns."""
    if state < 0:
        yield warning("could not be read")
    elif state == _ERROR:
        yield warning("nothing synchronises the clock, as far as the kernel knows", "timedatectl set-ntp true")
    else:
        yield ok("it is synchronised")
