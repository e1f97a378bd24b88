"""Network policies as pure values: what the pods of this node may send and receive, and its nftables."""
