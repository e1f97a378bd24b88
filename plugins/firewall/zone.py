"""`firewall` beside firewalld: what comes from pods is let through by a zone, for nothing else can let it through."""

from collections.abc import Collection

from linux.errors import step
from linux.firewalld import Firewalld, FirewalldError, is_running, source_of
from plugins.firewall.conf import FirewallConf
from plugins.undo import Undo
from rules import firewall
from spec.errors import CNIError, Code
from spec.request import Request

_BUS = "DBUS_SYSTEM_BUS_ADDRESS"
_CONFLICT = "ZONE_CONFLICT"
_ANY_SOURCE = "192.0.2.1/32"  # of the documentation (RFC 5737)


def decides(request: Request, conf: FirewallConf) -> bool:
    """Whether it is firewalld that lets pods through: it is named, or nothing is and it runs.

    Raises CNIError 11 if it does, and can not be reached.
    """
    if conf.backend in ("iptables", "nftables"):
        return False
    if is_running(_bus(request)):
        return True
    if conf.backend == "firewalld":
        raise CNIError(Code.TRY_AGAIN_LATER, "firewalld is not on the system bus", '"backend" is "firewalld"')
    with step("look for firewalld"):
        if firewall.is_firewalld_active():
            details = (
                'start firewalld, or delete what it left; or name another "backend", which is not enough by itself'
            )
            message = "firewalld filters here (table inet firewalld), but is not on the system bus"
            raise CNIError(Code.TRY_AGAIN_LATER, message, details)
    return False


def trust(request: Request, conf: FirewallConf, addresses: Collection[bytes], undo: Undo) -> None:
    """Have the zone let through what comes from these addresses; each step is pushed on `undo`. Raises CNIError."""
    with step("have firewalld let the pod's traffic through"), Firewalld(_bus(request)) as firewalld:
        for address in addresses:
            source = source_of(address)
            try:
                if firewalld.add(conf.zone, source):
                    undo.push(lambda source=source: _remove(request, conf.zone, [source]))
            except FirewalldError as error:
                _raise_for_zone(request, conf, error)
                if error.kind != _CONFLICT:
                    raise
                if address not in firewall.owned([address]):
                    raise _conflict(source, firewalld.zone_of(source)) from error
                # It is of an earlier ADD with another zone: of this pod, or of a dead one, since IPAM gave it to us.
                before = firewalld.move(conf.zone, source)
                undo.push(lambda source=source, before=before: _move(request, before, source))


def distrust(request: Request, zone: str, addresses: Collection[bytes]) -> None:
    """Let no zone decide about these addresses any more. Raises CNIError."""
    if addresses:
        with step("have firewalld forget the pod's addresses"):
            _remove(request, zone, [source_of(address) for address in sorted(addresses)])


def runs(request: Request) -> bool:
    """Whether there is a firewalld."""
    return is_running(_bus(request))


def distrusting(request: Request, conf: FirewallConf, addresses: Collection[bytes]) -> list[str]:
    """What is missing of the work of `trust`, a sentence each. Raises CNIError."""
    with step("ask firewalld for the pod's addresses"), Firewalld(_bus(request)) as firewalld:
        sources = [source_of(address) for address in addresses]
        return [
            f'firewalld\'s zone "{conf.zone}" does not have the source {source} (firewall-cmd --reload takes it away)'
            for source in sources
            if not firewalld.has(conf.zone, source)
        ]


def require_zone(request: Request, conf: FirewallConf) -> None:
    """Raises CNIError 7 if firewalld has no such zone."""
    with step("ask firewalld for its zone"), Firewalld(_bus(request)) as firewalld:
        try:
            firewalld.has(conf.zone, _ANY_SOURCE)
        except FirewalldError as error:
            _raise_for_zone(request, conf, error)
            raise


def _raise_for_zone(request: Request, conf: FirewallConf, error: FirewalldError) -> None:
    """Raises CNIError 7 if that is what is wrong."""
    if error.kind == "INVALID_ZONE":
        expected = f'a zone that firewalld has (it has no "{conf.zone}": firewall-cmd --get-zones)'
        raise request.conf.section.error("firewalldZone", expected) from error


def _conflict(source: str, holder: str) -> CNIError:
    details = f"firewall-cmd --zone={holder} --remove-source={source} takes it out"
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
