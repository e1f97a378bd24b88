"""firewalld by D-Bus: assigns source addresses to zones, in its runtime configuration.

firewalld rejects what its zones do not accept, even if other tables accept it, so only firewalld itself can accept
pods' traffic. Changes last until firewalld is reloaded or restarted.
"""

from contextlib import suppress
from itertools import count

from linux import dbus
from spec.addresses import parse_address, unpack
from spec.suite import current

NAME = "org.fedoraproject.FirewallD1"
_PATH, _ZONES = "/org/fedoraproject/FirewallD1", f"{NAME}.zone"
_SECONDS = 30.0  # for one call: firewalld queues them, and writes whole rule sets
_ALREADY, _CONFLICT, _UNKNOWN = "ZONE_ALREADY_SET", "ZONE_CONFLICT", "UNKNOWN_SOURCE"


class FirewalldError(OSError):
    """An error of firewalld; `kind` is its name, such as "INVALID_ZONE"."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.kind = text.partition(":")[0]


def is_running(address: str) -> bool:
    """Whether firewalld is on the bus; `address` as for dbus.connect."""
    with current().released():
        return dbus.has_service(NAME, address)


def source_of(address: bytes) -> str:
    """The source of a packed address: 10.1.2.5/32."""
    return f"{unpack(address)}/{8 * len(address)}"


class Firewalld:
    """A connection to firewalld; all methods raise OSError, or FirewalldError if firewalld refuses."""

    def __init__(self, address: str) -> None:
        """`address`: of the bus, as for dbus.connect."""
        self._address, self._serials = address, count(2)

    def __enter__(self) -> "Firewalld":
        from jeepney import Parser

        self._bus, rest = dbus.connect(self._address, _SECONDS)
        self._parser = Parser()
        self._parser.add_data(rest)
        return self

    def __exit__(self, *_: object) -> None:
        self._bus.close()

    def add(self, zone: str, source: str) -> bool:
        """Add the source to the zone; False if the zone has it."""
        try:
            self._call("addSource", zone, source)
        except FirewalldError as error:
            if error.kind != _ALREADY:
                raise
            return False
        return True

    def move(self, zone: str, source: str) -> str:
        """Move the source to this zone; returns the name of its zone before, or ""."""
        before = self.zone_of(source)
        self._call("changeZoneOfSource", zone, source)
        return before

    def remove(self, zone: str, source: str) -> None:
        """Remove the source from its zone, which is expected to be `zone`."""
        try:
            self._call("removeSource", self.zone_of(source) or zone, source)
        except FirewalldError as error:
            if error.kind != _UNKNOWN:
                raise

    def zone_of(self, source: str) -> str:
        """The zone that has exactly this source, "" if there is none, or firewalld refuses the query."""
        with suppress(FirewalldError):
            return self._call("getZoneOfSource", source)
        return ""

    def has(self, zone: str, source: str) -> bool:
        """Whether the zone has this source, or a network that contains it."""
        if self._call("querySource", zone, source):
            return True
        with suppress(FirewalldError):
            return any(holds_source(network, source) for network in self._call("getSources", zone))
        return False

    def _call(self, method: str, *arguments: str) -> object:
        from jeepney import DBusAddress, HeaderFields, MessageType, new_method_call

        serial = next(self._serials)
        message = new_method_call(DBusAddress(_PATH, NAME, _ZONES), method, "s" * len(arguments), arguments)
        with current().released():
            self._bus.sendall(message.serialise(serial))
            while True:
                reply = self._parser.get_next_message()
                if reply is None:
                    self._parser.add_data(dbus.receive(self._bus))
                elif reply.header.fields.get(HeaderFields.reply_serial) == serial:
                    break
        if reply.header.message_type is MessageType.error:
            raise FirewalldError(str(reply.body[0]) if reply.body else reply.header.fields[HeaderFields.error_name])
        return reply.body[0]


def holds_source(network: str, source: str) -> bool:
    """Whether a source of firewalld's (it may be a MAC, or the name of an ipset) is a network around an address."""
    try:
        return parse_address(network).contains(parse_address(source))
    except ValueError:
        return False
