"""DEL and GC: forward nothing any more, whoever's ADD it was."""

from linux.errors import step
from plugins.portmap.conf import mappings_if_readable
from plugins.portmap.flows import forget_flows_to
from plugins.portmap.forwards import forwards, is_noted, pod_addresses
from rules import reference
from rules.portmap import ports
from spec.request import Request


def delete_ports(request: Request) -> None:
    """Forward nothing to the pod, by owner: no address and no port need be known. Raises CNIError, all being tried."""
    result = request.conf.prev_result
    mappings = mappings_if_readable(request.conf.section)
    gone = [*forwards(mappings, pod_addresses(request, result))] if result else []
    try:
        with step("delete the forwarded ports"):
            gone += ports.delete(request.attachment, noted=is_noted(request))
    finally:
        with step("delete another implementation's forwarded ports"):
            reference.delete_host_ports(request.attachment)
        forget_flows_to(request, gone)


def sweep_ports(request: Request) -> None:
    """Forward nothing to attachments of this network that are not valid. Raises CNIError."""
    with step("delete the forwarded ports of pods that are gone"):
        gone = ports.sweep(request.conf.name, request.valid_attachments)
    forget_flows_to(request, gone)
