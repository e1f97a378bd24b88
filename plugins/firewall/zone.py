"""`firewall` with firewalld: only a zone can accept the pods' traffic, so their addresses become its sources."""

from collections.abc import Collection

from linux.errors import step
from linux.firewalld import Firewalld, FirewalldError, is_running, source_of
from plugins.failures import Undo
from plugins.firewall.conf import FirewallConf
from rules import firewall
from spec.errors import CNIError, Code
from spec.request import Request

_BUS = "DBUS_SYSTEM_BUS_ADDRESS"
_CONFLICT = "ZONE_CONFLICT"
_ANY_SOURCE = "192.0.2.1/32"  # for documentation (RFC 5737)


def is_needed(request: Request, conf: FirewallConf) -> bool:
    """Whether firewalld decides: the backend is firewalld, or none is given and firewalld runs.

    Raises CNIError 11 if it decides and cannot be reached.
    """
    if conf.backend in ("iptables", "nftables"):
        return False
    if is_running(_bus(request)):
        return True
    if conf.backend == "firewalld":
        raise CNIError(Code.TRY_AGAIN_LATER, "firewalld is not on the system bus", '"backend" is "firewalld"')
    with step("find firewalld's rules"):
        if firewall.is_firewalld_active():
            details = 'start firewalld, or delete its rules; another "backend" alone does not make them accept pods'
            message = "firewalld's rules filter packets (table inet firewalld), but it is not on the system bus"
            raise CNIError(Code.TRY_AGAIN_LATER, message, details)
    return False


def trust(request: Request, conf: FirewallConf, addresses: Collection[bytes], undo: Undo) -> None:
    """Add the addresses to the zone, so that it accepts their traffic. Raises CNIError."""
    with step("add the pod's addresses to firewalld's zone"), Firewalld(_bus(request)) as firewalld:
        for address in addresses:
            source = source_of(address)
            try:
                if firewalld.add(conf.zone, source):
                    undo.callback(_remove, request, conf.zone, [source])
            except FirewalldError as error:
                _raise_if_unknown(request, conf, error)
                if error.kind != _CONFLICT:
                    raise
                if address not in firewall.owned([address]):
                    raise _conflict(source, firewalld.zone_of(source)) from error
                # An earlier ADD put it there, of this pod or of a dead one: IPAM has given us the address.
                before = firewalld.move(conf.zone, source)
                undo.callback(_move, request, before, source)


def distrust(request: Request, zone: str, addresses: Collection[bytes]) -> None:
    """Remove the addresses from the zone. Raises CNIError."""
    if addresses:
        with step("remove the pod's addresses from firewalld's zone"):
            _remove(request, zone, [source_of(address) for address in sorted(addresses)])


def runs(request: Request) -> bool:
    """Whether firewalld runs."""
    return is_running(_bus(request))


def missing(request: Request, conf: FirewallConf, addresses: Collection[bytes]) -> list[str]:
    """A sentence for each address that the zone lacks. Raises CNIError."""
    with step("query firewalld for the pod's addresses"), Firewalld(_bus(request)) as firewalld:
        sources = [source_of(address) for address in addresses]
        return [
            f'firewalld\'s zone "{conf.zone}" does not have the source {source} (firewall-cmd --reload removes it)'
            for source in sources
            if not firewalld.has(conf.zone, source)
        ]


def require_zone(request: Request, conf: FirewallConf) -> None:
    """Raises CNIError 7 if firewalld has no such zone."""
    with step("query firewalld for its zone"), Firewalld(_bus(request)) as firewalld:
        try:
            firewalld.has(conf.zone, _ANY_SOURCE)
        except FirewalldError as error:
            _raise_if_unknown(request, conf, error)
            raise


def _raise_if_unknown(request: Request, conf: FirewallConf, error: FirewalldError) -> None:
    """Raises CNIError 7 if the error is that the zone does not exist."""
    if error.kind == "INVALID_ZONE":
        expected = f'a zone that firewalld has (it has no "{conf.zone}": firewall-cmd --get-zones)'
        raise request.conf.section.error("firewalldZone", expected) from error


def _conflict(source: str, holder: str) -> CNIError:
    details = f"to remove it: firewall-cmd --zone={holder} --remove-source={source}"
    return CNIError(Code.INTERNAL, f'{source} is a source of firewalld\'s zone "{holder}" already', details)


def _remove(request: Request, zone: str, sources: Collection[str]) -> None:
    with Firewalld(_bus(request)) as firewalld:
        for source in sources:
            firewalld.remove(zone, source)


def _move(request: Request, zone: str, source: str) -> None:
    with Firewalld(_bus(request)) as firewalld:
        firewalld.move(zone, source)


def _bus(request: Request) -> str:
    return request.environ.get(_BUS, "")
