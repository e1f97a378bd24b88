"""ADD: forwards the ports, or leaves everything as it was."""

import os

from linux import route_localnet
from linux.errors import step
from linux.netlink.socket import Netlink
from plugins.failures import Undo
from plugins.portmap.conf import PortmapConf
from plugins.portmap.forwards import flush_flows_elsewhere, host_ports_of, pod_addresses
from rules.portmap import host_ports
from rules.portmap.host_ports import HostPorts, PortTaken
from rules.portmap.table import TABLE
from spec.errors import CNIError, Code
from spec.request import Request
from spec.result import Result


def add_ports(request: Request, conf: PortmapConf, result: Result) -> None:
    """Forward the configured ports to the pod; raises CNIError, and then forwards none."""
    pod = pod_addresses(request, result)
    wanted = host_ports_of(request, conf, pod, result)
    with Undo() as undo:
        _forward(request, wanted, undo)
        if conf.snat and any(forward.version == 4 for forward in wanted.forwards):
            _route_localnet(pod[4].packed)
        undo.pop_all()
    flush_flows_elsewhere(request, wanted.forwards)


def _forward(request: Request, wanted: HostPorts, undo: Undo) -> None:
    with step("forward the ports"):
        try:
            made = host_ports.ensure(request.attachment, wanted)
        except PortTaken as error:
            raise CNIError(Code.INTERNAL, error.strerror, _advice(request, error)) from error
    undo.callback(host_ports.undo, request.attachment, made=made, is_listed=wanted.is_listed)


def _advice(request: Request, taken: PortTaken) -> str:
    """How to free the port if its pod does not exist any more, which we cannot know."""
    version, *parts = taken.owner.split(":")
    if version != "v1" or len(parts) != 3:
        return f"if that pod is gone, free the port: nft delete element {TABLE.name} '{taken.entry}'"
    network, container_id, ifname = parts
    conf = f'{{"cniVersion":"1.0.0","name":"{network}","type":"portmap"}}'
    folder = next((one for one in request.path if os.path.exists(f"{one}/portmap")), "/opt/cni/bin")
    call = f"CNI_COMMAND=DEL CNI_CONTAINERID={container_id} CNI_IFNAME={ifname} CNI_PATH={folder} {folder}/portmap"
    return f"if that pod is gone, free its ports: echo '{conf}' | {call}"


def _route_localnet(address: bytes) -> None:
    """Let the node's 127.0.0.1 reach the pod, through the link that leads to it, if there is one."""
    with step("route from 127.0.0.1 to the pod"), Netlink() as host:
        link = route_localnet.link_towards(host, address)
        if link:
            route_localnet.ensure_routed(link.name)
