"""The network policies of an attachment, as far as they are the plugins': a pod is held until the daemon has decided.

An ADD holds the pod while its port is down: the pod then reaches its own node, which reaches it, and nobody else. It
tells the daemon of the pod by a file, and in the end waits until the daemon has replaced that by the pod's policies, or
gives up: what is in the kernel stays in force, and the daemon decides when it can. DEL and GC need neither the daemon
nor the configuration of the ADD.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from errno import ENOENT

from linux import sysctls
from linux.errors import step
from linux.netlink.socket import Netlink, NetlinkError
from linux.nftables.transactions import Transaction, change
from linux.ownership import group_of, stale_predicate
from linux.rtnl.deletion import delete_links
from linux.rtnl.links import Link, find_link_by_index, up_request
from linux.rtnl.resolution import forget_request
from linux.waiting import wait_until
from plugins import daemon
from plugins.failures import Undo
from plugins.pod import pod_files
from plugins.pod.pod_files import PodFile
from spec.attachment import Attachment
from spec.errors import CNIError, Code
from spec.request import Request
from spec.result import Result

_NAMESPACE, _NAME, _UID = "K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_UID"
_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_ANY_CASE = _LOWER | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_LONGEST_LABEL, _LONGEST_NAME = 63, 253  # characters (RFC 1123)
_SETTLING_TRIES = 5


def identity(args: Mapping[str, str]) -> tuple[str, str, str]:
    """Namespace, name and UID of the pod in CNI_ARGS; all "" if it has no namespace: then Kubernetes does not know it.

    Raises CNIError 4 for what no object of Kubernetes can have: a pod that is taken for another, or for none, would get
    the policies of that.
    """
    namespace, name, uid = (args.get(key, "") for key in (_NAMESPACE, _NAME, _UID))
    if not namespace:
        return "", "", ""
    if not _is_name(namespace, _LOWER | {"-"}, _LONGEST_LABEL):
        raise _wrong(_NAMESPACE, namespace, "the name of a namespace, of at most 63 characters a-z, 0-9 and -")
    if name and not _is_name(name, _LOWER | {"-", "."}, _LONGEST_NAME):
        raise _wrong(_NAME, name, "the name of a pod, of at most 253 characters a-z, 0-9, - and .")
    if uid and not _is_name(uid, _ANY_CASE | {"-", "."}, _LONGEST_NAME):
        raise _wrong(_UID, uid, "the UID of a pod, of at most 253 characters A-Z, a-z, 0-9, -, . and _")
    return namespace, name, uid


def hold(host: Netlink, request: Request, port: Link, gateway: Link, leases: Result, undo: Undo) -> None:
    """Hold the pod and bind it to its addresses, tell the daemon of it, and bring its port up. Raises CNIError.

    `port`: the host veth, which is down. `gateway`: the link to which the pods' packets go to be routed.
    """
    owner, addresses = request.attachment, [ip.address for ip in leases.ips]
    ips = _without_prefixes(addresses)
    mac = gateway.mac if gateway.mac.strip("0:") else _mac_now(host, gateway)

    def decide(transaction: Transaction) -> frozenset[str]:
        from rules import policy, source_validation

        source_validation.ensure_in(transaction, owner, port.name, addresses)
        # Connections to addresses without a pod are only noted for links that are registered.
        is_noted = policy.has_gateway(transaction, gateway.name)
        group = group_of(owner.network)
        inherited = policy.hold_into(transaction, owner, ips, port.name, group, mac, gateway.name)
        return inherited if is_noted else frozenset(ips)

    with step("hold the pod until its network policies are known"):
        os.makedirs(pod_files.PODS, mode=0o755, exist_ok=True)
        undo.callback(_withdraw, host, owner, port, ips)
        inherited = _repaired(decide)
        if inherited:
            forget(inherited)
        for link in ("all", gateway.name):
            if sysctls.read_if_there(_send_redirects(link)) == "1":
                sysctls.try_write(_send_redirects(link), "0")
        about = (owner.network, owner.container_id, owner.ifname, ips, port.name, *identity(request.args))
        pod_files.write(PodFile(*about))
        # Packets that wait for the MAC of an address have passed all rules.
        waiting = [forget_request(host, gateway.index, ip) for ip in ips]
        host.send([*waiting, up_request(host, port.index)], tolerated=(ENOENT,))


def keep_registered(host: Netlink, network: str, gateway: Link, mac: str) -> None:
    """Register the bridge's MAC anew if it is not that with which the pod was held. Raises OSError.

    A bridge that others made may take the MAC of a port. Each call reads it after it has written, so what the last one
    has registered is the MAC that the bridge has.
    """
    from rules import policy

    known = gateway.mac
    for _ in range(_SETTLING_TRIES):
        if mac == known:
            return
        policy.set_gateway(group_of(network), mac, gateway.name)
        known, mac = mac, _mac_now(host, gateway)


def await_decision(request: Request, seconds: int, result: Result) -> None:
    """Wait until the daemon has decided on the pod, for so many seconds at most; not if no daemon runs.

    Never raises: a pod that is held is as safe as one that is not.
    """
    from rules import policy

    ips = _without_prefixes(ip.address for ip in result.ips)
    try:
        wait_until(lambda: not (daemon.is_running() and policy.is_held(ips)), seconds=seconds)
    except (OSError, CNIError) as error:
        request.log(f"the pod's network policies may not be in force yet: {error}")


def release(owner: Attachment) -> None:
    """For DEL: nothing is in force for the attachment any more, and the daemon forgets it. Raises OSError.

    The link must be gone. Without the pod's file, which says what to look for, all elements are searched for its tag.
    """
    from rules import policy

    pod = pod_files.find(owner)
    pod_files.delete(owner)
    policy.release(owner, *((pod.ips, pod.link) if pod else ()))


def sweep(network: str, valid: Collection[Attachment]) -> None:
    """For GC: the same for all attachments to the network that are not valid. Raises OSError."""
    from rules import policy

    is_stale = stale_predicate(network, valid)
    for name in list(pod_files.names()):
        if is_stale(name.removesuffix(pod_files.SUFFIX)):
            pod_files.delete_named(name)
    policy.sweep(network, valid)


def forget(addresses: Iterable[str]) -> None:
    """End all connections of addresses, with or without prefix, whose pod is gone. Raises OSError."""
    from linux.conntrack import flush_addresses
    from rules import policy

    ips = _without_prefixes(addresses)
    flush_addresses(ips)
    policy.forget_left(ips)


def problems(owner: Attachment, port: Link, gateway_link: str, addresses: Sequence[str]) -> Iterator[str]:
    """For CHECK: a sentence for each thing of `hold` that is gone. A pod that is still held is a good one.

    `addresses`: the pod's, with prefix. Raises OSError.
    """
    from rules import policy

    yield from policy.problems(owner, _without_prefixes(addresses), port.name)
    if not pod_files.exists(owner):
        yield "the daemon does not know the pod, since its file is gone from /run/slash24/pods; recreate the pod"
    for link in ("all", gateway_link):
        if sysctls.read_if_there(_send_redirects(link)) == "1":
            yield f"The node tells pods to talk to each other directly: net/{_send_redirects(link)} is not 0"


def _withdraw(host: Netlink, owner: Attachment, port: Link, ips: Sequence[str]) -> None:
    """Undo `hold`. The link goes first: a pod is not let go while it can send."""
    from rules import source_validation

    delete_links(host, [port])
    source_validation.delete(owner)
    release(owner)
    forget(ips)


def _repaired(decide: Callable[[Transaction], frozenset[str]]) -> frozenset[str]:
    """What the transaction returned; if something foreign in the tables prevents it, they are made anew first."""
    from rules import policy

    try:
        return change(decide)
    except NetlinkError:
        if not policy.ensure_base():
            raise
    return change(decide)


def _without_prefixes(addresses: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(address.partition("/")[0] for address in addresses))


def _mac_now(host: Netlink, link: Link) -> str:
    found = find_link_by_index(host, link.index)
    return found.mac if found else link.mac


def _send_redirects(link: str) -> str:
    return f"ipv4/conf/{link}/send_redirects"


def _is_name(text: str, allowed: Collection[str], longest: int) -> bool:
    """Whether it is a name of allowed characters that begins and ends with a letter or digit."""
    ends = _ANY_CASE - {"_"}
    return len(text) <= longest and text[0] in ends and text[-1] in ends and set(text) <= set(allowed)


def _wrong(key: str, value: str, expected: str) -> CNIError:
    shown = ascii(value)[1:-1][:80]
    return CNIError(Code.INVALID_ENVIRONMENT, f'CNI_ARGS: "{key}": expected {expected}, got "{shown}"')
