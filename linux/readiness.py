"""Whether the kernel can do what plugins need, for STATUS."""

from linux import kernel
from linux.errors import reason
from spec.errors import CNIError, Code


def check_ready() -> None:
    """Can this kernel masquerade? Raises CNIError 50; one that is supported is not asked."""
    if not kernel.is_old():
        return
    from linux import masquerade

    try:
        masquerade.rehearse()
    except OSError as error:
        raise CNIError(Code.PLUGIN_NOT_AVAILABLE, f"the kernel can not masquerade: {reason(error)}") from error
