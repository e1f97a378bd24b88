"""DEL and GC: forward nothing any more, whoever's ADD it was."""

from linux import hostports, reference_ports
from linux.errors import step
from plugins.ports.conf import mappings_if_readable
from plugins.ports.flows import forget_flows_to
from plugins.ports.wish import forwards, is_noted, pod_addresses
from spec.request import Request


def delete_ports(request: Request) -> None:
    """Forward nothing to the pod, by owner: no address and no port need be known. Raises CNIError, all being tried."""
    result = request.conf.prev_result
    mappings = mappings_if_readable(request.conf.section)
    gone = [*forwards(mappings, pod_addresses(request, result))] if result else []
    try:
        with step("delete the forwarded ports"):
            gone += hostports.delete(request.attachment, noted=is_noted(request))
    finally:
        with step("delete another implementation's forwarded ports"):
            reference_ports.delete(request.attachment)
        forget_flows_to(request, gone)


def sweep_ports(request: Request) -> None:
    """Forward nothing to attachments of this network that are not valid. Raises CNIError."""
    with step("delete the forwarded ports of pods that are gone"):
        gone = hostports.sweep(request.conf.name, request.valid_attachments)
    forget_flows_to(request, gone)
