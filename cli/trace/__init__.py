"""`slash24 trace`: one marked packet, what the kernel did with it, and that in words."""
