"""`slash24-node`: makes the nodes of a cluster known to each other, and keeps this node's network true."""
