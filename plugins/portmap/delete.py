"""DEL and GC: stop forwarding, whichever implementation's ADD it was."""

from linux.errors import step
from plugins.portmap.conf import mappings_if_valid
from plugins.portmap.forwards import flush_flows_to, forwards_to, is_listed, pod_addresses
from rules import reference
from rules.portmap import host_ports
from spec.request import Request


def delete_ports(request: Request) -> None:
    """Stop forwarding to the pod, by owner: DEL needs neither addresses nor ports. Raises CNIError after all steps."""
    result = request.conf.prev_result
    mappings = mappings_if_valid(request.conf.section)
    deleted = [*forwards_to(pod_addresses(request, result), mappings)] if result else []
    try:
        with step("delete the forwarded ports"):
            deleted += host_ports.delete(request.attachment, is_listed=is_listed(request))
    finally:
        with step("delete another implementation's forwarded ports"):
            reference.delete_host_ports(request.attachment)
        flush_flows_to(request, deleted)


def sweep_ports(request: Request) -> None:
    """Stop forwarding to stale attachments of this network. Raises CNIError."""
    with step("delete the forwarded ports of pods that are gone"):
        deleted = host_ports.sweep(request.conf.name, request.valid_attachments)
    flush_flows_to(request, deleted)
