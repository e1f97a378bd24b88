"""The ifb links of an attachment, as they are."""

from linux.netlink.socket import Netlink
from linux.ownership import owner_tag
from linux.rtnl.links import Link, find_link
from plugins.bandwidth.names import ifb_name, reference_ifb_name
from spec.attachment import Attachment


def find_ifb(host: Netlink, owner: Attachment) -> Link | None:
    """The attachment's own ifb; raises NetlinkError."""
    tag = owner_tag(owner)
    for name, aliases in ((reference_ifb_name(owner), (tag,)), (ifb_name(owner), (tag, ""))):
        link = find_link(host, name)
        if link and link.kind == "ifb" and link.alias in aliases:
            return link
    return None


def find_reference_ifb(host: Netlink, owner: Attachment) -> Link | None:
    """The ifb that the reference plugin made for the container on the network; raises NetlinkError."""
    link = find_link(host, reference_ifb_name(owner))
    return link if link and link.kind == "ifb" and not link.alias else None
