"""A node that owns a subnet and knows the others: what `kubenet` and `vxlan` share."""
