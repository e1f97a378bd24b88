"""Names and MTUs of links in configurations, as every plugin that makes links reads them."""

from spec.config import Section
from spec.identifiers import is_link_name

_MTU_LOWEST, _MTU_HIGHEST = 68, 65535  # RFC 791, section 3.1; the kernel's limit for veth


def link_name(section: Section, key: str, default: str) -> str:
    """The name of a link of the host; "" counts as absent. Raises CNIError 7."""
    name = section.string(key, default) or default
    if not is_link_name(name):
        raise section.error(key, "a link name: 1 to 15 bytes without /, :, % and white space; not ., .., all, default")
    return name


def mtu_of(section: Section) -> int:
    """`mtu` in bytes; 0 and negative numbers leave it to the kernel, as they do in the reference plugins."""
    value = section.raw("mtu")
    if type(value) is int and value <= 0:
        return 0
    return section.integer("mtu", 0, low=_MTU_LOWEST, high=_MTU_HIGHEST)
