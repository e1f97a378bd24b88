"""What `portmap` does, a verb a module."""
