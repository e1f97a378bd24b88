"""The configuration of host-local besides ranges and routes: requested addresses, resolvers."""

from collections.abc import Iterator, Mapping

from ipam.resolvconf import parse_resolvconf
from spec.addresses import Address, parse_address, parse_ip
from spec.config import Section, absolute_path, require_at_most, wrong_value
from spec.errors import CNIError, Code, code_of
from spec.result import DNS
from state.files import read_file

_MOST = 256
_ADDRESS = 'an address like "10.1.2.3" or "10.1.2.3/24"'


def parse_requested(config: Section, args: Mapping[str, str]) -> tuple[Address, ...]:
    """The requested addresses: of CNI_ARGS, `args.cni.ips` and `runtimeConfig.ips`, in this order.

    Raises CNIError 4 or 7.
    """
    found = []
    if text := args.get("IP", ""):
        try:
            found.append(_parse_address(text))
        except ValueError as error:
            message = f'ARGS: "IP": expected {_ADDRESS}, got "{text}"'
            raise CNIError(Code.INVALID_ENVIRONMENT, message, str(error)) from error
    for section in (config.section("args").section("cni"), config.section("runtimeConfig")):
        require_at_most(section, "ips", _MOST, "addresses")
        for where, text in _strings(section, "ips"):
            try:
                found.append(_parse_address(text))
            except ValueError as error:
                raise wrong_value(where, _ADDRESS, text) from error
    return tuple(found)


def read_dns(ipam: Section) -> DNS:
    """The content of the `resolvConf` file; empty without that key. Raises CNIError 7 if it cannot be read."""
    path = absolute_path(ipam, "resolvConf")
    if not path:
        return DNS()
    try:
        return parse_resolvconf(read_file(path).decode(errors="replace"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        expected = ipam.error("resolvConf", "the path of a readable file").msg
        raise CNIError(code_of(error, Code.INVALID_NETWORK_CONFIG), f"open {path}: {reason}", expected) from error


def _parse_address(text: str) -> Address:
    return parse_ip(str(parse_address(text)))


def _strings(section: Section, key: str) -> Iterator[tuple[str, str]]:
    return ((f"{section.path_of(key)}[{index}]", text) for index, text in enumerate(section.strings(key) or ()))
