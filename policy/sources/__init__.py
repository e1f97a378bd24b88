"""Where policies, pods, namespaces and nodes are read: a folder of documents, or the Kubernetes API."""
