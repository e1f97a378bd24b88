"""What is on this node, as values: networks, attachments, leases, services. Nothing here changes anything."""
