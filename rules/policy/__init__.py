"""Network policies: the tables `inet slash24_policy` and `bridge slash24_policy`, and the elements of pods in them.

What is here is the same on every node, whatever its policies: rules (inet_table.py, bridge_table.py), how they are made
and mended (base.py), and what an ADD and a DEL do (pods.py). The daemon adds the chains and sets of policies.
"""

from rules.policy.base import BASE_CHAINS, delete_all, ensure_base
from rules.policy.names import BASE_SETS, BRIDGE_TABLE, TABLE
from rules.policy.pods import (
    forget_left,
    forget_listed,
    has_gateway,
    hold,
    hold_into,
    is_held,
    list_left,
    problems,
    put_gateway,
    release,
    set_gateway,
    sweep,
)

__all__ = [
    "BASE_CHAINS",
    "BASE_SETS",
    "BRIDGE_TABLE",
    "TABLE",
    "delete_all",
    "ensure_base",
    "forget_left",
    "forget_listed",
    "has_gateway",
    "hold",
    "hold_into",
    "is_held",
    "list_left",
    "problems",
    "put_gateway",
    "release",
    "set_gateway",
    "sweep",
]
