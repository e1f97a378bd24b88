"""CHECK: everything that is configured, compared with how it is."""

import os
from collections.abc import Iterator

from linux import sysctls
from linux.errors import step
from linux.netlink.socket import Netlink
from linux.netns import entered, open_netns
from linux.rtnl.links import find_link
from plugins.tuning.conf import Sysctl, TuningConf
from plugins.tuning.originals import holds, wanted_of_link
from spec.errors import CNIError, Code
from spec.request import Request

_WORDS = {
    "mac": "has MAC {}, configured is {}",
    "mtu": "has MTU {}, configured is {}",
    "promiscuous": "has promiscuous mode {}, configured is {}",
    "all_multicast": "has all-multicast mode {}, configured is {}",
    "queue_length": "has a transmit queue of {}, configured is {}",
}


def check_tuned(request: Request, conf: TuningConf) -> None:
    """Raises CNIError 999 with everything that is not as configured; what is not configured may be as it likes."""
    with step(f'open network namespace "{request.netns}"'):
        netns = open_netns(request.netns, request.netns_fd)
    try:
        with step("look at the container"), entered(netns), Netlink() as pod:
            wrong = [*_link_differences(pod, request.ifname, conf), *_sysctl_differences(conf.sysctls)]
    finally:
        os.close(netns)
    if wrong:
        raise CNIError(Code.INTERNAL, wrong[0], "; ".join(wrong[1:]))


def _link_differences(pod: Netlink, ifname: str, conf: TuningConf) -> Iterator[str]:
    wanted = wanted_of_link(conf)
    link = find_link(pod, ifname) if wanted else None
    if wanted and link is None:
        yield f'Interface "{ifname}" is not in the container'
        return
    for attribute, value in wanted.items():
        now = getattr(link, attribute)
        if now != value:
            yield f'Interface "{ifname}" ' + _WORDS[attribute].format(_shown(now), _shown(value))


def _sysctl_differences(wanted: tuple[Sysctl, ...]) -> Iterator[str]:
    for sysctl in wanted:
        if not holds(sysctl.path, sysctl.value):
            try:
                now = f'is "{sysctls.read(sysctl.path)}"'
            except (OSError, UnicodeDecodeError):
                now = "can not be read"
            yield f'Sysctl {sysctl.name} {now}, configured is "{sysctl.value}"'


def _shown(value: object) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
