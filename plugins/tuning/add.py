"""ADD: applies all settings, or leaves everything as it was."""

from dataclasses import replace
from errno import ENODEV

from linux.errors import reason, step
from linux.netlink.socket import Netlink, NetlinkError
from linux.netns import entered, opened, own_cookie
from linux.rtnl.links import Link, find_link
from plugins.failures import Undo
from plugins.tuning import backup
from plugins.tuning.backup import Backup
from plugins.tuning.conf import TuningConf
from plugins.tuning.settings import Settings, apply, read, restore
from spec.errors import CNIError, Code, code_of, raise_problems
from spec.links import require_suitable_mtu
from spec.request import Request
from spec.result import Interface, Result
from state.boot import Boot


def tune(request: Request, conf: TuningConf, result: Result) -> Result:
    """Change the link and the sysctls; returns the result with the changes. Raises CNIError; then nothing has changed.

    The original settings are saved before the first change, so that a DEL can restore them whatever happens.
    """
    if not (conf.sysctls or conf.tunes_link):
        return result
    require_suitable_mtu(conf.mtu, _addresses(request, result))
    with opened(request.netns, request.netns_fd) as netns, entered(netns), Netlink() as pod, Undo() as undo:
        link = _find_link(pod, request, conf)
        before = read(conf, link)
        _save(request, conf, before, link, undo)
        undo.callback(_restore, pod, link, before)
        apply(pod, link, conf)
        undo.pop_all()
    return replace(result, interfaces=tuple(_tuned(one, request.ifname, conf) for one in result.interfaces))


def netns_name() -> str:
    """A name of the calling thread's network namespace that is never reused."""
    return f"{Boot.read().id}/{own_cookie()}"


def _addresses(request: Request, result: Result) -> list[str]:
    """Those of the pod's interface; if the MTU is too small, the kernel removes the IPv6 ones."""
    carriers = [(ip, result.interface_of(ip)) for ip in result.ips]
    return [ip.address for ip, link in carriers if link is None or (link.name == request.ifname and link.sandbox)]


def _find_link(pod: Netlink, request: Request, conf: TuningConf) -> Link | None:
    """The pod's link; required only if one of its attributes is to be set."""
    with step(f'find "{request.ifname}" in the container'):
        link = find_link(pod, request.ifname)
        if link is None and conf.tunes_link:
            raise NetlinkError(ENODEV, "there is no such interface")
        return link


def _save(request: Request, conf: TuningConf, before: Settings, link: Link | None, undo: Undo) -> None:
    path = backup.path_in(conf.data_dir, request.attachment)
    index = link.index if link else 0
    saved = Backup(before, request.attachment, netns_name(), index)
    try:
        earlier = _earlier_backup(request, path)
        if earlier:
            saved = saved.completed(earlier.applied_to(saved.netns, index, request.ifname))
        undo.callback(backup.write(path, saved))
    except OSError as error:
        message = f"failed to save the original settings in {conf.data_dir}: {reason(error)}"
        raise CNIError(code_of(error, Code.IO_FAILURE), message, path) from error


def _earlier_backup(request: Request, path: str) -> Backup | None:
    """The backup of an earlier ADD of this attachment; an invalid one is ignored, since no DEL could use it."""
    try:
        found = backup.read(path)
    except ValueError as error:
        request.log(f"tuning: {path}: {error}")
        return None
    if found and not found.is_of(request.attachment):
        owner = f"{found.owner.container_id} {found.owner.ifname}"
        raise CNIError(Code.INTERNAL, f"{path} holds the original settings of another attachment: {owner}")
    return found


def _restore(pod: Netlink, link: Link | None, before: Settings) -> None:
    raise_problems(restore(pod, link, before))


def _tuned(interface: Interface, ifname: str, conf: TuningConf) -> Interface:
    """The pod's interface with the changes, any other unchanged: a host interface may have the same name."""
    if interface.name != ifname or not interface.sandbox:
        return interface
    mtu = conf.mtu if conf.mtu and interface.mtu else interface.mtu
    return replace(interface, mac=conf.mac or interface.mac, mtu=mtu)
