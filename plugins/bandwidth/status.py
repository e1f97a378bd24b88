"""STATUS: can this kernel limit anything?"""

from linux.errors import reason
from linux.netlink.socket import Netlink
from linux.rtnl import tc
from linux.rtnl.links import find_link
from plugins.bandwidth import shaping
from spec.errors import CNIError, Code

_MODULES = "sch_tbf, sch_ingress, cls_u32, act_mirred, ifb"


def check_kernel() -> None:
    """Raises CNIError 50 if the kernel lacks token buckets or ifb links; changes nothing.

    Filters can not be asked for without a link to put them on.
    """
    try:
        shaping.ticks_per_microsecond()
        with Netlink() as host:
            loopback = find_link(host, "lo")
            if loopback:
                tc.probe_bucket(host, loopback.index)
            shaping.probe_ifb(host)
    except OSError as error:
        message = f"the kernel can not limit bandwidth: {reason(error)}"
        raise CNIError(Code.PLUGIN_NOT_AVAILABLE, message, f"it needs {_MODULES}") from error
