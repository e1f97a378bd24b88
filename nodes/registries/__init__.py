"""The registries: a module each, with a class that has the methods of `nodes.registry.Registry`."""
