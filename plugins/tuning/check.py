"""CHECK: compares all configured settings with the actual ones."""

from collections.abc import Iterator

from linux import sysctls
from linux.errors import step
from linux.netlink.socket import Netlink
from linux.netns import entered, opened
from linux.rtnl.links import find_link
from plugins.tuning.conf import Sysctl, TuningConf
from plugins.tuning.settings import desired_of_link, has_value
from spec.errors import raise_problems
from spec.request import Request

_NAMES = {
    "mac": "MAC",
    "mtu": "MTU",
    "promiscuous": "promiscuous mode",
    "all_multicast": "all-multicast mode",
    "queue_length": "transmit queue length",
}


def check_tuned(request: Request, conf: TuningConf) -> None:
    """Raises CNIError 999 with every setting that differs from the configuration; others may have any value."""
    with opened(request.netns, request.netns_fd) as netns, step("read the settings"), entered(netns), Netlink() as pod:
        problems = [*_link_problems(pod, request.ifname, conf), *_sysctl_problems(conf.sysctls)]
    raise_problems(problems)


def _link_problems(pod: Netlink, ifname: str, conf: TuningConf) -> Iterator[str]:
    desired = desired_of_link(conf)
    link = find_link(pod, ifname) if desired else None
    if desired and link is None:
        yield f'Interface "{ifname}" is not in the container'
        return
    for attribute, value in desired.items():
        actual = getattr(link, attribute)
        if actual != value:
            yield f'Interface "{ifname}" has {_NAMES[attribute]} {_text(actual)}, configured is {_text(value)}'


def _sysctl_problems(desired: tuple[Sysctl, ...]) -> Iterator[str]:
    for sysctl in desired:
        if not has_value(sysctl.path, sysctl.value):
            try:
                actual = f'is "{sysctls.read(sysctl.path)}"'
            except (OSError, UnicodeDecodeError):
                actual = "cannot be read"
            yield f'Sysctl {sysctl.name} {actual}, configured is "{sysctl.value}"'


def _text(value: object) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
