"""ADD: the ports forwarded, or everything as it was."""

import os

from linux import route_localnet
from linux.errors import step
from linux.netlink.socket import Netlink
from plugins.portmap.conf import PortmapConf
from plugins.portmap.flows import forget_flows_elsewhere
from plugins.portmap.forwards import pod_addresses, wish_of
from plugins.undo import Undo
from rules.portmap import ports
from rules.portmap.ports import PortTaken, Wish
from rules.portmap.table import TABLE
from spec.errors import CNIError, Code
from spec.request import Request
from spec.result import Result


def add_ports(request: Request, conf: PortmapConf, result: Result) -> None:
    """Forward the ports of the configuration to the pod; raises CNIError, and then none."""
    pod = pod_addresses(request, result)
    wish = wish_of(request, conf, pod, result)
    with Undo() as undo:
        _forward(request, wish, undo)
        if conf.snat and any(forward.version == 4 for forward in wish.forwards):
            _route_localnet(pod[4].packed)
        undo.keep()
    forget_flows_elsewhere(request, wish.forwards)


def _forward(request: Request, wish: Wish, undo: Undo) -> None:
    with step("forward the ports"):
        try:
            made = ports.ensure(request.attachment, wish)
        except PortTaken as error:
            raise CNIError(Code.INTERNAL, error.strerror, _advice(request, error)) from error
    undo.push(lambda: ports.undo(request.attachment, made=made, noted=wish.noted))


def _advice(request: Request, taken: PortTaken) -> str:
    """How to free a port of which only people can know that its pod is gone."""
    version, *parts = taken.owner.split(":")
    if version != "v1" or len(parts) != 3:
        return f"if that pod is gone, free the port: nft delete element {TABLE.name} '{taken.entry}'"
    network, container_id, ifname = parts
    conf = f'{{"cniVersion":"1.0.0","name":"{network}","type":"portmap"}}'
    folder = next((one for one in request.path if os.path.exists(f"{one}/portmap")), "/opt/cni/bin")
    call = f"CNI_COMMAND=DEL CNI_CONTAINERID={container_id} CNI_IFNAME={ifname} CNI_PATH={folder} {folder}/portmap"
    return f"if that pod is gone, free its ports: echo '{conf}' | {call}"


def _route_localnet(address: bytes) -> None:
    """Let the node's 127.0.0.1 reach the pod: by the link that leads to it; no link, no way."""
    with step("route from 127.0.0.1 to the pod"), Netlink() as host:
        link = route_localnet.link_towards(host, address)
        if link:
            route_localnet.ensure_routed(link.name)
