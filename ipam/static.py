"""static: assigns the addresses in the configuration. It keeps no leases; uniqueness is up to the configuration."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from ipam.routes import parse_routes
from spec.addresses import canonical_cidr, canonical_ip, is_ipv6, network_of, why_no_gateway
from spec.config import Section, read_dns, require_at_most
from spec.errors import CNIError, Code
from spec.request import Request
from spec.result import IPConfig, Result
from spec.suite import Plugin
from spec.versions import at_least

_MOST = 256
_CIDR = 'expected an address with its prefix length, like "10.1.2.3/24"'


def add(request: Request) -> Result:
    """The configured addresses, routes and resolvers. Raises CNIError 4 or 7."""
    ipam = _ipam(request)
    return Result(ips=_addresses(request, ipam), routes=parse_routes(ipam), dns=read_dns(ipam.section("dns")))


def check(request: Request) -> None:
    """Raises CNIError 999 unless prevResult has every configured address with its gateway."""
    ipam = _ipam(request)
    result = request.conf.require_prev_result()
    # The calling plugin may have added a gateway where none is configured.
    found = {(ip.address, gateway) for ip in result.ips for gateway in ("", ip.gateway)}
    wrong = []
    for wanted in _addresses(request, ipam):
        if (wanted.address, wanted.gateway) not in found:
            gateway = f" with gateway {wanted.gateway}" if wanted.gateway else ""
            wrong.append(f"static: Failed to match addr {wanted.address}{gateway} on interface {request.ifname}")
    if wrong:
        raise CNIError(Code.INTERNAL, wrong[0], "; ".join(wrong[1:]))


def status(request: Request) -> None:
    """Raises CNIError 7 for a wrong configuration; there is nothing else to check."""
    ipam = _ipam(request)
    _addresses(request, ipam)
    parse_routes(ipam)
    read_dns(ipam.section("dns"))


def configured_subnets(section: Section) -> list[str]:
    """The addresses with prefix length in a network configuration, as written there. Raises CNIError 7."""
    replacing = section.section("runtimeConfig").strings("ips") or section.section("args").section("cni").strings("ips")
    configured = () if replacing else section.section("ipam").sections("addresses") or ()
    return list(replacing or [entry.string("address") for entry in configured])


def _ipam(request: Request) -> Section:
    section = request.conf.section
    if not section.has("ipam"):
        raise CNIError(Code.INVALID_NETWORK_CONFIG, "IPAM config missing 'ipam' key")
    return section.section("ipam")


def _addresses(request: Request, ipam: Section) -> tuple[IPConfig, ...]:
    """The addresses of runtimeConfig.ips, else of args.cni.ips, else of the configuration and CNI_ARGS."""
    section = request.conf.section
    ips = (
        _requested(section.section("runtimeConfig"))
        or _requested(section.section("args").section("cni"))
        or (*_configured(ipam), *_of_cni_args(request))
    )
    if not at_least(request.conf.cni_version, "0.3.0"):
        families = [is_ipv6(ip.address) for ip in ips]
        if len(set(families)) < len(families):
            message = f"CNI version {request.conf.cni_version} does not support more than 1 address per family"
            raise CNIError(Code.INVALID_NETWORK_CONFIG, message)
    return ips


def _configured(ipam: Section) -> Iterator[IPConfig]:
    require_at_most(ipam, "addresses", _MOST, "addresses")
    for entry in ipam.sections("addresses") or ():
        text, gateway = entry.string("address"), entry.string("gateway")
        message = f"the 'address' field is expected to be in CIDR notation, got: '{text}'"
        address = _read(canonical_cidr, text, message, f'"{entry.path_of("address")}": {_CIDR}')
        details = f'"{entry.path_of("gateway")}": expected an address of the family of {address}'
        if gateway:
            gateway = _read(canonical_ip, gateway, f"invalid gateway address: {gateway}", details)
            if is_ipv6(gateway) is not is_ipv6(address):
                raise CNIError(Code.INVALID_NETWORK_CONFIG, f"gateway {gateway} is of another family", details)
            if why := _why_no_gateway(gateway, address):
                raise CNIError(Code.INVALID_NETWORK_CONFIG, f"gateway {gateway} is {why}", details)
        yield IPConfig(address, gateway)


def _requested(place: Section) -> tuple[IPConfig, ...]:
    require_at_most(place, "ips", _MOST, "addresses")
    found = []
    for index, text in enumerate(place.strings("ips") or ()):
        message = f"an entry in the 'ips' field is NOT in CIDR notation, got: '{text}'"
        found.append(IPConfig(_read(canonical_cidr, text, message, f'"{place.path_of("ips")}[{index}]": {_CIDR}')))
    return tuple(found)


def _of_cni_args(request: Request) -> Iterator[IPConfig]:
    """The addresses of IP, each with the last address of GATEWAY in its subnet."""
    code = Code.INVALID_ENVIRONMENT
    gateways = [
        _read(canonical_ip, text, f"invalid gateway address: {text}", 'CNI_ARGS: "GATEWAY"', code)
        for text in _listed(request, "GATEWAY")
    ]
    for text in _listed(request, "IP"):
        message = f"the 'ip' field is expected to be in CIDR notation, got: '{text}'"
        ip = IPConfig(_read(canonical_cidr, text, message, f'CNI_ARGS: "IP": {_CIDR}', code))
        for gateway in gateways:
            if _contains(ip.address, gateway):
                ip = replace(ip, gateway=gateway)
        if ip.gateway and (why := _why_no_gateway(ip.gateway, ip.address)):
            raise CNIError(code, f"gateway {ip.gateway} is {why}", 'CNI_ARGS: "GATEWAY"')
        yield ip


def _why_no_gateway(gateway: str, cidr: str) -> str:
    is_own = gateway == cidr.partition("/")[0]
    return "the pod's own address" if is_own else why_no_gateway(gateway, cidr)


def _listed(request: Request, key: str) -> list[str]:
    text = request.args.get(key, "")
    found = [part.strip() for part in text.split(",")] if text else []
    if len(found) > _MOST:
        message = f'CNI_ARGS: "{key}": expected at most {_MOST} addresses, got {len(found)}'
        raise CNIError(Code.INVALID_ENVIRONMENT, message)
    return found


def _contains(cidr: str, address: str) -> bool:
    length = cidr.partition("/")[2]
    return is_ipv6(cidr) is is_ipv6(address) and network_of(f"{address}/{length}") == network_of(cidr)


def _read(
    read: Callable[[str], str], text: str, message: str, details: str, code: int = Code.INVALID_NETWORK_CONFIG
) -> str:
    try:
        return read(text)
    except ValueError:
        raise CNIError(code, message, details) from None


PLUGIN = Plugin(type="static", add=add, check=check, status=status, is_ipam=True)
