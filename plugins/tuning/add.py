"""ADD: everything as configured, or everything as it was."""

import os
from dataclasses import replace
from errno import ENODEV

from linux.errors import reason, step
from linux.netlink.socket import Netlink, NetlinkError
from linux.netns import entered, open_netns, own_cookie
from linux.rtnl.links import Link, find_link
from plugins.tuning import backup
from plugins.tuning.backup import Backup
from plugins.tuning.conf import TuningConf
from plugins.tuning.originals import Originals, change, look, put_back
from plugins.undo import Undo
from spec.errors import CNIError, Code, code_of
from spec.links import require_suitable_mtu
from spec.request import Request
from spec.result import Interface, Result
from state.boot import Boot


def tune(request: Request, conf: TuningConf, result: Result) -> Result:
    """Change the link and the sysctls; `result` as it is then. Raises CNIError, and then nothing is changed.

    What is changed was written down before: whatever happens in between, a DEL can put it back.
    """
    if not (conf.sysctls or conf.tunes_link):
        return result
    require_suitable_mtu(conf.mtu, _addresses(request, result))
    with step(f'open network namespace "{request.netns}"'):
        netns = open_netns(request.netns, request.netns_fd)
    try:
        with entered(netns), Netlink() as pod, Undo() as undo:
            link = _link(pod, request, conf)
            before = look(conf, link)
            _save(request, conf, before, link, undo)
            undo.push(lambda: _undo(pod, link, before))
            change(pod, link, conf)
            undo.keep()
    finally:
        os.close(netns)
    return replace(result, interfaces=tuple(_tuned(one, request.ifname, conf) for one in result.interfaces))


def _addresses(request: Request, result: Result) -> list[str]:
    """Those of the pod's interface: with too small an MTU the kernel would take the IPv6 ones away."""
    carriers = [(ip, result.interface_of(ip)) for ip in result.ips]
    return [ip.address for ip, link in carriers if link is None or (link.name == request.ifname and link.sandbox)]


def netns_name() -> str:
    """A name of the calling thread's network namespace that no other has, nor will have."""
    return f"{Boot.read().id}/{own_cookie()}"


def _link(pod: Netlink, request: Request, conf: TuningConf) -> Link | None:
    """The pod's link; there has to be one if it is to be tuned."""
    with step(f'find "{request.ifname}" in the container'):
        link = find_link(pod, request.ifname)
        if link is None and conf.tunes_link:
            raise NetlinkError(ENODEV, "there is no such interface")
        return link


def _save(request: Request, conf: TuningConf, before: Originals, link: Link | None, undo: Undo) -> None:
    path = backup.path_in(conf.data_dir, request.attachment)
    index = link.index if link else 0
    saved = Backup(before, request.attachment, netns_name(), index)
    try:
        earlier = _earlier(request, path)
        if earlier:
            saved = saved.completed(earlier.applied_to(saved.netns, index, request.ifname))
        undo.push(backup.write(path, saved))
    except OSError as error:
        message = f"failed to save the originals in {conf.data_dir}: {reason(error)}"
        raise CNIError(code_of(error, Code.IO_FAILURE), message, path) from error


def _earlier(request: Request, path: str) -> Backup | None:
    """What an earlier ADD of this attachment has saved; what can not be understood is of no use to a DEL either."""
    try:
        found = backup.read(path)
    except ValueError as error:
        request.say(f"tuning: {path}: {error}")
        return None
    if found and not found.is_of(request.attachment):
        owner = f"{found.owner.container_id} {found.owner.ifname}"
        raise CNIError(Code.INTERNAL, f"{path} holds the originals of another attachment: {owner}")
    return found


def _undo(pod: Netlink, link: Link | None, before: Originals) -> None:
    failures = put_back(pod, link, before)
    if failures:
        raise CNIError(Code.INTERNAL, "; ".join(failures))


def _tuned(interface: Interface, ifname: str, conf: TuningConf) -> Interface:
    """The entry of the pod's interface with what has changed; a link of the node may have the same name."""
    if interface.name != ifname or not interface.sandbox:
        return interface
    mtu = conf.mtu if conf.mtu and interface.mtu else interface.mtu
    return replace(interface, mac=conf.mac or interface.mac, mtu=mtu)
