"""A node that has its own subnet and routes to other nodes: what `kubenet` and `vxlan` share."""
