"""The registry of a Kubernetes cluster: its Nodes are the records. `docs/registry-kubernetes.md` is the manual.

`access` connects to the API server, `following` lists and watches, `objects` reads Nodes, `subnets` leases subnets
where the cluster allocates none, `reports` tells the cluster about this node's network; `registry` joins them.
"""
