"""Where the things that commands look at are on a node."""

NET_D = "/etc/cni/net.d"
LEASES = "/var/lib/cni/networks"
CACHE = "/var/lib/cni/results"
"""What libcni keeps of each ADD, for all runtimes and cnitool."""
CACHES = (CACHE, "/var/lib/cni/cache/results")
"""And where the kubelet had it keep that for Docker, as cri-dockerd still does."""
RUN = "/run/slash24"
BIN = "/opt/cni/bin"
