"""What listens on 127.0.0.1 of the node stays closed to pods as long as a link routes that address for host ports.

The setting of the link (route_localnet) and the rules that make it harmless do not go together: `nft flush ruleset`
takes the rules alone. So every call that sees the setting puts them back, whether or not it is about ports.
"""

from linux import route_localnet
from linux.errors import reason
from rules.portmap import ports
from spec.request import Request


def guard(request: Request) -> None:
    """Put the rules back if they are gone. That it failed is said on stderr, and is none of the call's."""
    try:
        if ports.guard_loopback():
            request.say("portmap: the rules that keep pods from the node's 127.0.0.1 were gone, and have been put back")
    except OSError as error:
        request.say(f"portmap: pods may reach the node's 127.0.0.1: {reason(error)}")


def guard_all(request: Request) -> None:
    """The same if any link of the node routes that address."""
    try:
        is_open = route_localnet.is_any_routed()
    except OSError as error:
        request.say(f"portmap: whether pods may reach the node's 127.0.0.1 is unknown: {reason(error)}")
        return
    if is_open:
        guard(request)
