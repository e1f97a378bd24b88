"""host-local: leases addresses of configured ranges on this node, and keeps the leases in files.

Modules that a DEL does not need are imported where they are used.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from ipam.store import LeaseStore
from spec.config import Section, absolute_path, read_version
from spec.errors import CNIError, Code, code_of
from spec.request import Request
from spec.result import IPConfig, Result
from spec.suite import Plugin

DATA_DIR = "/var/lib/cni/networks"
_AVAILABLE, _UNAVAILABLE = "available", "unavailable"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipam.ranges import RangeSet


def add(request: Request) -> Result:
    """Lease an address of each range set. Raises CNIError, with nothing leased by this call."""
    from ipam.allocator import allocate
    from ipam.config import parse_requested, read_dns
    from ipam.routes import parse_routes

    ipam = _ipam(request)
    range_sets = _range_sets(request)
    requested = parse_requested(request.conf.section, request.args)
    routes = ipam.derive(parse_routes)
    dns = read_dns(ipam)
    store = _store(ipam, request.conf.name)
    with _translate_errors(store):
        store.create()
        with store.locked(writable=True) as leases:
            grants = allocate(range_sets, requested, request.attachment, leases)
    ips = tuple(IPConfig(address=grant.cidr, gateway=grant.gateway) for grant in grants)
    return Result(ips=ips, routes=routes, dns=dns)


def delete(request: Request) -> None:
    """Release the leases of the attachment. Raises CNIError 5 or 11.

    Only the location of the leases is read from the configuration.
    """
    store = _store_to_clean(request)
    with _translate_errors(store):
        if store.exists():
            with store.locked(writable=True) as leases:
                leases.release(request.attachment)


def check(request: Request) -> None:
    """Raises CNIError 999 unless the attachment has a lease, and all addresses of prevResult that are in our ranges."""
    from ipam.ranges import membership
    from spec.addresses import parse_ip

    ipam = _ipam(request)
    is_ours = membership(_range_sets(request))
    prev_result = request.conf.prev_result
    expected = [str(parse_ip(ip.address.partition("/")[0])) for ip in prev_result.ips] if prev_result else []
    ours = [text for text in expected if is_ours(parse_ip(text))]
    store = _store(ipam, request.conf.name)
    held: tuple[str, ...] = ()
    with _translate_errors(store):
        if store.exists():
            with store.locked(writable=False) as leases:
                held = leases.held_by(request.attachment)
    missing = sorted(set(ours).difference(held))
    if missing or not held:
        message = f"host-local: Failed to find address added by container {request.container_id}"
        details = f"{', '.join(missing)}: not leased to {request.container_id} {request.ifname}" if missing else ""
        raise CNIError(Code.INTERNAL, message, details)


def gc(request: Request) -> None:
    """Release all leases of the network except those of `cni.dev/valid-attachments`. Raises CNIError 5, 7 or 11."""
    valid = request.valid_attachments
    store = _store_to_clean(request)
    with _translate_errors(store):
        if store.exists():
            with store.locked(writable=True) as leases:
                leases.retain(valid)


def status(request: Request) -> None:
    """Raises CNIError 50 if leases cannot be written, 7 for a wrong configuration.

    A full range set is an error only if `statusWhenFull` is "unavailable": the runtime reports the whole node as not
    ready then, and Kubernetes evicts its pods.
    """
    from ipam.allocator import is_exhausted

    ipam = _ipam(request)
    range_sets = _range_sets(request)
    store = _store(ipam, request.conf.name)
    when_full = _status_when_full(ipam)
    _require_writable(store.folder)
    with _translate_errors(store):
        if not store.exists():
            return
        with store.locked(writable=False) as leases:
            full = [(number, ranges) for number, ranges in enumerate(range_sets) if is_exhausted(ranges, leases)]
    for number, ranges in full:
        text = f"no IP addresses available in range set: {ranges}"
        details = f"range set {number} of {request.conf.name}"
        if when_full == _UNAVAILABLE:
            raise CNIError(Code.PLUGIN_NOT_AVAILABLE, text, details)
        request.log(f"host-local: {text}: {details}")


def check_section(section: Section) -> None:
    """Check the keys in a network's configuration; the files that it names are not read. Raises CNIError 7."""
    from ipam.routes import parse_routes

    ipam = section.section("ipam")
    ipam.string("type")
    _read_range_sets(section)
    parse_routes(ipam)
    absolute_path(ipam, "resolvConf")
    _store(ipam, "")
    _status_when_full(ipam)


def configured_subnets(section: Section) -> list[str]:
    """The subnets in a network configuration, as written there. Raises CNIError 7."""
    ipam, runtime = section.section("ipam"), section.section("runtimeConfig")
    ranges = [each for group in (*(runtime.groups("ipRanges") or ()), *(ipam.groups("ranges") or ())) for each in group]
    return [each.string("subnet") for each in (ipam, *ranges)]


def leased(request: Request) -> tuple[str, ...]:
    """All leased addresses of the network, for plugins that build on this one. Raises CNIError 5 or 11."""
    store = _store_to_clean(request)
    with _translate_errors(store):
        if not store.exists():
            return ()
        with store.locked(writable=False) as leases:
            return leases.taken()


def _ipam(request: Request) -> Section:
    section = request.conf.section
    if not section.has("ipam"):
        raise CNIError(Code.INVALID_NETWORK_CONFIG, "IPAM config missing 'ipam' key")
    return section.section("ipam")


def _range_sets(request: Request) -> "tuple[RangeSet, ...]":
    return request.conf.section.derive(_read_range_sets)


def _read_range_sets(section: Section) -> "tuple[RangeSet, ...]":
    from ipam.ranges import parse_range_sets
    from spec.versions import at_least

    return parse_range_sets(
        section,
        one_per_family=not at_least(read_version(section), "0.3.0"),
        needs_gateway=True in (section.raw("isGateway"), section.raw("isDefaultGateway")),
    )


def _status_when_full(ipam: Section) -> str:
    return ipam.string("statusWhenFull", _AVAILABLE, choices=(_AVAILABLE, _UNAVAILABLE))


def _store(ipam: Section, network: str) -> LeaseStore:
    folder = os.path.join(absolute_path(ipam, "dataDir") or DATA_DIR, network)
    return LeaseStore(folder, cooldown=ipam.integer("cooldown", 0, low=0))


def _store_to_clean(request: Request) -> LeaseStore:
    """The store for DEL and GC. Wrong values are logged and ignored, so that leases can always be released."""
    values: dict[str, object] = {}
    section = request.conf.section
    try:
        ipam = section.section("ipam")
    except CNIError:
        ipam = Section({})
    for key, read in (("dataDir", partial(absolute_path, ipam)), ("cooldown", partial(ipam.integer, low=0))):
        try:
            values[key] = read(key)
        except CNIError as error:
            request.log(f"host-local: {error}")
    return _store(Section(values), request.conf.name)


def _require_writable(folder: str) -> None:
    existing = folder
    while not os.path.exists(existing) and existing not in ("", "/"):
        existing = os.path.dirname(existing)
    if not os.access(existing or ".", os.W_OK | os.X_OK):
        raise CNIError(Code.PLUGIN_NOT_AVAILABLE, "the leases cannot be written", existing)


@contextmanager
def _translate_errors(store: LeaseStore) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename2 or error.filename or store.folder
        message = f"the leases in {store.folder} cannot be used: {error.strerror}"
        raise CNIError(code_of(error, Code.IO_FAILURE), message, str(where)) from error


PLUGIN = Plugin(type="host-local", add=add, delete=delete, check=check, gc=gc, status=status, is_ipam=True)
