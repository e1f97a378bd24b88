"""Results: what an ADD returns. In memory as in CNI 1.1.0 (spec section 5, "Success"); written in any version.

They are read in `spec.result_reader`, which the first plugin of a chain never imports.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from spec import jsontext
from spec.errors import CNIError, Code
from spec.versions import FAMILIES, family


@dataclass(frozen=True)
class Interface:
    """A link; `sandbox` is the path of its network namespace, "" for a link on the host."""

    name: str
    mac: str = ""
    sandbox: str = ""
    mtu: int = 0
    socket_path: str = ""
    pci_id: str = ""


@dataclass(frozen=True)
class IPConfig:
    """An address in CIDR form, its gateway (or ""), and the index of its link in `Result.interfaces` (or None)."""

    address: str
    gateway: str = ""
    interface: int | None = None


@dataclass(frozen=True)
class Route:
    """A route; `gw` "" is the gateway of the first address of the same family."""

    dst: str
    gw: str = ""
    mtu: int = 0
    advmss: int = 0
    priority: int = 0
    table: int | None = None
    scope: int | None = None


@dataclass(frozen=True)
class DNS:
    """Resolver settings, each in the order given."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """The result of an ADD, also passed on as prevResult."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[IPConfig, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: DNS = DNS()

    @classmethod
    def parse(cls, raw: Mapping[str, object], version: str) -> "Result":
        """Read a decoded result (a dict, or a Section whose path errors then show) in the format of `version`.

        Unknown keys are dropped, keys are case-insensitive, addresses become canonical. Raises CNIError 7 for an
        invalid type or value, 1 for a version that does not exist.
        """
        from spec.result_reader import read_result

        return read_result(raw, version)

    def interface_of(self, ip: IPConfig) -> Interface | None:
        """The interface that has the address; None if the index is missing or invalid."""
        if ip.interface is None or not 0 <= ip.interface < len(self.interfaces):
            return None
        return self.interfaces[ip.interface]


def check_expressible(result: Result, version: str) -> None:
    """Raises CNIError 1 if the result cannot be written in `version`: 0.1.0 and 0.2.0 require an address.

    An ADD calls this while it can still undo its steps.
    """
    if family(version) == FAMILIES[0] and not result.ips:
        details = f"CNI {version} results require an address; cniVersion 0.3.0 and later do not"
        raise CNIError(Code.INCOMPATIBLE_VERSION, "cannot convert: no valid IP addresses", details)


def dumps(result: Result, version: str) -> str:
    """The result as a plugin prints it: indented by 4 spaces, without a final newline. Raises as `render` does."""
    return jsontext.dumps(render(result, version))


def render(result: Result, version: str) -> dict[str, object]:
    """The result as an object with the keys and key order of `version`. Raises CNIError 1 as `check_expressible` does.

    From 1.0.0 on the keys are in alphabetical order at every level, as the reference plugins print them.
    """
    check_expressible(result, version)
    renderers = {FAMILIES[0]: _render_by_family, FAMILIES[1]: _render_with_versions, FAMILIES[2]: _render_current}
    return renderers[family(version)](result, version)


def _render_current(result: Result, version: str) -> dict[str, object]:
    return _present(
        cniVersion=version,
        dns=_sorted(_render_dns(result.dns)),
        interfaces=[_sorted(_render_interface(interface, full=True)) for interface in result.interfaces],
        ips=[_sorted(_render_ip(ip)) for ip in result.ips],
        routes=[_sorted(_render_route(route)) for route in result.routes],
    )


def _render_with_versions(result: Result, version: str) -> dict[str, object]:
    """0.3.0 to 0.4.0: each address has its IP version; an empty dns is printed too."""
    rendered = _present(
        cniVersion=version,
        interfaces=[_render_interface(interface, full=False) for interface in result.interfaces],
        ips=[{"version": "6" if ":" in ip.address else "4", **_render_ip(ip)} for ip in result.ips],
        routes=[_render_route(route) for route in result.routes],
    )
    return {**rendered, "dns": _render_dns(result.dns)}


def _render_by_family(result: Result, version: str) -> dict[str, object]:
    """0.1.0 and 0.2.0: the first address of each family, with the routes of that family."""
    rendered: dict[str, object] = {"cniVersion": version}
    for key, is_ipv6 in (("ip4", False), ("ip6", True)):
        ip = next((ip for ip in result.ips if (":" in ip.address) is is_ipv6), None)
        if ip is not None:
            routes = [_present(dst=r.dst, gw=r.gw) for r in result.routes if (":" in r.dst) is is_ipv6]
            rendered[key] = _present(ip=ip.address, gateway=ip.gateway, routes=routes)
    return {**rendered, "dns": _render_dns(result.dns)}


def _render_interface(interface: Interface, *, full: bool) -> dict[str, object]:
    rendered = {"name": interface.name, **_present(mac=interface.mac, sandbox=interface.sandbox)}
    if full:
        rendered |= _present(mtu=interface.mtu or None, socketPath=interface.socket_path, pciID=interface.pci_id)
    return rendered


def _render_ip(ip: IPConfig) -> dict[str, object]:
    return _present(interface=ip.interface, address=ip.address, gateway=ip.gateway)


def _render_route(route: Route) -> dict[str, object]:
    sizes = {"mtu": route.mtu or None, "advmss": route.advmss or None, "priority": route.priority or None}
    return _present(dst=route.dst, gw=route.gw, **sizes, table=route.table, scope=route.scope)


def _render_dns(dns: DNS) -> dict[str, object]:
    lists = {"search": list(dns.search), "options": list(dns.options)}
    return _present(nameservers=list(dns.nameservers), domain=dns.domain, **lists)


def _present(**values: object) -> dict[str, object]:
    """The values that are not empty; zeros are kept, since 0 is a valid index, table and scope."""
    return {key: value for key, value in values.items() if value is not None and value not in ("", [], {})}


def _sorted(values: dict[str, object]) -> dict[str, object]:
    return dict(sorted(values.items()))
