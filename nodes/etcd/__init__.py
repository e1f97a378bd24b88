"""etcd v3: where it is, and a client."""
