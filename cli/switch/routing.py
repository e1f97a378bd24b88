"""Links, routes, rules of policy routing and BPF programs of a provider."""

from collections.abc import Iterator
from functools import partial
from socket import AF_INET6

from cli.switch.leftover import FILTER, LINK, ROUTING, Leftover, command
from cli.switch.programs import run
from cli.switch.providers import Provider, matches
from cli.switch.seen import Seen
from linux import xfrm
from linux.netlink.socket import Netlink
from linux.ownership import is_owner_tag
from linux.rtnl.addresses import delete_address, list_addresses
from linux.rtnl.links import Link, delete_link, find_link, set_down
from linux.rtnl.policy_routing import (
    LOCAL,
    MAIN,
    AnyRoute,
    PolicyRule,
    delete_route,
    delete_rule,
    list_all_routes,
    restore_local_rule,
)
from linux.rtnl.tc import Program, delete_program

_OURS = "slash24 "
"""How the aliases of the node's own links begin."""
_SYSTEM_TABLES = (MAIN, LOCAL, 253, 0)
_UNIVERSE = "routes of table {}, to which only these rules lead"


def is_ours(link: Link) -> bool:
    """Whether a link is slash24's."""
    return is_owner_tag(link.alias) or link.alias.startswith(_OURS)


def is_link_of(provider: Provider, link: Link) -> bool:
    """Whether a link is the provider's, and not slash24's now."""
    if is_ours(link):
        return False
    return any(
        matches((one.name,), link.name) and (not one.kinds or link.kind in one.kinds) and link.mac.startswith(one.mac)
        for one in provider.links
    )


def find_links(provider: Provider, seen: Seen) -> Iterator[Leftover]:
    """The provider's links; a veth pair once."""
    found = {link.index: link for link in seen.links if is_link_of(provider, link)}
    for link in found.values():
        peer = found.get(link.peer) if link.kind == "veth" and not link.peer_is_elsewhere else None
        if peer and peer.index < link.index:
            continue
        kind = f"{link.kind} " if link.kind else ""
        pair = f" and {peer.name}" if peer else ""
        lines = _link_commands(link)
        yield Leftover(LINK, link.name, f"{kind}link {link.name}{pair}", lines, partial(_remove_link, link))


def find_fallback_links(provider: Provider, seen: Seen) -> Iterator[Leftover]:
    """Links that cannot be deleted, while they are up: their addresses are deleted, and they are set down."""
    for link in seen.links:
        if link.name in provider.fallback_links and link.up:
            lines = (command("ip", "addr", "flush", "dev", link.name), command("ip", "link", "set", link.name, "down"))
            sentence = f"{link.kind} link {link.name}, which cannot be deleted and is set down"
            yield Leftover(LINK, link.name, sentence, lines, partial(_empty_link, link))


def _empty_link(link: Link) -> None:
    with Netlink() as host:
        for address in list_addresses(host, link.index):
            delete_address(host, link.index, address.cidr)
        set_down(host, link.index)


def _link_commands(link: Link) -> tuple[str, ...]:
    if link.kind == "openvswitch":
        return (command("ovs-dpctl", "del-dp", link.name),)
    return (command("ip", "link", "del", link.name),)


def _remove_link(link: Link) -> None:
    if link.kind == "openvswitch":
        run("ovs-dpctl", "del-dp", link.name)
        return
    with Netlink() as host:
        now = find_link(host, link.name)
        if now and now.index == link.index:
            delete_link(host, link.index)


def find_programs(provider: Provider, seen: Seen) -> Iterator[Leftover]:
    """BPF programs that the provider put on links of others."""
    for program in seen.programs:
        name = seen.link_name(program.link)
        if matches(provider.filters, program.name):
            line = command("tc", "filter", "del", "dev", name, *str(program).split())
            sentence = f"BPF program {program.name} on {name}"
            yield Leftover(FILTER, f"{name} {program.name}", sentence, (line,), partial(_remove_program, program))


def _remove_program(program: Program) -> None:
    with Netlink() as host:
        delete_program(host, program)


def find_rules(provider: Provider, seen: Seen, *, weak: bool) -> Iterator[Leftover]:
    """Rules of policy routing, and the tables that nothing else leads to."""
    found = [rule for rule in seen.rules if _is_rule_of(provider, rule, weak=weak)]
    for rule in found:
        yield Leftover(ROUTING, str(rule), f"rule {rule}", _rule_commands(rule), partial(_remove_rule, rule))
    others = {rule.table for rule in seen.rules if rule not in found}
    for table in sorted({rule.table for rule in found} - others - set(_SYSTEM_TABLES)):
        routes = [route for route in seen.routes if route.table == table]
        if routes:
            lines = tuple(
                command("ip", _version(family), "route", "flush", "table", str(table))
                for family in sorted({route.family for route in routes})
            )
            sentence = _UNIVERSE.format(table)
            yield Leftover(ROUTING, f"table {table}", sentence, lines, partial(_flush_table, table))


def _is_rule_of(provider: Provider, rule: PolicyRule, *, weak: bool) -> bool:
    choices = (provider.rules, provider.weak_rules if weak else None)
    return any(choice is not None and choice(rule) for choice in choices)


def _rule_commands(rule: PolicyRule) -> tuple[str, ...]:
    """The kernel's own first rule is put back before its substitute goes: without either, the node hears nothing."""
    start = ("ip", _version(rule.family), "rule")
    delete = command(*start, "del", *str(rule).split())
    if rule.table != LOCAL:
        return (delete,)
    return (f"{command(*start, 'add', 'pref', '0', 'from', 'all', 'lookup', 'local')} || true", delete)


def _remove_rule(rule: PolicyRule) -> None:
    with Netlink() as host:
        if rule.table == LOCAL:
            restore_local_rule(host, rule.family)
        delete_rule(host, rule)


def _flush_table(table: int) -> None:
    with Netlink() as host:
        for route in list(list_all_routes(host)):
            if route.table == table:
                delete_route(host, route)


def find_routes(provider: Provider, seen: Seen, *, weak: bool) -> Iterator[Leftover]:
    """Routes that carry the provider's protocol, over links that are not the provider's: those go with the links."""
    protocols = (*provider.protocols, *(provider.weak_protocols if weak else ()))
    gone = {link.index for link in seen.links if is_link_of(provider, link)}
    for route in seen.routes:
        if route.protocol in protocols and route.link not in gone and route.table == MAIN:
            yield route_leftover(route, seen.link_name(route.link))


def find_ipsec(provider: Provider, seen: Seen) -> Iterator[Leftover]:
    """Policies and states of IPsec that carry the provider's mark or interface."""
    for one in seen.ipsec:
        is_marked = provider.mark and one.mark == provider.mark
        if is_marked or (provider.interface_id and one.interface == provider.interface_id):
            what = "policy" if isinstance(one, xfrm.Policy) else "state"
            line = command("ip", "xfrm", what, "delete", *str(one).split())
            sentence = f"IPsec {what} from {one.src} to {one.dst}"
            yield Leftover(ROUTING, f"{what} {one.src} {one.dst}", sentence, (line,), partial(xfrm.delete, one))


def route_leftover(route: AnyRoute, link: str) -> Leftover:
    """The leftover that one route is."""
    words = route.words(link)
    line = command("ip", _version(route.family), "route", "del", *words.split())
    return Leftover(ROUTING, words, f"route {words}", (line,), partial(_remove_route, route))


def _remove_route(route: AnyRoute) -> None:
    with Netlink() as host:
        delete_route(host, route)


def _version(family: int) -> str:
    return "-6" if family == AF_INET6 else "-4"
