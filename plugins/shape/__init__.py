"""Limits on a pod's interface: what the verbs of `bandwidth` do once there is something to limit."""
