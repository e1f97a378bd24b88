"""One process a node that serves CNI calls on a unix socket, with the very plugins that are also executables."""
