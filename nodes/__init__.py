"""The cluster: records of nodes, the registries that hold them, and the network that they need in the kernel."""
