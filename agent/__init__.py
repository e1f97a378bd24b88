"""One process per node that serves CNI calls on a Unix socket, with the same plugins that are also executables."""
