"""Link names and MTUs in the configurations of all plugins that create links."""

from collections.abc import Iterable

from spec.addresses import is_ipv6
from spec.config import Section
from spec.errors import CNIError, Code
from spec.identifiers import is_link_name

_MTU_LOWEST, _MTU_HIGHEST = 68, 65535  # RFC 791, section 3.1; the kernel's limit for veth
_MTU_OF_IPV6 = 1280  # RFC 8200, section 5; the kernel disables IPv6 on a link with less


def link_name(section: Section, key: str, default: str) -> str:
    """The name of a link on the host; "" counts as absent. Raises CNIError 7."""
    name = section.string(key, default) or default
    if not is_link_name(name):
        raise section.error(key, "a link name: 1 to 15 bytes without /, :, % and white space; not ., .., all, default")
    return name


def mtu_of(section: Section) -> int:
    """`mtu` in bytes; 0 and less is the kernel's default, as in the reference plugins. Raises CNIError 7."""
    value = section.raw("mtu")
    if type(value) is int and value <= 0:
        return 0
    return section.integer("mtu", 0, low=_MTU_LOWEST, high=_MTU_HIGHEST)


def suits_ipv6(mtu: int) -> bool:
    """Whether a link with that MTU (in bytes, 0: the kernel's default) can have IPv6."""
    return mtu == 0 or mtu >= _MTU_OF_IPV6


def require_suitable_mtu(mtu: int, addresses: Iterable[str], *, of: str = '"mtu"') -> None:
    """Raises CNIError 7 if an MTU in bytes (0: the kernel's default) is too small for one of the addresses."""
    needs_more = "" if suits_ipv6(mtu) else next(filter(is_ipv6, addresses), "")
    if needs_more:
        message = f"{of}: expected at least {_MTU_OF_IPV6}, which IPv6 ({needs_more}) needs, got {mtu}"
        raise CNIError(Code.INVALID_NETWORK_CONFIG, message)
